"""What codec.json says of the codec's sizes."""

import json
from pathlib import Path

import pytest

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.errors import UserError
from codecswap.inference.folder import MANIFEST, read_folder, write_folder
from codecswap.inference.manifest import Manifest
from codecswap.inference.runtime import OnnxCodec


def test_factor_and_margin_come_from_the_folder(teacher: FactorizedPrior, tmp_path: Path) -> None:
    tables = teacher.entropy_tables()
    sizes = {"N": 48, "M": 80, "factor": 16, "opset": 13, "height": None, "width": None}
    words = {"name": "x", "replacement": "none", "precision": "float32", "tables_sha256": tables.digest().hex()}
    write_folder(
        tmp_path,
        Manifest(
            **sizes,
            **words,
            remedies={},
            encoder=None,
            decoder=None,
            split_inputs=None,
            passes=teacher.passes,
            margin=4,
        ),
        tables,
    )
    assert OnnxCodec(tmp_path).factor == 16 and read_folder(tmp_path)[0].margin == 4
    content = json.loads((tmp_path / MANIFEST).read_text())
    for wrong in ({"factor": 0}, {"factor": "16"}, {"margin": -1}, {"margin": 40}, {"margin": 2.0}):
        (tmp_path / MANIFEST).write_text(json.dumps(content | wrong))
        with pytest.raises(UserError, match="is damaged"):
            read_folder(tmp_path)
    assert content["passes"] == [{"latents": "latents", "channels": [0, 80], "positions": "all", "indexes": "channel"}]
    for wrong in (
        {"channels": [0, 79]},
        {"positions": "raster"},
        {"indexes": "predicted"},
        {"latents": "pixels"},
        {"x": 1},
    ):
        (tmp_path / MANIFEST).write_text(json.dumps(content | {"passes": [content["passes"][0] | wrong]}))
        with pytest.raises(UserError, match="is damaged"):
            read_folder(tmp_path)
