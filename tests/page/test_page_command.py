"""`codecswap page`: what is in the file, and what it refuses."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from codecswap import cli
from codecswap.page import onnxruntime_web
from codecswap.page.document import page

WORD = re.compile(r"\{\w+\}")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files in ONNX Runtime's place."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in onnxruntime_web.FILES:
        (folder / name).write_text(f"</script>{name}")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in onnxruntime_web.FILES}
    monkeypatch.setattr(onnxruntime_web, "FILES", digests)
    return folder


def parts(content: str) -> dict[str, bytes]:
    found = re.findall(r'<script type="text/plain" data-file="(\w+)">([\w+/=]+)</script>', content)
    return {name: gzip.decompress(base64.b64decode(packed)) for name, packed in found}


def test_everything_is_in_it(folders: dict[str, Path], stand_in: Path) -> None:
    folder = folders["latents"]
    content = page(folder, stand_in)
    assert content == page(folder, stand_in), "the same bytes again"
    script, program = ((stand_in / name).read_bytes() for name in onnxruntime_web.FILES)
    assert parts(content) == {
        "runtime": script,
        "runtime_wasm": program,
        "csw": (files("codecswap.page") / "codecswap.wasm").read_bytes(),
        "entropy": (folder / "entropy.bin").read_bytes(),
        "decoder": (folder / "decoder.onnx").read_bytes(),
        "encoder": (folder / "encoder.onnx").read_bytes(),
    }
    assert "encoder" not in parts(page(folders["split_inputs"], stand_in))
    code = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    assert len(code) == 1 and policy and f"'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1] and not re.search(r"https?:|\*|connect-src|'unsafe-eval'", policy[1])
    assert not re.search(r'(src|href)="(?!#|data:)', content)


def test_a_hostile_name_stays_text(folders: dict[str, Path], stand_in: Path, tmp_path: Path) -> None:
    shutil.copytree(folders["latents"], tmp_path / "codec")
    manifest = json.loads((tmp_path / "codec" / "codec.json").read_text())
    manifest["name"] = "</title></script><script>alert(1)</script> {{script}}"
    (tmp_path / "codec" / "codec.json").write_text(json.dumps(manifest))
    content = page(tmp_path / "codec", stand_in)
    assert "<script>alert" not in content and content.count("<script>") == 1
    data = json.loads(re.findall(r'id="data">(.*?)</script>', content, re.DOTALL)[0])
    assert data["codec"]["name"] == manifest["name"]


def test_bad_input_is_one_sentence_and_leaves_nothing(
    folders: dict[str, Path], stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "decoder.html"
    for name in ("no decoder", "damaged"):
        shutil.copytree(folders["latents"], tmp_path / name)
    manifest = json.loads((tmp_path / "no decoder" / "codec.json").read_text())
    (tmp_path / "no decoder" / "codec.json").write_text(json.dumps(manifest | {"decoder": None}))
    (tmp_path / "damaged" / "decoder.onnx").write_bytes(b"another")
    good = ["--onnxruntime_web", str(stand_in), "--output", str(output)]
    cases = {
        "Name the codec": good,
        "is no exported codec": [*good, "--codec", str(tmp_path)],
        "holds no decoder": [*good, "--codec", str(tmp_path / "no decoder")],
        "is not the one that codec.json": [*good, "--codec", str(tmp_path / "damaged")],
        "lacks ort": [*good, "--codec", str(folders["latents"]), "--onnxruntime_web", str(tmp_path)],
    }
    for sentence, arguments in cases.items():
        assert cli.main(["page", *arguments]) == 2, sentence
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    assert not list(tmp_path.glob("*.html*"))
    assert cli.main(["page", *good, str(folders["latents"])]) == 0
    assert output.read_text(encoding="utf-8") == page(folders["latents"], stand_in)
    assert cli.main(["page", *good[:2], str(folders["latents"]), "--output", str(tmp_path / "damaged")]) == 0
    assert (tmp_path / "damaged" / "decoder.html").read_bytes() == output.read_bytes()


def test_words() -> None:
    folder = files("codecswap.page")
    words = tomllib.loads((folder / "words.toml").read_text("utf-8"))
    for key, said in words.items():
        assert set(said) == {"en", "ja"} and all(said.values()), key
        if not key.startswith("csw_"):
            assert set(WORD.findall(said["en"])) == set(WORD.findall(said["ja"])), key
    page_source = "".join((folder / name).read_text("utf-8") for name in ("page.html", "page.js"))
    source = page_source + (folder / "worker.js").read_text("utf-8")
    unused = {key for key in words if not key.startswith("csw_") and not re.search(rf'"{key}"', source)}
    assert not unused
    pattern = r'(?:data-word="|data-label="|word\("|key: "|word: "|^ +\[")(\w+)"'
    named = set(re.findall(pattern, page_source, re.MULTILINE)) | set(re.findall(r'Problem\("(\w+)', source))
    assert named <= set(words), named - set(words)
    header = (Path(__file__).parents[2] / "c" / "codecswap.h").read_text("utf-8")
    errors = re.findall(r"^    CSW_\w+", header[: header.index("} csw_error;")], re.MULTILINE)
    assert {f"csw_{code}" for code in range(1, len(errors))} == {key for key in words if key.startswith("csw_")}
