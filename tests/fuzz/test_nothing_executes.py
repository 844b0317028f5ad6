"""Nothing in a file is ever run: by the package's source, and by files that try."""

import ast
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fuzz_archives import CODE
from fuzz_seeds import make_seeds

import codecswap
from codecswap.codecs import source as codecs
from codecswap.codecs.source import load_codec
from codecswap.errors import UserError
from codecswap.students.checkpoint import read_student

PACKAGE = Path(codecswap.__file__).parent
FORBIDDEN = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
}
FORBIDDEN |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "shelve.open", "torch.hub.load"}
FORBIDDEN |= {"torch.hub.load_state_dict_from_url", "load_state_dict_from_url", "torch.jit.load", "joblib.load"}
FORBIDDEN |= {"torch.serialization.add_safe_globals", "shutil.unpack_archive", "tarfile.open"}


def calls(source: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Every call: the name as it is written, and its named arguments where they are constants."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            named = {word.arg or "**": getattr(word.value, "value", None) for word in node.keywords}
            yield ast.unparse(node.func), named


def complaints(source: str) -> list[str]:
    """What must not stand in the package's source."""
    found = []
    for name, named in calls(source):
        if name in FORBIDDEN or name.rpartition(".")[2] in ("extractall", "unsafe_load"):
            found.append(name)
        if named.get("shell") not in (None, False):
            found.append(f"{name} with a shell")
        if name == "torch.load" and named.get("weights_only") is not True:
            found.append("torch.load of more than weights")
        if name.endswith(".fit") and "ckpt_path" in named and named.get("weights_only") is not True:
            found.append("a resumed checkpoint of more than weights")
        if named.get("allow_pickle") not in (None, False):
            found.append(f"{name} with pickles")
        if name == "Image.open" and "formats" not in named:
            found.append("Image.open of any format")
    return found


OWN_BYTES = {"demo.py", "evaluation/anchors.py"}
"""These open the package's own photographs, and what they have just encoded."""
IN_MEMORY = {"page/onnxruntime_web.py", "archives/folder.py", "archives/verify.py", "data/sources.py"}
"""These write tar files or read their members in memory; nothing is unpacked by the names in them."""
OWN_MODULE = {"runner/networks.py"}
"""It loads the module that `codecswap benchmark` has just sent to it, on the same machine."""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_never_runs_what_it_reads(path: Path) -> None:
    found = complaints(path.read_text("utf-8"))
    if str(path.relative_to(PACKAGE)) in OWN_BYTES:
        found = [line for line in found if line != "Image.open of any format"]
    if str(path.relative_to(PACKAGE)) in IN_MEMORY:
        found = [line for line in found if line != "tarfile.open"]
    if str(path.relative_to(PACKAGE)) in OWN_MODULE:
        found = [line for line in found if line != "torch.load of more than weights"]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "yaml.load(x, Loader=yaml.Loader)",
        "archive.extractall()",
        "np.load(p, allow_pickle=True)",
        "Image.open(path)",
        "trainer.fit(m, ckpt_path=p)",
    ],
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert complaints(line)
    assert not complaints("model.eval(); torch.load(p, weights_only=True); subprocess.run([x])")


started: list[str] = []
_listening = False


@pytest.fixture
def audit() -> list[str]:
    """What is started or unpickled from now on (an audit hook stays until the process ends)."""
    global _listening

    def hook(event: str, arguments: tuple) -> None:
        if event in ("os.system", "subprocess.Popen", "os.posix_spawn", "os.exec", "pickle.find_class"):
            started.append(event)

    if not _listening:
        sys.addaudithook(hook)
        _listening = True
    started.clear()
    return started


class Harmful:
    def __reduce__(self):
        return (exec, ("import os; os.system('touch PWNED')",))


FORMS = [True, False]
"""PyTorch's zip, and its format before that."""


@pytest.mark.parametrize("zipped", FORMS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_checkpoint_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: list[str], zipped: bool, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    content = {"student_state": {"g_a.0.weight": torch.zeros(2)}, "extra": Harmful()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    for load in (read_student, load_codec):
        with pytest.raises(UserError) as caught:
            load(str(path))
        assert "\n" not in str(caught.value)
        assert re.search(r"holds code \((builtins|__builtin__)\.exec\), which is never run", str(caught.value))
    assert not audit and {entry.name for entry in tmp_path.iterdir()} == {"x.pt"}


@pytest.mark.parametrize("code", CODE)
def test_bare_pickles_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: list[str], code: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(code)
    with pytest.raises(UserError):
        load_codec("x.pth")
    assert not audit and {entry.name for entry in tmp_path.iterdir()} == {"x.pth"}


def test_the_zoos_file_is_read_as_carefully(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: list[str]) -> None:
    """CompressAI's own loader unpickles whatever was downloaded, or put into the cache."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = folder / "bmshj2018-factorized-prior-3-5c6f152b.pth.tar"
    path.write_bytes(pickle.dumps({"g_a.0.weight": Harmful()}, protocol=2))
    with pytest.raises(UserError, match="holds code"):
        load_codec(quality=3)
    assert not audit
    make_seeds(tmp_path / "seeds")
    path.write_bytes((tmp_path / "seeds" / "pth" / "plain").read_bytes())
    assert load_codec(quality=3).N == 8
    assert codecs.Teacher(None, 3, "mse").name.endswith("quality 3 (mse)")
