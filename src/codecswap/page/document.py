"""Write an exported codec as one HTML file that decodes, and encodes, in any browser.

The file contains everything: the C library (``codecswap.wasm``, built by ``make wasm``), ONNX Runtime, the entropy tables
and the networks, each compressed, as text. Its content security policy forbids every connection.
"""

import base64
import gzip
import hashlib
import html
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from codecswap.errors import UserError
from codecswap.inference.check import AGREEMENT, check_names
from codecswap.inference.folder import PREDICTION, file_bytes, network_bytes, read_entropy, read_folder
from codecswap.inference.manifest import Manifest
from codecswap.page import onnxruntime_web

NETWORKS = ("decoder", "encoder", "hyper_encoder")
TILE = 768
"""Side of a tile in pixels if networks take any size; limits the memory on phones and shows progress."""


def page(folder: Path, runtime_folder: Path | None = None) -> str:
    """The page of an exported codec.

    Args:
        folder: what `codecswap export` or `codecswap quantize` wrote.
        runtime_folder: `codecswap.page.onnxruntime_web.load`.

    Raises:
        UserError: the folder is not an exported codec, has no decoder or is damaged, or ONNX Runtime cannot be downloaded.
    """
    manifest, tables = read_folder(folder)
    if manifest.decoder is None:
        raise UserError(f"{folder} holds no decoder: export it with --part both or --part decoder.")
    entropy = read_entropy(folder, manifest, tables)
    script, program = onnxruntime_web.load(runtime_folder)
    parts = {"runtime": script, "runtime_wasm": program, "csw": _read("codecswap.wasm"), "entropy": tables.binary}
    if entropy.gaussians:
        parts |= {"gaussians": entropy.gaussians.binary, "network": (folder / PREDICTION).read_bytes()}
    if entropy.rates:
        parts["rates"] = entropy.rates.binary
    for part in NETWORKS:
        if network := getattr(manifest, part):
            parts[part] = network_bytes(folder, network)
    names = check_names("decoder")
    if manifest.checks and manifest.height is None and all(name in manifest.checks for name in names):
        check = [base64.b64encode(file_bytes(folder, name, manifest.checks[name])).decode() for name in names]
    else:
        check = []
    data = {
        "words": tomllib.loads(_read("words.toml").decode()),
        "worker": (_read("csw.js") + _read("worker.js")).decode(),
        "codec": _codec(manifest),
        "check": check,
        "agreement": AGREEMENT,
    }
    code = _read("page.js").decode()
    return _fill(
        _read("page.html").decode(),
        name=html.escape(manifest.name),
        hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        style=_read("page.css").decode(),
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),  # so that nothing in it ends the script
        files="\n".join(
            f'<script type="text/plain" data-file="{name}">{_pack(part)}</script>' for name, part in parts.items()
        ),
        script=code,
    )


def _codec(manifest: Manifest) -> dict[str, Any]:
    """The values of codec.json that the page's script needs."""
    networks = {
        part: {"input": network.input, "output": network.output}
        for part in NETWORKS
        if (network := getattr(manifest, part))
    }
    least = TILE // manifest.factor
    while 2 * manifest.margin * manifest.multiple // manifest.factor >= least:  # a tile of hyper-latents has an inside
        least *= 2
    sides = [side // manifest.factor if side else least for side in (manifest.height, manifest.width)]
    facts = {key: getattr(manifest, key) for key in ("name", "N", "M", "factor", "margin", "replacement", "precision")}
    inputs = manifest.split_inputs.channels if manifest.split_inputs and manifest.side else None
    return (
        facts
        | networks
        | {
            "hyper_channels": manifest.N if manifest.side else 0,
            "inputs": inputs and [inputs.count(channel) for channel in range(manifest.M)],
            "tables": manifest.tables_sha256[:8],
            "bits": manifest.split_inputs.fractional_bits if manifest.split_inputs else 0,
            "gains": manifest.rates and manifest.rates.gains,
            "form": networks["decoder"]["input"],
            "constant": manifest.split_inputs.constant if manifest.split_inputs else 0,
            "tile": sides,
            "fixed": manifest.height is not None,
            "runtime": onnxruntime_web.VERSION,
        }
    )


def _fill(template: str, **values: str) -> str:
    """Replace each {{name}} by its value; values themselves are not expanded."""
    first, *rest = template.split("{{")
    return first + "".join(values[name] + text for name, _, text in (part.partition("}}") for part in rest))


def _pack(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _read(name: str) -> bytes:
    return (files("codecswap.page") / name).read_bytes()
