"""Quantizing to a budget: the search, what it chooses, and where it is recorded."""

import json
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.data.discovery import scan
from codecswap.data.pictures import load_picture, to_array
from codecswap.metrics import psnr, to_8_bits
from codecswap.quantize.budget import Budget, _choose, _Model, search
from codecswap.quantize.codec import encode_samples, quantize, trainable
from codecswap.quantize.scheme import Point, Scheme
from codecswap.quantize.sensitivity import Cost
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.swaps.apply import swap

PRICES = {"split": 2.0, "float": 3.0}
SCHEME = Scheme(refit=False)


def crops(folder: Path, count: int) -> list[np.ndarray]:
    return [to_array(load_picture(path).crop((0, 0, 128, 96))) for path in scan(folder)[:count]]


def test_the_frontier_has_the_best_sets_of_remedies() -> None:
    """Against all sets."""
    rng = np.random.default_rng(0)
    layers = ["a", "b", "c", "d"]
    tensors = [Cost(layer, "weights", rng.random() / 50, layer, frozenset([layer])) for layer in layers]
    tensors += [Cost(one, "Conv", rng.random() / 50, one, frozenset([one, other])) for one, other in pairwise(layers)]
    model = _Model(tensors, dict(zip(layers, (1.0, 4.0, 2.0, 0.5), strict=True)), {}, PRICES, layers)
    found = model.frontier()
    assert found[0].remedies == () and found[0].cost == 1
    assert [point.cost for point in found] == sorted({point.cost for point in found})
    for point in found:
        for chosen in product((None, *PRICES), repeat=len(layers)):
            remedies = {layer: one for layer, one in zip(layers, chosen, strict=True) if one}
            if model.cost(remedies) <= point.cost + 1e-9:
                assert model.loss(remedies) > 0.7 * point.predicted - 1e-9
    assert found[-1].predicted < 1e-9


def test_a_compilers_cycles_in_float_are_taken_for_its_price() -> None:
    tensors = [Cost(layer, "weights", 0.01, layer, frozenset([layer])) for layer in "ab"]
    model = _Model(tensors, {"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 9.0}, PRICES, "ab")
    assert [(point.remedies, point.cost) for point in model.frontier()] == [
        ((), 1.0),
        ((("a", "float"),), 1.0),
        ((("a", "float"), ("b", "split")), 1.75),
    ]


def test_the_cheapest_measured_point_within_the_budget_is_taken() -> None:
    points = [Point((("a", str(place)),), 1 + place, 1 / (1 + place)) for place in range(8)]
    seen = []

    def measured(point: Point) -> Point:
        seen.append(point)
        return replace(point, loss=0.5 * point.predicted)

    assert _choose(points, measured, Budget(loss=0.11)).cost == 5
    assert len(seen) <= 6
    assert _choose(points, measured, Budget(cost=3.5)).cost == 3
    assert _choose(points, measured, Budget(loss=0.01)).cost == 8  # the best that can
    assert _choose(points, measured, Budget(loss=0.1, cost=4)).cost == 4


@pytest.mark.parametrize(("text", "decibels"), [("0.1", 0.1), ("2%", 0.1), (0.1, 0.1)])
def test_budgets_in_words(text: str | float, decibels: float) -> None:
    assert Budget.of(text, "1.2x") == Budget(decibels, 1.2)


@pytest.mark.slow
@torch.no_grad()
def test_a_search_holds_on_pictures_that_it_did_not_calibrate_on(teacher: FactorizedPrior, pictures: Path) -> None:
    codec = swap(teacher, "subpixel")[0]
    samples, held_out = encode_samples(codec, crops(pictures / "train", 4)), crops(pictures / "val", 3)
    how = {"prices": PRICES, "form": "native"}
    plain = search(codec, samples, held_out, SCHEME, Budget(loss=9), **how)
    assert plain.remedies == () and plain.frontier.held
    most = 0.6 * plain.frontier.chosen.loss
    made = search(codec, samples, held_out, SCHEME, Budget(loss=most), **how)
    again = search(codec, samples, held_out, SCHEME, Budget(loss=most), **how)
    assert made.remedies == again.remedies != () and made.frontier == again.frontier
    assert made.frontier.held and 1 < made.frontier.chosen.cost < 3
    # measured again, with networks that are made of the remedies alone
    copied = quantize(codec, samples, replace(SCHEME, remedies=made.remedies))
    decoder, lost = trainable(codec, copied), []
    for picture in held_out:
        x = torch.from_numpy(picture)[None]
        latents = codec.quantize(codec.g_a(x))
        lost.append(psnr(to_8_bits(codec.g_s(latents)), x) - psnr(to_8_bits(decoder(latents)), x))
    assert float(np.mean(lost)) == pytest.approx(made.frontier.chosen.loss, abs=1e-3)
    assert float(np.mean(lost)) <= most
    none = search(codec, samples, held_out, SCHEME, Budget(loss=1e-6), prices={"split": 2.0})
    assert not none.frontier.held


@pytest.mark.slow
def test_remedies_are_recorded_with_the_codec_and_through_training(
    teacher: FactorizedPrior, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ["--teacher", "tiny", "--calibration_images", str(pictures / "train"), "--calibration_count", "3"]
    options = [
        *common,
        "--images",
        str(pictures / "val"),
        "--max_loss",
        "0.01%",
        "--max_cost",
        "1.6x",
        "--weight_bits",
        "7",
    ]
    assert cli.main(["quantize", *options, "--output", str(tmp_path / "q")]) == 0
    remedies = json.loads((tmp_path / "q" / "codec.json").read_bytes())["remedies"]
    assert remedies and set(remedies.values()) <= set(PRICES)
    printed = capsys.readouterr()
    assert "cannot be held" in printed.err and "chosen" in printed.out
    made = quantize(
        teacher, encode_samples(teacher, crops(pictures / "train", 2)), Scheme(remedies=tuple(remedies.items()))
    )
    decoder = trainable(teacher, made)
    loaded = QuantizedSynthesis.of(json.loads(json.dumps(decoder.layout())), decoder.state_dict())
    assert dict(loaded.remedies) == remedies
    assert quantize_again(teacher, loaded) == remedies


def quantize_again(codec: FactorizedPrior, decoder: QuantizedSynthesis) -> dict[str, str]:
    """The remedies of a codec whose decoder was trained."""
    student = swap(codec, "subpixel")[0]
    student.g_s = decoder
    return dict(quantize(student, encode_samples(codec, [np.zeros((3, 64, 64), np.float32)]), Scheme()).remedies)


@pytest.mark.parametrize(("arguments", "words"), [(["--max_loss", "much"], "0.1"), (["--max_cost", "1.2y"], "1.2x")])
def test_wrong_budgets_are_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["quantize", "--teacher", "tiny", *arguments]) == 2
    assert words in capsys.readouterr().err
