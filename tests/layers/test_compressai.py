"""CompressAI is imported without what nothing here uses, and a program that uses it finds it whole."""

import subprocess
import sys

import pytest

CODE = """
import sys
{before}
from codecswap.codecs.architectures import ARCHITECTURES
heavy = {{"torch_geometric", "torchvision", "pandas", "scipy.stats", "compressai.datasets", "compressai.transforms"}}
print(sorted(heavy & set(sys.modules)))
codec = ARCHITECTURES["mbt2018_mean"](4, 6)
codec.make_tables()
print(codec.gaussian_tables().channels)
import scipy.stats, torch_geometric.transforms, torchvision.transforms
from compressai.datasets import ImageFolder
from compressai.transforms import RGB2YCbCr
print(torch_geometric.transforms.Center, torchvision.transforms.ToTensor, scipy.stats.norm.ppf(0.5))
"""


def run(before: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(before=before)], capture_output=True, text=True, timeout=240
    )
    return done.stdout.splitlines(), done.stderr


@pytest.mark.slow
def test_codecs_load_without_what_they_do_not_use_and_others_get_it_later() -> None:
    lines, errors = run("sys.argv")
    assert lines[:2] == ["[]", "64"], errors
    assert "Center" in lines[2] and "ToTensor" in lines[2] and lines[2].endswith(" 0.0")


@pytest.mark.slow
def test_what_a_program_has_imported_stays_as_it_is() -> None:
    lines, errors = run("import compressai.datasets")
    assert "compressai.datasets" in lines[0] and "torch_geometric" in lines[0] and lines[1] == "64", errors
