"""``cheng2020_anchor`` and ``cheng2020_attn``: residual blocks, subpixel convolutions, ``mbt2018``'s entropy model.

Cheng et al., "Learned image compression with discretized Gaussian mixture likelihoods and attention modules", 2020, with one
Gaussian instead of a mixture, as CompressAI has it. No transposed convolution is in them: there is nothing to swap.
"""

from collections.abc import Mapping

from torch import Tensor

from codecswap.codecs.autoregressive import JointAutoregressive
from codecswap.codecs.hyperprior import refuse_unless
from codecswap.layers.compressai import models, zoo


def anchor_encoder_channels(state: Mapping[str, Tensor]) -> int:
    """Read N, which is M too, from the kernel shapes of the encoder without attention blocks.

    Raises:
        KeyError, ValueError: the weights are of another encoder.
    """
    n = state["g_a.0.conv1.weight"].shape[0]
    refuse_unless(state, {"g_a.0.conv1": (n, 3, 3, 3), "g_a.3.conv1": (n, n, 3, 3), "g_a.6": (n, n, 3, 3)})
    return n


class Cheng2020Anchor(JointAutoregressive, models.Cheng2020Anchor):
    """Without attention blocks; any N, which is M too."""

    margin = 7  # a pixel depends on 6.5 latents to each side, a latent on 57 pixels
    zoo = zoo.image.model_urls["cheng2020-anchor"]

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "Cheng2020Anchor":  # noqa: D102 (see Codec, so below)
        n = anchor_encoder_channels(state)
        refuse_unless(state, _entropy_model(n))
        return cls(n)


class Cheng2020Attention(Cheng2020Anchor, models.Cheng2020Attention):
    """With attention blocks; any N, which is M too."""

    margin = 11  # a pixel depends on 10.3 latents to each side, a latent on 117 pixels
    zoo = zoo.image.model_urls["cheng2020-attn"]

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "Cheng2020Attention":  # noqa: D102
        n = state["g_a.0.conv1.weight"].shape[0]
        encoder = {"g_a.0.conv1": (n, 3, 3, 3), "g_a.3.conv_a.0.conv.0": (n // 2, n, 1, 1), "g_a.7": (n, n, 3, 3)}
        refuse_unless(state, encoder | _entropy_model(n))
        return cls(n)


def _entropy_model(n: int) -> dict[str, tuple[int, ...]]:
    """Kernel shapes of the hyperprior and of the context model."""
    shapes: dict[str, tuple[int, ...]]
    shapes = {"h_a.0": (n, n, 3, 3), "h_a.8": (n, n, 3, 3), "h_s.0": (n, n, 3, 3), "h_s.8": (2 * n, n * 3 // 2, 3, 3)}
    return shapes | {"context_prediction": (2 * n, n, 5, 5), "entropy_parameters.0": (n * 10 // 3, 4 * n, 1, 1)}
