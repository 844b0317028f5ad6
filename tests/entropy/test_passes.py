"""The description of passes: every latent once, in an order that a decoder can follow."""

import numpy as np
import pytest

from codecswap.entropy.passes import (
    ALL,
    ANCHOR,
    BY_CHANNEL,
    HYPER_LATENTS,
    LATENTS,
    NON_ANCHOR,
    RASTER,
    Pass,
    check_passes,
    factorized,
    has_context,
    hyperprior,
    predicted,
)

M, N = 6, 4
GOOD = {
    "factorized": factorized(M),
    "hyperprior": hyperprior(N, Pass(LATENTS, (0, M))),
    "raster": hyperprior(N, Pass(LATENTS, (0, M), RASTER)),
    "checkerboard": hyperprior(N, Pass(LATENTS, (0, M), ANCHOR), Pass(LATENTS, (0, M), NON_ANCHOR)),
    "groups": hyperprior(N, Pass(LATENTS, (0, 2)), Pass(LATENTS, (2, M), ANCHOR), Pass(LATENTS, (2, M), NON_ANCHOR)),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (4, 5)])
def test_steps_visit_each_latent_once(name: str, size: tuple[int, int]) -> None:
    check_passes(GOOD[name], M, N)
    assert has_context(GOOD[name]) == (name in ("raster", "checkerboard", "groups"))
    visited, covered = np.zeros((M, *size), int), np.zeros((M, *size), int)
    for each in predicted(GOOD[name]) or GOOD[name]:
        covered[each.region(*size)] += 1
        for region in each.steps(*size):
            assert not visited[region].any()
            visited[region] += 1
    assert (visited == 1).all() and (covered == 1).all()


def test_symbols_stand_in_the_order_of_compressais_strings() -> None:
    latents = np.arange(M * 3 * 4).reshape(M, 3, 4)
    raster = np.concatenate([latents[region] for region in Pass(LATENTS, (1, 4), RASTER).steps(3, 4)])
    assert (raster == latents[1:4].transpose(1, 2, 0).ravel()).all()
    (anchor,) = Pass(LATENTS, (0, M), ANCHOR).steps(3, 4)
    wanted = np.stack([latents[:, 0, 0::2], latents[:, 1, 1::2], latents[:, 2, 0::2]], 1)
    assert (latents[anchor].ravel() == wanted.ravel()).all()


@pytest.mark.parametrize(
    "passes",
    [
        (),
        factorized(M - 1),
        factorized(M) * 2,
        (Pass(LATENTS, (0, M)),),
        (Pass(HYPER_LATENTS, (0, N), ALL, BY_CHANNEL),),
        hyperprior(N + 1, Pass(LATENTS, (0, M))),
        hyperprior(N, Pass(LATENTS, (0, M + 1))),
        hyperprior(N, Pass(LATENTS, (0, M)), Pass(LATENTS, (0, 1))),
        hyperprior(N, Pass(LATENTS, (0, M), ANCHOR)),
        hyperprior(N, Pass(LATENTS, (0, M), ANCHOR), Pass(LATENTS, (0, M), ANCHOR)),
        hyperprior(N, *factorized(M)),
    ],
)
def test_passes_that_miss_or_repeat_latents_are_refused(passes: tuple[Pass, ...]) -> None:
    with pytest.raises(ValueError):
        check_passes(passes, M, N)


@pytest.mark.parametrize(
    "fields",
    [
        {"latents": "pixels"},
        {"channels": (0, 0)},
        {"channels": (-1, 2)},
        {"channels": (0, 2.0)},
        {"channels": ("0", "2")},
        {"positions": "spiral"},
        {"indexes": ""},
    ],
)
def test_values_that_no_pass_has_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError):
        Pass(**{"latents": LATENTS, "channels": (0, M)} | fields)
