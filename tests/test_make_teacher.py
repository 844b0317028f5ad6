"""The program that makes a small codec, for a few steps."""

import importlib.util
import math
from pathlib import Path

import torch

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.data.transforms import whole_picture

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_teacher.py"


def test_it_makes_a_codec_that_loads_and_has_learnt(photos, tmp_path: Path, monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("make_teacher", SCRIPT)
    assert spec and spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    folder, output = photos[0].parent, tmp_path / "codec.safetensors"
    x = program.crops([whole_picture(photos[0])], 2, torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    codec = FactorizedPrior(24, 24)
    program.start_from_components(codec, x)
    with torch.no_grad():  # the first stage's components, and their transposes, give the picture back
        mid = codec.g_s[6](codec.g_a[0](x))
    assert -10 * math.log10((mid - x)[..., 2:-2, 2:-2].square().mean().item()) > 20
    arguments = ["make_teacher.py", "--images", str(folder), "--output", str(output), "--N", "24", "--M", "24"]
    monkeypatch.setattr("sys.argv", [*arguments, "--minutes", "0.05"])
    program.main()
    made = load_codec(str(output))
    assert (made.N, made.M) == (24, 24)
    packed = made.compress(x[:1])
    assert 0 < len(packed["strings"][0][0]) < 128 * 128 and made.decompress(**packed)["x_hat"].shape == x[:1].shape
