"""A training step: nothing of it is read by the host, and a bad one changes nothing."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import rows, train
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.bottleneck import quantize_with_likelihoods
from codecswap.codecs.float32 import BACKENDS, FULL
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.config import DistillOptions
from codecswap.metrics import structure, to_8_bits
from codecswap.metrics.table import METRICS
from codecswap.swaps.apply import swap
from codecswap.training import loop
from codecswap.training.rotated_adam import RotatedAdam, brightness_directions
from codecswap.training.state import TrainingState
from codecswap.training.step import TrainingStep
from codecswap.training.student import LatentCost, TeacherStudent

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
"""Methods of a tensor for which the host waits for the device."""
OPERATORS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"}
"""Operators for which it does."""


class Watch(TorchDispatchMode):
    """Records the operators that read the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in OPERATORS:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What reads a tensor's value; on a GPU PyTorch raises an error there itself."""
    watch = Watch()
    with monkeypatch.context() as patch, watch:
        for name in READS:
            real = getattr(torch.Tensor, name)

            def record(self: torch.Tensor, *args: Any, name: str = name, real: Any = real, **more: Any) -> Any:
                watch.found.append(name)
                return real(self, *args, **more)

            patch.setattr(torch.Tensor, name, record)
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield watch.found
        finally:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")


def test_the_watch_sees_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(3)
    with reads(monkeypatch) as found:
        x.isfinite().all().item()
        x.tolist()
        bool(x[0] > 0)
        torch.nonzero(x)
    assert {"item", "tolist", "__bool__", "aten.nonzero.default"} <= set(found)


@pytest.mark.parametrize(
    "extra", [["--train_igdn"], ["--unfreeze_all"], ["--part", "both", "--gdn", "gdn1"], ["--amp", "bf16-mixed"]]
)
def test_a_step_reads_no_tensor(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    found: list[str] = []
    step = loop.Training.training_step

    def watched(self: loop.Training, batch: Any, index: int) -> None:
        with reads(monkeypatch) as during:
            step(self, batch, index)
        found.extend(during)

    monkeypatch.setattr(loop.Training, "training_step", watched)
    monkeypatch.setattr(loop.Training, "_read", lambda self, step: None)
    train(
        "distill",
        pictures,
        tmp_path,
        "--epochs",
        "1",
        "--init",
        "weights",
        "--recon_every",
        "0",
        "--lr",
        "3e-4",
        *extra,
    )
    assert not found
    assert math.isfinite(rows(tmp_path)[-1]["train_loss"])


class ImitatedGpu(FakeTensorMode):
    """PyTorch's imitation of a GPU: shapes and devices without values; it refuses to mix devices and to read values."""

    def __enter__(self) -> "ImitatedGpu":
        self._forget()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._forget()

    def _forget(self) -> None:
        """MS-SSIM keeps its constants by device, and these are none."""
        structure._weights.cache_clear()
        structure._window_matrix.cache_clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "_fused_adam_":  # it has no imitation of this one
            assert {each.device.type for given in args for each in given} == {"cuda"}
            return None
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_the_imitated_gpu_refuses_other_devices_and_reads() -> None:
    with ImitatedGpu():
        x = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()


def to_imitated_gpu(module: torch.nn.Module) -> None:
    """Replace parameters and buffers; ``module.to`` cannot move one that two modules share."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
                    held[name] = torch.nn.Parameter(made, value.requires_grad) if held is part._parameters else made


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("tiny", {}),
        ("tiny", {"part": "both"}),
        ("tiny_hyper", {"unfreeze_all": True}),
        ("tiny_vbr", {"unfreeze_all": True}),
        ("steps that follow the gain", {"unfreeze_all": True}),
    ],
)
def test_a_step_stays_on_its_device(name: str, how: dict[str, Any]) -> None:
    if name.startswith("steps"):
        teacher: Any = ARCHITECTURES["mbt2018_mean_vbr"](8, 12, vr_entbttlnck=True).eval()
        teacher.make_tables()
    else:
        teacher = load_codec(name)
    pair = TeacherStudent(teacher, swap(teacher, "upsample")[0], **how)
    sample = pictures_of(0)[:, :, :128, :128]
    if pair.trains_encoder and not pair.unfreeze_all:
        pair.latent_cost = LatentCost(pair.teacher, sample)
    directions = brightness_directions(pair.student, sample, pair.both_latents(sample)[1])
    pair.to(memory_format=torch.channels_last)
    with ImitatedGpu():
        to_imitated_gpu(pair)
        trained = {name: value for name, value in pair.student.named_parameters() if value.requires_grad}

        def backward(loss: torch.Tensor) -> None:  # no GPU, no gradients; they are where the values are
            assert loss.device.type == "cuda" and loss.requires_grad
            for value in trained.values():
                value.grad = torch.zeros_like(value)

        lr = torch.zeros((), device="cuda")
        optimizer = RotatedAdam(
            [{"params": [*trained.values()], "lr": lr}],
            {trained[name]: torch.empty(value.shape, device="cuda") for name, value in directions.items()},
        )
        state, weight = TrainingState(), torch.zeros((), device="cuda")
        step = TrainingStep(
            pair, DistillOptions(), optimizer, state, distill=True, rate_weight=weight, backward=backward
        )
        x = torch.rand(2, 3, 176, 176, device="cuda")
        for number in range(2):
            pair.draw_gain(number)
            step(x)
        for shown in pair.reconstruct(x):
            for metric in METRICS.values():
                if metric.column:
                    state.add(metric.column, metric.function(to_8_bits(shown), x))
        assert all(rate.device.type == "cuda" for rate in pair.rates(x))


def make_step(kind: str = "adam") -> tuple[TeacherStudent, TrainingStep]:
    teacher = load_codec("tiny")
    student, _ = swap(teacher, "upsample")
    pair = TeacherStudent(teacher, student)
    trained = {name: value for name, value in student.named_parameters() if value.requires_grad}
    x = torch.rand(1, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    directions = brightness_directions(student, x, encode(teacher, x))
    groups = [{"params": list(trained.values()), "lr": torch.tensor(1e-3)}]
    optimizer: torch.optim.Optimizer = RotatedAdam(groups, {trained[name]: one for name, one in directions.items()})
    if kind == "sgd":
        optimizer = torch.optim.SGD(trained.values(), 1e-3)
    step = TrainingStep(
        pair, DistillOptions(), optimizer, TrainingState(), distill=True, rate_weight=torch.tensor(0.01)
    )
    return pair, step


def pictures_of(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 176, 176, generator=torch.Generator().manual_seed(seed))


def trained_weights(pair: TeacherStudent) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pair.student.state_dict().items()}


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_bad_step_changes_nothing(kind: str) -> None:
    pair, step = make_step(kind)
    step(pictures_of(1))
    before = trained_weights(pair)
    states = [
        {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
        for state in step.optimizer.state.values()
    ]
    for _ in range(2):
        step(pictures_of(2) * math.inf)
    assert all(torch.equal(value, before[name]) for name, value in pair.student.state_dict().items())
    for state, old in zip(step.optimizer.state.values(), states, strict=True):
        assert all(torch.equal(state[name], value) for name, value in old.items())
    step(pictures_of(3))
    assert not torch.equal(trained_weights(pair)["g_s.0.1.weight"], before["g_s.0.1.weight"])
    step.state.read()
    assert (step.state.skipped, step.state.skipped_in_a_row) == (2, 2)
    means = step.state.take_means()
    assert math.isfinite(means["train_loss"]) and means["train_loss"] > 0
    step.state.read()
    assert (step.state.skipped, step.state.skipped_in_a_row) == (2, 0), "the row ended before"


@pytest.fixture
def reduced() -> Iterator[None]:
    """Everything that a user can set for fewer bits."""
    before = [backend.fp32_precision for backend in BACKENDS]
    for backend, value in zip(BACKENDS, ("tf32", "tf32", "bf16", "bf16"), strict=True):
        backend.fp32_precision = value
    yield
    for backend, value in zip(BACKENDS, before, strict=True):
        backend.fp32_precision = value


def spy(module: torch.nn.Module, seen: set[tuple[tuple[str, ...], bool]]) -> None:
    """Record the precision in which a module computes, and its gradient."""

    def note(*given: Any) -> None:
        seen.add((tuple(backend.fp32_precision for backend in BACKENDS), torch.is_autocast_enabled("cpu")))

    module.register_forward_pre_hook(note)
    module.register_full_backward_hook(note)


def test_encoder_and_entropy_model_are_full_float32(reduced: None) -> None:
    full, allowed = (FULL,) * 4, ("tf32", "tf32", "bf16", "bf16")
    for trains_encoder in (False, True):
        teacher = load_codec("tiny")
        student, _ = swap(teacher, "upsample")
        pair = TeacherStudent(teacher, student, unfreeze_all=trains_encoder)
        encoder, decoder = set[Any](), set[Any]()
        for codec in (teacher, student):
            spy(codec.g_a, encoder)
            spy(codec.entropy_bottleneck.likelihood_lower_bound, encoder)
            spy(codec.g_s, decoder)
        optimizer = RotatedAdam([{"params": [p for p in student.parameters() if p.requires_grad]}], {})
        step = TrainingStep(
            pair, DistillOptions(), optimizer, TrainingState(), distill=True, rate_weight=torch.tensor(0.01)
        )
        with torch.autocast("cpu", torch.bfloat16):
            step(pictures_of(0))
        assert encoder == {(full, False)}
        assert (allowed, True) in decoder, "decoders may use fewer bits in training"
        decoder.clear()
        with torch.autocast("cpu", torch.bfloat16):
            pair.reconstruct(pictures_of(0))
        assert decoder == encoder == {(full, False)}, "they are measured without"
    assert tuple(backend.fp32_precision for backend in BACKENDS) == allowed, "what was set is set again"


def test_coding_and_measuring_are_full_float32(reduced: None) -> None:
    from codecswap.codecs.torch_codec import TorchCodec
    from codecswap.evaluation.measure import code, show

    for name in ("tiny", "tiny_hyper"):
        codec, seen = load_codec(name), set[Any]()
        for part in ("g_a", "g_s", "h_a", "h_s"):
            if hasattr(codec, part):
                spy(getattr(codec, part), seen)
        picture = pictures_of(0)[:1, :, :64, :64]
        _, latents = code(codec, picture)
        show(codec, latents, picture)
        TorchCodec(codec).analyze(picture[0].numpy())
        assert seen == {((FULL,) * 4, False)}


@pytest.mark.parametrize("noisy", [False, True])
def test_the_bottleneck_is_compressais(noisy: bool) -> None:
    bottleneck = load_codec("tiny").entropy_bottleneck
    x = 5 * torch.randn(2, 80, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    theirs = bottleneck(x, training=noisy)
    torch.manual_seed(1)
    ours = quantize_with_likelihoods(bottleneck, x, noisy=noisy)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
