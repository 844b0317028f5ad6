"""No release of a dependency that is known to be bad can be resolved; CI installs locked ones; the audit tells the truth."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")

# The newest release known to be bad, and why. It and all that came before count as bad, so a lower bound above it, or a
# pinned release above it, is safe from everything known. Beside the packages that we name stand those that come with
# them. Raise a row when an advisory comes out; `make check` finds them where a database can be reached.
LAST_BAD = {
    "aiohttp": ("3.14.2", "CVE-2026-69244"),
    "certifi": ("2024.6.2", "CVE-2024-39689"),
    "click": ("8.3.1", "PYSEC-2026-2132"),
    "filelock": ("4.1.0", "CGA-2635-jj59-6wp4; CVE-2025-68146"),
    "fonttools": ("4.60.1", "CVE-2025-66034"),
    "h11": ("0.15.0", "CVE-2025-43859"),
    "idna": ("3.14", "fixed in 3.15; CVE-2024-3651"),
    "ipython": ("8.9.0", "CVE-2023-24816"),
    "jinja2": ("3.1.5", "CVE-2025-27516"),
    "jupyter-core": ("5.7.2", "CVE-2025-30167"),
    "lightning": ("2.6.5", "CVE-2026-58659; compromised 2.6.2 and 2.6.3: CVE-2026-44484, GHSA-w37p-236h-pfx3"),
    "msgpack": ("1.1.2", "GHSA-6v7p-g79w-8964"),
    "numpy": ("1.19.0", "CVE-2021-41495"),
    "onnx": ("1.21.0", "CVE-2026-44512; CVE-2026-27489, CVE-2026-28500, CVE-2026-34445 to 34447, CVE-2026-49114"),
    "pillow": ("12.3.0", "CGA-mcjc-78jm-chh3; CVE-2026-55798, CVE-2026-59197 to 59200, CVE-2026-40192"),
    "pip": ("26.1.2", "PYSEC-2026-3721; CVE-2026-8643, CVE-2026-3219, CVE-2026-1703, CVE-2025-8869"),
    "playwright": ("1.55.0", "CVE-2025-59288"),
    "protobuf": ("6.33.4", "CVE-2026-0994"),
    "pygments": ("2.19.2", "CVE-2026-4539"),
    "pytest": ("9.0.2", "CVE-2025-71176"),
    "pytorch-lightning": ("2.6.5", "PYSEC-2026-3967; compromised 2.6.2 and 2.6.3: CVE-2026-44484"),
    "pyyaml": ("5.3.1", "CVE-2020-14343"),
    "ray": ("2.53.0", "CVE-2026-27482; CVE-2025-62593"),
    "requests": ("2.32.5", "fixed in 2.33.0; CVE-2024-47081"),
    "scipy": ("1.9.3", "CVE-2023-25399"),
    "setuptools": ("82.0.1", "CVE-2026-59890; CVE-2025-47273, CVE-2024-6345"),
    "torch": ("2.9.1", "CVE-2026-24747: torch.load(weights_only=True) corrupts memory; CVE-2025-32434"),
    "tornado": ("6.5.6", "CVE-2026-49853 to 49855"),
    "tqdm": ("4.66.2", "CVE-2024-34062"),
    "urllib3": ("2.6.3", "fixed in 2.7.0; CVE-2026-21441"),
    "uv": ("0.9.5", "CVE-2025-13327"),
    "wandb": ("0.28.2", "CVE-2026-91771"),
    "wheel": ("0.46.1", "CVE-2026-24049"),
}

# Advisories for releases above that, in parts that codecswap does not call: the newest release affected, and what a call
# would look like. The lock is above them too. So PyTorch 2.10 to 2.12 may stay where it comes with the machine.
NOT_CALLED = {
    "CVE-2025-3000": ("torch", "2.12.1", r"torch\.jit\b|\bjit\.script|from torch import .*\bjit\b"),
    "CVE-2026-4538": (
        "torch",
        "2.10.0",
        r"torch\.export\.load|from torch(\.export)? import .*\b(load|export)\b|\.pt2\b|aoti?_load",
    ),
}


def declared() -> list[Requirement]:
    """Every dependency that pyproject.toml names, for use, for extras and for building."""
    project = PROJECT["project"]
    named = [*PROJECT["build-system"]["requires"], *project["dependencies"]]
    named += [line for extra in project["optional-dependencies"].values() for line in extra]
    return [line for line in map(Requirement, named) if line.name != project["name"]]  # (an extra may include another)


def wanted_in_the_lock() -> dict[str, Requirement]:
    """What is declared for the Pythons of the lock, by name."""
    here = {"python_version": "3.11", "python_full_version": "3.11.0"}
    return {canonicalize_name(line.name): line for line in declared() if not line.marker or line.marker.evaluate(here)}


def locked() -> dict[str, set[Version]]:
    """The releases of requirements.lock; more than one where platforms or Pythons need different ones."""
    releases: dict[str, set[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, re.MULTILINE):
        releases.setdefault(canonicalize_name(name), set()).add(Version(version))
    return releases


def lowest(requirement: Requirement) -> Version | None:
    """The oldest release that a requirement lets in, or None where there is no lower bound."""
    bounds = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==", "~=", ">")]
    return max(bounds, default=None)


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_ranges_begin_above_every_bad_release(requirement: Requirement) -> None:
    least, name = lowest(requirement), canonicalize_name(requirement.name)
    assert least, f"{name} has no lower bound: any old release of it can be resolved"
    if name in LAST_BAD:
        bad, why = LAST_BAD[name]
        assert least > Version(bad), f"{requirement} lets {name} {bad} in: {why}"


@pytest.mark.parametrize("release", ["2.6.2", "2.6.3"])
@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
def test_compromised_lightning_is_out(name: str, release: str) -> None:
    assert not wanted_in_the_lock()[name].specifier.contains(release, prereleases=True)
    assert Version(release) not in locked()[name]


@pytest.mark.parametrize("advisory", NOT_CALLED)
def test_an_advisory_that_is_let_in_is_about_what_we_do_not_call(advisory: str) -> None:
    name, newest, call = NOT_CALLED[advisory]
    assert Version(newest) > Version(LAST_BAD[name][0]) and min(locked()[name]) > Version(newest)
    for file in (ROOT / "src").rglob("*.py"):
        assert not re.search(call, file.read_text(encoding="utf-8")), f"{file} calls what {advisory} is about"
    assert advisory in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_pytorch_is_loaded_with_weights_only() -> None:
    calls = [
        call
        for file in (ROOT / "src").rglob("*.py")
        if file.parent.name != "runner"  # loads what `codecswap benchmark` has just sent to it
        for call in re.findall(r"torch\.load\([^\n]*", file.read_text(encoding="utf-8"))
    ]
    assert calls and all("weights_only=True" in call for call in calls)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_base_install_takes_every_python_and_both_numpys(python: str) -> None:
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{python}.1")
    base = {line.name: line for line in map(Requirement, PROJECT["project"]["dependencies"])}
    assert not any(line.marker for line in base.values())
    assert all(base["numpy"].specifier.contains(release) for release in ("1.26.0", "2.1.0", "2.5.5"))


def test_training_asks_for_nothing_that_python_3_13_does_not_have() -> None:
    """There CompressAI is installed with --no-deps, and what it asks for is declared, but for numpy<2 and build tools."""
    python = {"python_version": "3.13", "python_full_version": "3.13.1"}
    train = list(map(Requirement, PROJECT["project"]["optional-dependencies"]["train"]))
    names = {canonicalize_name(line.name) for line in train if not line.marker or line.marker.evaluate(python)}
    assert "compressai" not in names
    needs = [Requirement(line) for line in requires("compressai") or []]
    needs = [canonicalize_name(line.name) for line in needs if not (line.marker and "extra" in str(line.marker))]
    assert set(needs) - names == {"numpy", "pybind11", "setuptools", "tomli", "typing-extensions", "wheel"}


def test_the_lock_has_nothing_bad() -> None:
    bad = {
        f"{name} {release}: {LAST_BAD[name][1]}"
        for name, releases in locked().items()
        for release in releases
        if name in LAST_BAD and release <= Version(LAST_BAD[name][0])
    }
    assert not bad


def test_the_lock_is_what_pyproject_asks_for() -> None:
    releases = locked()
    for name, requirement in wanted_in_the_lock().items():
        assert name in releases, f"{name} is not locked: run `make lock`"
        for release in releases[name]:
            assert requirement.specifier.contains(release, prereleases=True), (
                f"{requirement}, but {release}: `make lock`"
            )


def test_the_lock_covers_what_dependencies_need() -> None:
    """From each declared dependency through what the installed packages ask for here."""
    releases, wanted = locked(), [(name, frozenset(line.extras)) for name, line in wanted_in_the_lock().items()]
    seen = set()
    while wanted:
        name, extras = step = wanted.pop()
        if step in seen:
            continue
        seen.add(step)
        assert name in releases, f"{name} is needed and not locked: run `make lock`"
        try:
            lines = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # an extra that this environment does without
            continue
        for line in lines:
            if any(not line.marker or line.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                wanted.append((canonicalize_name(line.name), frozenset(line.extras)))
    assert len(seen) > len(wanted_in_the_lock())


def test_every_locked_release_has_hashes() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.split("\n", 2)[2].strip())
    assert len(entries) >= len(locked())
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+( ; [^\n]+)? \\\n", entry), f"not one pinned release: {entry[:80]}"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), f"no hash: {entry[:80]}"


def test_ci_installs_the_lock() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\n.venv/installed:")[1].split("\n\n")[0]
    assert "--require-hashes --requirement requirements.lock" in recipe and "--no-deps" in recipe
    assert "pip install" not in (ROOT / ".ci" / "run").read_text(encoding="utf-8"), "CI installs through make"


# ---- the audit in `make check`


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    assert spec and spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


@contextmanager
def database(monkeypatch: pytest.MonkeyPatch, known: set[str], status: int = 200) -> Iterator[list[str]]:
    """A vulnerability database on this machine that knows the releases ``known``; yields what it was asked."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(release := f"{query['package']['name']}=={query['version']}")
            found = {"vulns": [{"id": "PYSEC-0000-1", "aliases": ["CVE-0000-1"], "affected": []}]}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(found if release in known else {}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_port}/v1/query")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "some.lock"
    path.write_text(
        "torch==2.14.1 \\\n    --hash=sha256:" + "0" * 64 + "\npillow==13.0.0 \\\n    --hash=sha256:" + "1" * 64
    )
    return path


def test_a_finding_fails_the_check(audit: ModuleType, lock: Path, monkeypatch, capsys) -> None:
    with database(monkeypatch, {audit.KNOWN_BAD, "pillow==13.0.0"}) as asked:
        assert audit.main(lock, ("osv",)) == 1
    assert set(asked) == {audit.KNOWN_BAD, "torch==2.14.1", "pillow==13.0.0"}
    printed = capsys.readouterr().out
    assert "pillow 13.0.0: PYSEC-0000-1 (CVE-0000-1)" in printed and "2 releases of some.lock, 1 with known" in printed


def test_no_finding_passes(audit: ModuleType, lock: Path, monkeypatch, capsys) -> None:
    with database(monkeypatch, {audit.KNOWN_BAD}):
        assert audit.main(lock, ("osv",)) == 0
    assert "2 releases of some.lock, 0 with known" in capsys.readouterr().out


@pytest.mark.parametrize("status", [200, 503])
def test_a_database_that_knows_nothing_or_fails_is_no_answer(audit, lock, status, monkeypatch, capsys) -> None:
    with database(monkeypatch, set(), status) as asked:
        assert audit.main(lock, ("osv",)) == 0
    assert set(asked) == {audit.KNOWN_BAD}, "the lock is asked about only where an answer means something"
    assert capsys.readouterr().out.startswith("Note: no vulnerability database")


def test_out_of_reach_is_one_note(audit: ModuleType, lock: Path, monkeypatch, capsys) -> None:
    with database(monkeypatch, set()):
        pass  # its port is closed now
    assert audit.main(lock, ("osv",)) == 0
    assert capsys.readouterr().out.count("\n") == 1
