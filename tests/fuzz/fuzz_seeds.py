"""Valid inputs of every format: what the fuzzing starts from, made from a small codec and a drawn picture."""

import io
import json
import re
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from codecswap import config
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.entropy import bitstream
from codecswap.entropy.tables import EntropyTables
from codecswap.export.backends.onnx import write_onnx
from codecswap.export.folder import write_float
from codecswap.graph.lower import lower, take_split_inputs
from codecswap.graph.trace import open_shape, trace
from codecswap.inference.folder import read_folder, write_folder
from codecswap.inference.manifest import Manifest, describe_network
from codecswap.inference.split_inputs import SplitInputs
from codecswap.swaps.apply import swap

N, M = 8, 12
EXPORTED, SPLIT_INPUTS = "exported", "split_inputs"
"""Folders of the exported codec, and of one whose decoder takes split inputs."""


def make_seeds(root: Path) -> None:
    """Write ``root/FORMAT/NAME`` for every format, and the exported codecs that some of them belong to."""
    torch.manual_seed(0)
    codec = FactorizedPrior(N, M)
    with torch.no_grad():  # tables of differing lengths, and medians beside the whole numbers
        codec.entropy_bottleneck.quantiles.mul_(torch.rand(M, 1, 1) + 0.3).add_(torch.rand(M, 1, 1))
    codec.update()
    codec.eval().requires_grad_(False)
    files = {
        "csw": _coded(codec.entropy_tables()),
        "pt": _students(codec),
        "pth": _teachers(codec),
        "tables": {"small": codec.entropy_tables().to_json().encode()},
        "yaml": _yamls(),
        "toml": {"target": _TARGET},
        "prepared": {"manifest": _MANIFEST},
        "zip": _zips(),
        **_pictures(),
    }
    tensors = {name: value.clone().contiguous() for name, value in codec.state_dict().items()}
    (root / "safetensors").mkdir(parents=True)
    save_file(tensors, root / "safetensors" / "codec")
    _export(codec, root)
    files["manifest"] = {name: (root / name / "codec.json").read_bytes() for name in (EXPORTED, SPLIT_INPUTS)}
    files["onnx"] = {name: (root / EXPORTED / f"{name}.onnx").read_bytes() for name in ("encoder", "decoder")}
    for format, contents in files.items():
        for name, content in contents.items():
            (root / format).mkdir(parents=True, exist_ok=True)
            (root / format / name).write_bytes(content)


def _export(codec: FactorizedPrior, root: Path) -> None:
    manifest = write_float(codec, root / EXPORTED, name="small")
    _, tables = read_folder(root / EXPORTED)
    folder = root / SPLIT_INPUTS
    folder.mkdir()
    taken = take_split_inputs(lower(codec.g_s), SplitInputs.for_tables(tables), tables.medians)
    assert taken
    transform, split_inputs = taken
    path = folder / "decoder.onnx"
    shape = open_shape("split_inputs", len(split_inputs.channels) + 1, None)
    write_onnx(trace(transform, input="split_inputs", shape=shape, output="picture", prefix="g_s"), path, 13)
    parts = {
        "encoder": None,
        "decoder": describe_network(path, "split_inputs", "picture"),
        "split_inputs": split_inputs,
    }
    write_folder(folder, Manifest(**(vars(manifest) | parts)), tables)


def _coded(tables: EntropyTables) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    result = {}
    for height, width, spread in ((48, 64, 2), (33, 17, 5), (16, 16, 300), (5, 90, 3e3)):
        shape = (M, -(-height // 16), -(-width // 16))
        symbols = (rng.standard_normal(shape) * spread).astype(np.int32)
        result[f"{height}x{width}"] = bitstream.pack(symbols, (height, width), tables)
    return result


def _saved(content: object, **how: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)  # type: ignore[arg-type]
    return buffer.getvalue()


def _students(codec: FactorizedPrior) -> dict[str, bytes]:
    result = {}
    for replacement in ("upsample", "masked", "subpixel"):
        student, _ = swap(codec, replacement)
        record = {"N": N, "M": M, "replacement": replacement, "kernel_size": None, "teacher": None, "quality": 8}
        record |= {"metric": "mse", "teacher_sha256": "0" * 64, "same_latents": True}
        content = {"student_state": student.state_dict(), "codec": record, "config": asdict(config.DistillOptions())}
        result[replacement] = _saved(content | {"stage": "distill", "epoch": 3})
    result["recipe"] = _saved({"student_state": swap(codec, "upsample")[0].state_dict()})
    return result


def _teachers(codec: FactorizedPrior) -> dict[str, bytes]:
    state = codec.state_dict()
    without = FactorizedPrior(N, M).state_dict()  # its tables are empty
    return {
        "plain": _saved(state),
        "compressai": _saved({"epoch": 1, "state_dict": state, "optimizer": {"lr": 1e-4}}),
        "legacy": _legacy(state),
        "no tables": _saved(without),
    }


def _legacy(state: dict[str, torch.Tensor]) -> bytes:
    """PyTorch's format before zips; its names of storages are addresses, so there is only one, and it is renamed."""
    flat = torch.cat([value.flatten().float() for value in state.values()])
    parts = flat.split([value.numel() for value in state.values()])
    views = {name: part.view(value.shape) for (name, value), part in zip(state.items(), parts, strict=True)}
    data = _saved(views, _use_new_zipfile_serialization=False)
    return re.sub(rb"X....(\d{9,16})(?=[qr.ae])", b"X\x08\0\0\00012345678", data, flags=re.DOTALL)


def _yamls() -> dict[str, bytes]:
    options = {"distill": config.DistillOptions(), "epochs": {"epochs": 3, "lr": 1e-3, "teacher": "tiny"}}
    contents = {name: one if isinstance(one, dict) else asdict(one) for name, one in options.items()}
    return {name: yaml.safe_dump(content, sort_keys=False).encode() for name, content in contents.items()}


_TARGET = b"""name = "an NPU"
operators = ["Conv", "Mul", "Resize", "Sqrt"]
max_opset = 13
static_shapes = true
notes = ["a note"]
[limits.Resize]
mode = ["nearest"]
"""
_MANIFEST = json.dumps(
    {
        "settings": {"source": "train2017", "size": 224, "format": "jpg", "val_ratio": 0.02},
        "max_images": 100,
        "equal_names": {"a": ["a.jpg", "b/a.jpg"]},
        "counts": {"train": 98, "val": 2, "skipped": 0},
    }
).encode()


def drawing(width: int = 90, height: int = 70, mode: str = "RGB") -> Image.Image:
    """A picture with slopes, edges and noise."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([x * 255 // width, y * 255 // height, (x // 9 + y // 9) % 2 * 200], axis=-1)
    noise = np.random.default_rng(0).integers(0, 40, planes.shape)
    return Image.fromarray((planes + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def _picture(format: str, mode: str = "RGB", **how: object) -> bytes:
    buffer = io.BytesIO()
    drawing(mode=mode).save(buffer, format, **how)
    return buffer.getvalue()


def _pictures() -> dict[str, dict[str, bytes]]:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    gray16 = io.BytesIO()
    Image.fromarray(np.asarray(drawing(mode="L")).astype(np.uint16) * 257).save(gray16, "PNG")
    more = [drawing(30, 20), drawing(30, 20).rotate(180)]
    animation = io.BytesIO()
    drawing(30, 20).save(animation, "WEBP", save_all=True, append_images=more)
    return {
        "jpeg": {
            "baseline": _picture("JPEG", quality=80, exif=exif),
            "progressive": _picture("JPEG", progressive=True, subsampling=0),
            "gray": _picture("JPEG", "L"),
            "cmyk": _picture("JPEG", "CMYK"),
        },
        "png": {
            "rgb": _picture("PNG", exif=exif),
            "rgba": _picture("PNG", "RGBA"),
            "palette": _picture("PNG", "P", transparency=3),
            "bits": _picture("PNG", "1"),
            "gray16": gray16.getvalue(),
        },
        "webp": {
            "lossy": _picture("WEBP", exif=exif),
            "lossless": _picture("WEBP", lossless=True),
            "alpha": _picture("WEBP", "RGBA"),
            "animation": animation.getvalue(),
        },
        "tiff": {
            "bmp": _picture("BMP"),
            "raw": _picture("TIFF"),
            "deflate": _picture("TIFF", compression="tiff_adobe_deflate"),
            "jpeg": _picture("TIFF", compression="jpeg"),
            "lzw": _picture("TIFF", "L", compression="tiff_lzw"),
        },
    }


def _zips() -> dict[str, bytes]:
    result = {}
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for index in range(4):
                member = zipfile.ZipInfo(f"train2017/{index:012}.jpg")  # (without the time of day)
                archive.writestr(member, struct.pack("<I", index) * (50 + index), method)
            archive.writestr(zipfile.ZipInfo("train2017/notes.txt"), "none")
        result[name] = buffer.getvalue()
    return result
