"""A runtime that does not compute what a quantized file means is found out: when quantizing, and when opening."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from saturating import SaturatingSession

from codecswap import cli
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.pictures import load_picture
from codecswap.data.samples import sample_pictures
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.export.codec import quantize
from codecswap.graph import onnx_graph as graph
from codecswap.inference import check, runtime
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap

open_session = runtime.open_session


def saturate(
    model: bytes, threads: int | None = None, *, reference: bool = False, wide_sums: bool | None = None
) -> Any:
    """`codecswap.inference.runtime.open_session` of a runtime that overflows and knows no option against it."""
    return (
        SaturatingSession(model)
        if b"QuantizeLinear" in model and not reference
        else open_session(model, threads, reference=reference, wide_sums=wide_sums)
    )


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "open_session", saturate)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bool | None]:
    """``wide_sums`` of each session, on a processor that overflows without them."""
    asked: list[bool | None] = []

    def open_there(model: bytes, threads: int | None = None, *, reference: bool = False, wide_sums: bool | None = None):
        asked.append(wide_sums)
        if wide_sums or reference or b"QuantizeLinear" not in model:
            return open_session(model, threads, reference=reference, wide_sums=wide_sums)
        return SaturatingSession(model)

    monkeypatch.setattr(runtime, "open_session", open_there)
    return asked


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The embedded codec with weights of 7 and 8 bits, and both networks with a fixed size."""
    root = tmp_path_factory.mktemp("quantized")
    codec, _ = swap(load_codec("tiny"), "subpixel")
    samples = list(islice(sample_pictures(None, "", "train", (192, 128)), 3))
    every = {
        "7": {"weight_bits": 7},
        "8": {},
        "fixed": {"part": "both", "refit": False, "height": 128, "width": 192},
    }
    for name, options in every.items():
        quantize(codec, root / name, calibration_images=samples, **options)
    yield {name: root / name for name in every}


def decode_something(folder: Path) -> np.ndarray:
    codec = OnnxCodec(folder, threads=1)
    height, width = codec.manifest.height or 64, codec.manifest.width or 48
    return codec.synthesize(np.ones((codec.manifest.M, height // 16, width // 16), np.int32))


def altered(folder: Path, target: Path, **values: object) -> Path:
    """A copy of a folder with other entries in codec.json; None: the entry is left out."""
    shutil.copytree(folder, target)
    content = json.loads((target / "codec.json").read_bytes()) | values
    content = {key: value for key, value in content.items() if values.get(key, 0) is not None}
    (target / "codec.json").write_text(json.dumps(content), "utf-8")
    return target


def test_weights_of_7_bits_cannot_overflow(folders: dict[str, Path]) -> None:
    for name, most in (("7", 64), ("fixed", 127), ("8", 127)):
        stored = graph.weights(onnx.load(folders[name] / "decoder.onnx"))
        weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 4]
        assert len(weights) == 7
        assert max(np.abs(weight.astype(int)).max() for weight in weights) == most
    assert 2 * 255 * 64 < 1 << 15


def test_an_overflowing_runtime_is_found_out_when_a_folder_is_opened(
    folders: dict[str, Path], overflowing: None
) -> None:
    assert np.isfinite(decode_something(folders["7"])).all()
    for _ in range(2):  # not only the first time
        with pytest.raises(UserError) as caught:
            decode_something(folders["8"])
    assert "ONNX Runtime" in str(caught.value) and "--weight_bits 7" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "saturates", "asked"),
    [("7", False, [False]), ("8", False, [False, True]), ("8", True, [True])],
    ids=["nothing overflows", "the check finds it", "the processor is known"],
)
def test_wide_sums_only_where_they_are_needed(
    folders: dict[str, Path],
    opened: list[bool | None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    saturates: bool,
    asked: list[bool],
) -> None:
    monkeypatch.setattr(runtime, "saturates", lambda: saturates)
    found = decode_something(folders[name])
    assert opened == asked
    codec = OnnxCodec(folders[name], threads=1, reference=True)
    reference = codec.synthesize(np.ones((codec.manifest.M, 4, 3), np.int32))
    assert check.agreement("decoder", found, reference) > 60


@pytest.mark.parametrize(("most", "saturates"), [((1 << 15) - 1, True), (1 << 31, False)])
def test_the_probe_knows_saturated_sums(monkeypatch: pytest.MonkeyPatch, most: int, saturates: bool) -> None:
    """Products of 255 and 127 that add up in pairs, clipped at 32,767 or not."""

    class Session:
        def __init__(self, content: bytes, providers: list[str]) -> None:
            onnx.checker.check_model(onnx.load_from_string(content), full_check=True)

        def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            a, b = (feeds[key].astype(np.int64) for key in "ab")
            pairs = [a[:, at : at + 2] @ b[at : at + 2] for at in range(0, a.shape[1], 2)]
            return [sum(pair.clip(-most, most) for pair in pairs)]

    monkeypatch.setattr(check.onnxruntime, "InferenceSession", Session)
    assert check.saturates.__wrapped__() is saturates


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "code"), [("7", 0), ("8", 2)])
def test_an_overflowing_runtime_is_found_out_when_quantizing(
    overflowing: None, tmp_path: Path, capsys: pytest.CaptureFixture, bits: str, code: int
) -> None:
    folder = tmp_path / "int8"
    arguments = ["quantize", "--teacher", "tiny", "--output", str(folder), "--weight_bits", bits]
    small = ["--height", "64", "--width", "64", "--calibration_count", "2"]
    assert cli.main([*arguments, *small]) == code
    printed = capsys.readouterr()
    if code:
        assert "decoder.onnx is computed wrongly here" in printed.err and printed.err.strip().count("\n") == 0
        assert "Written" not in printed.out and not folder.exists()
    else:
        assert "reference execution" in printed.out and (folder / "codec.json").is_file()


@pytest.mark.parametrize("name", ["7", "8", "fixed"])
def test_this_processor_computes_what_files_mean(folders: dict[str, Path], name: str) -> None:
    codec, reference = OnnxCodec(folders[name], threads=1), OnnxCodec(folders[name], threads=1, reference=True)
    samples = list(islice(sample_pictures(None, "", "val", (192, 128)), 2))
    native = TorchCodec(load_codec("tiny"))
    quantized = [bitstream.to_symbols(native, one) for one in samples]
    symbols, means = ([getattr(one, name) for one in quantized] for name in ("symbols", "means"))
    found = check.measure_agreement(codec, reference, samples, symbols, means)
    assert set(found) == ({"encoder", "decoder"} if name == "fixed" else {"decoder"})
    assert min(found.values()) > 60


def test_checks_are_what_the_file_means(folders: dict[str, Path]) -> None:
    codec = OnnxCodec(folders["7"], threads=1, reference=True)
    decoded = bitstream.decode(codec, (folders["7"] / "check_decoder.csw").read_bytes())
    shown = load_picture(folders["7"] / "check_decoder.png")
    assert shown.size == (128, 128)
    assert np.abs(np.asarray(decoded, int) - np.asarray(shown, int)).max() <= 1  # as far as processors differ


@pytest.mark.parametrize("name", ["check_decoder.csw", "check_decoder.png"])
def test_damaged_checks_are_one_sentence(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = altered(folders["7"], tmp_path / "damaged")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-99])
    with pytest.raises(UserError, match=f"{name} is not the one"):
        decode_something(folder)
    hashes = json.loads((folder / "codec.json").read_bytes())["checks"]
    hashes[name] = hashlib.sha256(content[:-99]).hexdigest()
    forged = altered(folder, tmp_path / "forged", checks=hashes)
    with pytest.raises(UserError, match="checks that cannot be read"):
        decode_something(forged)


@pytest.mark.parametrize("value", [[], 5, {"../x": "0"}, {"check_decoder.csw": 5}])
def test_manifests_with_other_checks_are_refused(folders: dict[str, Path], tmp_path: Path, value: object) -> None:
    with pytest.raises(UserError, match="damaged"):
        OnnxCodec(altered(folders["7"], tmp_path / "x", checks=value))
