"""Precisions are values; integers' ends fit pictures and symbols; weights have 8 bits."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import codecswap
from codecswap.config import QuantizeOptions
from codecswap.config.training import FinetuneOptions
from codecswap.quantized.precision import PRECISIONS, Precision


def test_no_name_is_compared() -> None:
    names = "|".join(PRECISIONS)
    comparison = re.compile(rf"""([!=]=|\bin)\s*[(\[{{]?\s*["']({names})["']|["']({names})["']\s*[!=]=""")
    source = Path(codecswap.__file__).parent
    lines = [(path.name, line) for path in source.rglob("*.py") for line in path.read_text("utf-8").splitlines()]
    assert not [found for found in lines if comparison.search(found[1])]


def test_options_have_the_names_of_the_table() -> None:
    assert get_args(QuantizeOptions.__annotations__["precision"]) == tuple(PRECISIONS)
    assert get_args(get_args(FinetuneOptions.__annotations__["quantized"])[0]) == tuple(PRECISIONS)


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_picture_files_levels_and_symbols_lose_nothing(name: str, activations: str) -> None:
    precision = Precision.of(name, activations)
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    rounded = precision.picture.dequantize(precision.picture.quantize(levels))
    assert np.abs(rounded - levels).max() < 1e-6
    symbols = np.arange(-127, 128, dtype=np.float32)
    assert (precision.split_inputs.dequantize(precision.split_inputs.quantize(symbols)) == symbols).all()


def test_int16_is_symmetric() -> None:
    precision = Precision.of("w8a16", "int8")
    assert (precision.between, precision.inside, precision.steps) == ("int16", "int16", 65535)
    assert precision.picture.zero_point == precision.split_inputs.zero_point == 0


def test_weights_have_8_bits_unless_7_are_asked_for() -> None:
    assert {Precision.of(name).weight_levels for name in PRECISIONS} == {127}
    assert {Precision.of(name, weight_bits=7).weight_levels for name in PRECISIONS} == {64}
