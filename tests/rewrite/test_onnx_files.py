"""``codecswap rewrite``: files in, files out, and one sentence where that does not go."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, numpy_helper
from onnx_models import one_node, operators

from codecswap import cli
from codecswap.errors import UserError
from codecswap.rewrite import model_file, rewriting
from codecswap.rewrite.rewriting import rewrite
from codecswap.rewrite.runs import difference, session

RANDOM = np.random.default_rng(5)
WEIGHT = RANDOM.standard_normal((4, 3, 4, 4)).astype(np.float32)
HOW: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(one_node(WEIGHT, ["h", "w"], batch="n", **HOW), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def run(*words: object) -> int:
    return cli.main(["rewrite", *map(str, words)])


def test_one_command_writes_a_verified_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = path.with_name("out.onnx"), path.with_name("report.json")
    real = path.with_name("real.npz")
    np.savez(real, x=RANDOM.standard_normal((1, 4, 7, 9)).astype(np.float32))
    assert run(path, "-o", out, "--inputs", real, "--time", "--report", report) == 0
    said = capsys.readouterr().out
    assert "1.03 x" in said and "x [1, 4, 7, 9]" in said and "ms after" in said
    assert operators(onnx.load(out)) == {"Conv", "DepthToSpace", "Slice"}
    found = json.loads(report.read_text("utf-8"))
    (node,) = found["nodes"]
    assert node["form"] == "subpixel" and node["error"] < 1e-6 and found["error"] < 1e-6
    assert node["multiply_adds"][0] == 4 * 3 * 16 * 64 * 64 and found["milliseconds"][0] > 0
    assert len(found["runs"]) == 3
    assert sorted(one.name for one in path.parent.iterdir()) == ["model.onnx", "out.onnx", "real.npz", "report.json"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--operators", "Conv,Reshape,Concat,Transpose,Slice"], "phases"),
        (["--target", "rk3588"], "subpixel"),
        (["--target", "ethos-u55"], None),  # it has ConvTranspose, and nothing here is to be mended
        (["--form", "phases"], "phases"),
    ],
)
def test_operators_and_targets_choose(
    path: Path, words: list[str], wanted: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(path, *words) == (0 if wanted else 2)
    assert (wanted or "native") in capsys.readouterr().out
    assert path.with_name("model.rewritten.onnx").exists() == bool(wanted)


def test_the_fastest_form_on_this_machine(path: Path) -> None:
    done = rewrite(path, path.with_name("out.onnx"), target="cpu")
    assert done.nodes[0].form in ("native", "subpixel", "phases")


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_other_types(tmp_path: Path, kind: str) -> None:
    import ml_dtypes

    weight = WEIGHT.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    model = one_node(weight, [6, 6], opset=22 if kind == "bfloat16" else 13, **HOW)
    onnx.save(model, tmp_path / "model.onnx")
    for form in ("subpixel", "masked"):
        done = rewrite(tmp_path / "model.onnx", tmp_path / "out.onnx", form=form)
        assert done.nodes[0].error is not None and done.nodes[0].error < 1e-6
        assert bool(done.skipped) == (kind != "float16"), "ONNX Runtime has it in float32 and float16 only"
        rewritten = onnx.load(tmp_path / "out.onnx")
        onnx.checker.check_model(rewritten, full_check=True)
        kinds = {one.data_type for one in rewritten.graph.initializer if len(one.dims) == 4}
        assert kinds == {onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)}


def with_external_data(folder: Path, location: str = "weights.bin") -> Path:
    folder.mkdir()
    model = one_node(WEIGHT, [6, 6], bias=np.ones(3, np.float32), **HOW)
    other = numpy_helper.from_array(RANDOM.standard_normal(999).astype(np.float32), "other")
    model.graph.initializer.append(other)
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["other"], ["z"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "model.onnx"


def test_external_data_is_carried_along(tmp_path: Path) -> None:
    path = with_external_data(tmp_path / "in")
    out = tmp_path / "made" / "out.onnx"
    rewrite(path, out)
    assert sorted(one.name for one in out.parent.iterdir()) == ["out.onnx", "out.onnx.data"]
    x = RANDOM.standard_normal((1, 4, 6, 6)).astype(np.float32)
    wanted, found = (session(file).run(None, {"x": x}) for file in (path, out))
    assert difference(["y", "z"], wanted, found).error < 1e-6


BASE_INSTALL = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "compressai", "lightning", "pytorch_lightning", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from codecswap import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_the_base_install_and_onnx_are_enough(tmp_path: Path) -> None:
    path = with_external_data(tmp_path / "in")
    words = ["rewrite", path, "--output", tmp_path / "out.onnx", "--target", "rk3588", "--time"]
    done = subprocess.run([sys.executable, "-c", BASE_INSTALL, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ConvTranspose" not in operators(onnx.load(tmp_path / "out.onnx"))


def test_what_is_larger_than_a_file_may_be_goes_outside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "MOST_INLINE", 500)
    monkeypatch.setattr(model_file, "LEAST_EXTERNAL", 100)
    rewrite(path, path.with_name("out.onnx"))
    stored = onnx.load(path.with_name("out.onnx"), load_external_data=False).graph.initializer
    assert any(external_data_helper.uses_external_data(tensor) for tensor in stored)
    x = RANDOM.standard_normal((1, 4, 6, 6)).astype(np.float32)
    wanted, found = (session(file).run(None, {"x": x}) for file in (path, path.with_name("out.onnx")))
    assert difference(["y"], wanted, found).error < 1e-6


def spoil(path: Path, how: str) -> Path:
    """Make a file that cannot be rewritten; returns its path."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("<html>Not found</html>")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "nothing":
        model = onnx.load(path)
        model.graph.node[0].op_type = "Conv"
        onnx.save(model, path)
    elif how == "old":
        model = onnx.load(path)
        model.opset_import[0].version = 6
        onnx.save(model, path)
    elif how == "weight":
        model = onnx.load(path)
        model.graph.initializer[0].dims[0] = 1 << 40
        onnx.save(model, path)
    else:
        path = with_external_data(path.parent / "external")
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == ("offset" if how == "offset" else "location"):
                    entry.value = {"offset": str(1 << 60), "outside": "../model.onnx", "absolute": "/etc/passwd"}.get(
                        how, "-"
                    )
        onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("missing", "There is no ONNX file"),
        ("empty", "an empty file, not an ONNX file"),
        ("text", "ONNX"),
        ("half", "damaged"),
        ("nothing", "no ConvTranspose"),
        ("old", "opset 6"),
        ("weight", "No node was changed"),
        ("offset", "than is in it"),
        ("outside", "outside of its folder"),
        ("absolute", "outside of its folder"),
        ("gone", "missing"),
    ],
)
def test_wrong_files_get_one_sentence(path: Path, how: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = spoil(path, how)
    before = sorted(path.parent.rglob("*"))
    assert run(path, "-o", path.with_name("out.onnx")) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and "Traceback" not in said
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_never_end_in_a_stack_trace(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    content = bytearray(one_node(WEIGHT, [6, 6], bias=np.ones(3, np.float32), **HOW).SerializeToString())
    header = [place for place in range(len(content)) if place < 60 or place > len(content) - 120]
    for place in random.choice(header, random.integers(1, 4)):
        content[place] = random.integers(256)
    (tmp_path / "model.onnx").write_bytes(bytes(content))
    try:
        done = rewrite(tmp_path / "model.onnx", tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx").exists() == (done.output is not None)
    except UserError as error:
        assert "\n" not in str(error)
        assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [({"y": np.zeros((1, 4, 6, 6), np.float32)}, "inputs are x"), ({"x": np.zeros(3, np.float32)}, "does not take")],
)
def test_wrong_inputs(path: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        rewrite(path, path.with_name("out.onnx"), inputs=arrays)
    np.savez(path.with_name("objects.npz"), x=np.array([{}], dtype=object))
    for wrong in (path, path.with_name("objects.npz"), path.with_name("none.npz")):
        with pytest.raises(UserError, match="npz"):
            rewrite(path, path.with_name("out.onnx"), inputs=wrong)
    assert not path.with_name("out.onnx").exists()


def test_a_wrong_result_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "codecswap.rewrite.constants.arrange", lambda weight, *rest, **more: np.zeros((12, 4, 2, 2), "f")
    )
    with pytest.raises(UserError, match="node up in the form subpixel differs"):
        rewrite(path, path.with_name("out.onnx"))
    monkeypatch.setattr(rewriting, "verify_nodes", lambda *rest: None)
    with pytest.raises(UserError, match=r"The rewritten model differs from the original by .* at y"):
        rewrite(path, path.with_name("out.onnx"))
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]


def test_a_model_that_amplifies_rounding_is_written_and_says_so(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e6, np.float32), "much"))
    model.graph.node.extend(
        [onnx.helper.make_node("Mul", ["y", "much"], ["z"]), onnx.helper.make_node("Sin", ["z"], ["sine"])]
    )
    model.graph.output[0].name = "sine"
    onnx.save(model, path)
    assert run(path, "-o", path.with_name("out.onnx")) == 0
    assert "amplifies rounding" in capsys.readouterr().out.replace("\n", " ")
    assert sorted(one.name for one in path.parent.iterdir()) == ["model.onnx", "out.onnx"]


def test_the_input_is_not_overwritten(path: Path) -> None:
    with pytest.raises(UserError, match="name another one"):
        rewrite(path, path)
