"""CompressAI's three codecs with variable rate: a gain before rounding, its inverse and a learned offset afterwards.

``bmshj2018_hyperprior_vbr``, ``mbt2018_mean_vbr`` and ``mbt2018_vbr`` of Kamisli, Racape and Choi, "Variable-rate learned image
compression with multi-objective optimization and quantization-reconstruction offsets", 2024. Scales are multiplied by the
gain, too. A latent is ``mean + sign(symbol) (|symbol| + offset) / gain``, where a small network computes the offset from scale
and gain; it is 0 for a symbol of 0. Where the hyper-latents have a step that follows the gain, it is that of the closest level:
in PyTorch and in exported folders it takes one of as many values, and so do the tables.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.codecs.autoregressive import JointAutoregressive
from codecswap.codecs.bottleneck import quantize_with_likelihoods, tables_of
from codecswap.codecs.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from codecswap.codecs.protocol import HyperCodec, TorchPredictor
from codecswap.entropy.model import EntropyModel, Parameters
from codecswap.entropy.passes import Pass, Region
from codecswap.entropy.rates import Rates
from codecswap.entropy.tables import EntropyTables
from codecswap.layers.compressai import models, zoo

GAINS = ("Gain", "QuantABCD", "gayn2zqstep")
"""What decides the meaning of a file besides the modules of a codec of one rate; not every codec has the last."""
LEFT_OVER = "QuantOffset"
"""A parameter of older versions, which CompressAI drops."""


def _zoo(name: str) -> dict[str, dict[int, str]]:
    """Addresses in CompressAI's zoo, by metric, under the default quality: one checkpoint has all rates."""
    return {metric: {8: address} for metric, address in zoo.image_vbr.model_urls[name].items()}


class VariableRate(HyperCodec):
    """What the three have in common. ``gain`` is the largest after loading."""

    Gain: nn.Parameter
    """``(levels,)``: the gain of each level."""
    QuantABCD: nn.Sequential
    """Computes minus the offset, from scale times gain and gain."""
    gaussian_conditional: Any
    entropy_bottleneck: Any
    vr_entbttlnck: bool
    """Whether the step of the hyper-latents follows the gain."""
    _gains: tuple[float, ...] = ()

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> Any:  # noqa: D102
        codec: Any = super().untrained(state)
        levels = torch.ones_like(state["Gain"])
        if levels.ndim != 1 or not 0 < len(levels) <= 64:
            raise ValueError("the gains are no list")
        if any(name.startswith("gayn2zqstep.") for name in state):
            codec = cls(codec.N, codec.M, vr_entbttlnck=True)  # type: ignore[call-arg]
        codec.Gain = nn.Parameter(levels)
        return codec

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:  # type: ignore[override]
        """Load weights; the gain becomes the largest."""
        if self.vr_entbttlnck:  # CompressAI resizes tables of its other bottleneck only
            for table in ("_offset", "_quantized_cdf", "_cdf_length"):
                if isinstance(value := state_dict.get(f"entropy_bottleneck.{table}"), Tensor):
                    setattr(self.entropy_bottleneck, table, torch.empty_like(value))
        loaded = super().load_state_dict({k: v for k, v in state_dict.items() if k != LEFT_OVER}, strict)
        self._gains = ()
        self.gain = self.gains[-1]
        return loaded

    @property
    def gains(self) -> tuple[float, ...]:
        """Gains of the levels, ascending; read from the device once, since training does not change them."""
        if not self._gains:
            self._gains = tuple(sorted(set(self.Gain.detach().abs().cpu().tolist())))
        return self._gains

    @torch.no_grad()
    def step(self, gain: float) -> Tensor | None:
        """Quantization step of the hyper-latents at the level closest to a gain, a scalar; None: it is always 1."""
        if not self.vr_entbttlnck:
            return None
        gains = np.array(self.gains)
        level = gains[np.abs(np.log(gains) - np.log(gain)).argmin()]
        network: Any = self
        inverse = 1.0 / torch.full((1,), level, dtype=torch.float32, device=self.Gain.device)
        return network.lower_bound_zqstep(network.gayn2zqstep(inverse))[0]

    def offsets(self, scales: Tensor, gain: float) -> Tensor:
        """What is added to magnitudes of symbols other than 0, of the shape of ``scales``, which are not multiplied yet."""
        scales = self.gaussian_conditional.lower_bound_scale(scales * gain)
        return -self.QuantABCD(torch.stack((scales, torch.full_like(scales, gain)), -1)).squeeze(-1)

    def round(self, y: Tensor, scales: Tensor, means: Tensor) -> Tensor:  # noqa: D102
        symbols = torch.round((y - means) * self.gain)
        magnitudes = symbols.abs() + self.offsets(scales, self.gain) * (symbols != 0)
        return symbols.sign() * magnitudes / self.gain + means

    def likelihoods(self, y: Tensor, scales: Tensor, means: Tensor, noisy: bool) -> Tensor:  # noqa: D102
        return super().likelihoods(y * self.gain, scales * self.gain, means * self.gain, noisy)

    def round_hyper_latents(self, z: Tensor, noisy: bool) -> tuple[Tensor, Tensor]:  # noqa: D102
        return quantize_with_likelihoods(self.entropy_bottleneck, z, noisy=noisy, step=self.step(self.gain))

    def entropy_tables(self) -> EntropyTables:
        """Tables of the hyper-latents at the largest gain."""
        return self._tables(self.gains[-1])

    @torch.no_grad()
    def _tables(self, gain: float) -> EntropyTables:
        medians = self.entropy_bottleneck.quantiles[:, 0, 1].detach()
        step = self.step(gain)
        if step is None:
            return tables_of(self.entropy_bottleneck, medians)
        bottleneck = copy.deepcopy(self.entropy_bottleneck)
        bottleneck.update_variable(force=True, qs=step)
        made = tables_of(bottleneck, medians)
        return EntropyTables(made.cdf, made.lengths, made.offsets, made.medians, step.item())

    def _rates(self) -> Rates:
        """The levels, with the tables of the hyper-latents."""
        gains = self.gains
        return Rates(gains, tuple(map(self._tables, gains if self.vr_entbttlnck else gains[-1:])))

    @torch.no_grad()
    def rates(self) -> Rates:
        """The levels with the offset of each CDF index: of the scale in the middle of those that the index stands for."""
        table = self.scale_table.double().cpu()
        middle = torch.cat((table[:1], (table[:-1] * table[1:]).sqrt())).to(self.Gain)
        rates = self._rates()
        offsets = np.array([self.offsets(middle / gain, gain).cpu().numpy() for gain in rates.gains], np.float32)
        return Rates(rates.gains, rates.tables, offsets.clip(-1, 1))

    def entropy_model(self) -> EntropyModel:  # noqa: D102
        model, rates = super().entropy_model(), self._rates()
        predictor = PredictorAtGain(self, rates.tables_at(self.gain), self.gain)
        tables = rates.tables_at(self.gain)
        return EntropyModel(
            model.passes, tables, model.gaussians, predictor, model.factor, rates=rates, gain=rates.check(self.gain)
        )


class PredictorAtGain(TorchPredictor):
    """CDF indexes, means and offsets computed in PyTorch at a gain."""

    def __init__(self, codec: VariableRate, tables: EntropyTables, gain: float) -> None:
        super().__init__(codec, tables)
        self.gain = gain

    def at(self, gain: float, rates: Rates) -> "PredictorAtGain":  # noqa: D102
        return PredictorAtGain(self.codec, rates.tables_at(gain), gain)  # type: ignore[arg-type]

    @torch.inference_mode()
    def begin(self, hyper_symbols: np.ndarray) -> Parameters:  # noqa: D102
        codec: Any = self.codec
        device, gain = next(codec.parameters()).device, self.gain
        side = codec.h_s(torch.from_numpy(self._tables.to_latents(hyper_symbols))[None].to(device))

        @torch.inference_mode()
        def parameters(step: Pass, region: Region, decoded: np.ndarray) -> tuple[np.ndarray, ...]:
            before, codec.gain = codec.gain, gain  # what predicts latents from latents depends on it, too
            scales, means = codec.gaussians(side, torch.from_numpy(decoded)[None].to(device), step, region)
            codec.gain = before
            indexes = codec.indexes(scales * gain)[0].to(torch.uint8).cpu().numpy()
            return indexes, means[0].cpu().numpy(), codec.offsets(scales, gain)[0].cpu().numpy()

        return parameters


class ScaleHyperpriorVbr(VariableRate, ScaleHyperprior, models.ScaleHyperpriorVbr):
    """Scales by a hyperprior, variable rate; any N, M and number of levels."""

    bit_exact = (*ScaleHyperprior.bit_exact, *GAINS)
    predictors = (*ScaleHyperprior.predictors, "QuantABCD")
    zoo = _zoo("bmshj2018-hyperprior-vbr")


class MeanScaleHyperpriorVbr(VariableRate, MeanScaleHyperprior, models.MeanScaleHyperpriorVbr):
    """Scales and means by a hyperprior, variable rate; any N, M and number of levels."""

    bit_exact = (*MeanScaleHyperprior.bit_exact, *GAINS)
    predictors = (*MeanScaleHyperprior.predictors, "QuantABCD")
    zoo = _zoo("mbt2018-mean-vbr")


class JointAutoregressiveVbr(VariableRate, JointAutoregressive, models.JointAutoregressiveHierarchicalPriorsVbr):
    """The same with a context model, which knows the gain."""

    bit_exact = (*JointAutoregressive.bit_exact, *GAINS, "scale_to_context")
    predictors = (*JointAutoregressive.predictors, "QuantABCD", "scale_to_context")
    zoo = _zoo("mbt2018-vbr")
    scale_to_context: nn.Linear

    @property
    def context_shift(self) -> Tensor:
        """What the gain adds to the context, ``(1, 2 M, 1, 1)``."""
        weight = self.scale_to_context.weight
        return F.linear(torch.full((1, 1), self.gain).to(weight), weight, self.scale_to_context.bias).view(1, -1, 1, 1)
