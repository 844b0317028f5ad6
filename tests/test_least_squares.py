"""Patches against torch's own, and the ridge against the equations it solves."""

import pytest
import torch
import torch.nn.functional as F

from codecswap.least_squares import Sums, draw, patches, ridge_step


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (5, 2, 2), (1, 1, 0), (4, 2, 1)])
def test_patches_are_what_a_convolution_sees(size: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 8, 10, dtype=torch.float64), torch.randn(4, 3, size, size, dtype=torch.float64)
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    picture, row, column = places = draw(y, 7, torch.Generator().manual_seed(1))
    assert len(set(zip(*(index.tolist() for index in places), strict=True))) == 14, "a position was drawn twice"
    seen = patches(x, places, size, stride=stride, padding=padding)
    torch.testing.assert_close(seen @ weight.flatten(1).T, y[picture, :, row, column])


def test_fewer_positions_than_asked_for_are_all_taken_once() -> None:
    places = draw(torch.zeros(2, 1, 2, 3), 100, torch.Generator().manual_seed(0))
    assert sorted(zip(*(index.tolist() for index in places), strict=True)) == [
        (p, r, c) for p in range(2) for r in range(2) for c in range(3)
    ]


def test_the_ridge_pulls_towards_the_weights_given() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, start = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((50, 6), (6, 2)))
    targets = torch.randn(50, 2, dtype=torch.float64, generator=generator)
    sums = Sums(6, 2, torch.device("cpu"))
    for some, wanted in zip(inputs.split(20), targets.split(20), strict=True):
        sums.add(some, wanted)
    assert sums.count == 50
    torch.testing.assert_close(sums.energy, targets.square().sum(0))
    pull = torch.arange(1.0, 7.0, dtype=torch.float64)
    step, _ = ridge_step(sums.gram, sums.cross - sums.gram @ start, pull)
    # the same as least squares with rows that ask each weight to be the one given
    rows = torch.cat([inputs, pull.sqrt().diag()])
    oracle = torch.linalg.lstsq(rows, torch.cat([targets, pull.sqrt()[:, None] * start])).solution
    torch.testing.assert_close(start + step, oracle)
