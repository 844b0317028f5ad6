"""Hyper-synthesis in integers gives the same tables everywhere: against int64, perturbed, reordered, on other kernels."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy import bitstream
from codecswap.entropy import hyper_synthesis as integers
from codecswap.entropy.extension import coder
from codecswap.entropy.hyper_synthesis import LIMIT, SLOPE_BITS, IntegerNetwork, Layer
from codecswap.entropy.model import EntropyModel
from codecswap.entropy.passes import predicted
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.quantize.hyper_synthesis import MEAN_BITS, integer_network

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
"""What other machines have computed of the files beside it."""


@pytest.fixture(scope="module")
def attack() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "determinism", Path(__file__).parents[2] / "benchmarks" / "determinism.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def entropy(attack: ModuleType) -> EntropyModel:
    return attack.open_entropy(GOLDEN / "v2")


def sha(values: np.ndarray) -> str:
    return hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()


def test_files_of_version_1_and_2_decode_to_what_they_did(entropy: EntropyModel) -> None:
    tables = EntropyTables.from_json((GOLDEN / "v1.json").read_bytes())
    symbols, size = bitstream.unpack((GOLDEN / "v1.csw").read_bytes(), tables, 16)
    assert size == (140, 205) and sha(symbols) == EXPECTED["v1"]["symbols"]
    assert bitstream.pack(symbols, size, tables) == (GOLDEN / "v1.csw").read_bytes()
    quantized, size = bitstream.read((GOLDEN / "v2.csw").read_bytes(), entropy, 16)
    assert size == (140, 205) and len(np.unique(quantized.symbols)) == EXPECTED["v2"]["unique"] > 10
    assert (sha(quantized.symbols), sha(quantized.means)) == (EXPECTED["v2"]["symbols"], EXPECTED["v2"]["means"])


def test_a_file_of_version_3_decodes_to_what_it_did(attack: ModuleType) -> None:
    entropy, coded = attack.open_entropy(GOLDEN / "v3"), (GOLDEN / "v3.csw").read_bytes()
    quantized, size = bitstream.read(coded, entropy, 16)
    latents = quantized.symbols.astype(np.float32) + quantized.means
    assert size == (140, 205) and len(np.unique(quantized.symbols)) == EXPECTED["v3"]["unique"] > 10
    assert (sha(quantized.symbols), sha(latents)) == (EXPECTED["v3"]["symbols"], EXPECTED["v3"]["latents"])
    assert entropy.rates and entropy.rates.binary == (GOLDEN / "v3" / "rates.bin").read_bytes()
    rng = np.random.default_rng(0)
    for gain in (0.1, 0.33, 0.9):  # the C library at another step and other thresholds, where it was compiled
        network, step = entropy.predictor.network, entropy.at(gain).predictor.step
        symbols = rng.integers(-20, 21, (entropy.tables.channels, 3, 4)).astype(np.int32)
        for ours, numpys in zip(
            network(symbols, gain, step), network.in_numpy(symbols, float(np.float32(gain)), step), strict=True
        ):
            assert (ours == numpys).all()


def test_random_hyper_latents_give_what_they_gave_elsewhere(attack: ModuleType, entropy: EntropyModel) -> None:
    assert attack.digest(entropy, 200) == EXPECTED["v2"]["random_200"]
    rows = np.concatenate([entropy.predictor(symbols)[0].ravel() for symbols in attack.hyper_latents(entropy, 20)])
    assert len(np.unique(rows)) >= 15, "these choose few of the 20 tables"


def test_numpy_computes_what_the_c_library_does(attack: ModuleType, entropy: EntropyModel) -> None:
    if not hasattr(coder, "predict"):
        pytest.skip("the extension is not compiled")
    large = np.random.default_rng(0).integers(-30, 31, (entropy.tables.channels, 70, 45)).astype(np.int32)
    for symbols in [*attack.hyper_latents(entropy, 40), large]:
        for ours, numpys in zip(entropy.predictor(symbols), entropy.predictor.in_numpy(symbols), strict=True):
            assert ours.dtype == numpys.dtype and (ours == numpys).all()


@pytest.mark.parametrize("environment", [{"OPENBLAS_NUM_THREADS": "8"}, {"OPENBLAS_CORETYPE": "Prescott"}])
def test_other_threads_and_kernels_compute_the_same(attack: ModuleType, environment: dict[str, str]) -> None:
    assert attack.digest_elsewhere(GOLDEN / "v2", 200, environment) == EXPECTED["v2"]["random_200"]


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["Nehalem", "Haswell"])
def test_other_processors_compute_the_same(cpu: str, attack: ModuleType) -> None:
    if not shutil.which("qemu-x86_64"):
        pytest.skip("there is no qemu-x86_64: apt-get install qemu-user")
    prefix = ["qemu-x86_64", "-cpu", cpu]
    assert (
        attack.digest_elsewhere(GOLDEN / "v2", 200, {"OPENBLAS_NUM_THREADS": "1"}, prefix)
        == EXPECTED["v2"]["random_200"]
    )


def in_int64(layer: Layer, x: np.ndarray) -> np.ndarray:
    """A layer's sums without any floating point."""
    edge = layer.weight.shape[-1] // 2
    padded = np.pad(x.astype(np.int64), ((0, 0), (edge, edge), (edge, edge)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, layer.weight.shape[-2:], (1, 2))
    return np.einsum("oiab,ihwab->ohw", layer.weight.astype(np.int64), seen)


def test_sums_are_those_of_int64(entropy: EntropyModel, attack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = attack.hyper_latents(entropy, 20)
    wanted = [entropy.predictor(symbols) for symbols in drawn]
    monkeypatch.setattr(Layer, "_sums", in_int64)
    for symbols, (rows, means) in zip(drawn, wanted, strict=True):
        again = entropy.predictor.in_numpy(symbols)
        assert (again[0] == rows).all() and (again[1] == means).all()


def test_a_unit_in_the_last_place_changes_nothing(
    entropy: EntropyModel, attack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, rng, whole = attack.hyper_latents(entropy, 50), np.random.default_rng(2), integers._integers
    wanted = [entropy.predictor(symbols) for symbols in drawn]

    def moved(sums: np.ndarray) -> np.ndarray:
        return whole(np.nextafter(sums, np.where(rng.random(sums.shape) < 0.5, -np.inf, np.inf)))

    monkeypatch.setattr(integers, "_integers", moved)
    for symbols, (rows, means) in zip(drawn, wanted, strict=True):
        again = entropy.predictor.in_numpy(symbols)
        assert (again[0] == rows).all() and (again[1] == means).all()


def test_the_largest_weights_and_activations_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    weight = rng.choice([-LIMIT, LIMIT, LIMIT - 1], (8, 480, 5, 5)).astype(np.int16)
    zeros = np.zeros(8, np.int64)
    layer = Layer(weight, zeros, np.zeros(8, np.int32), 1 << SLOPE_BITS, pixel_shuffle=False)
    x = rng.choice([-LIMIT, LIMIT], (480, 6, 7))
    wanted = in_int64(layer, x)
    assert (layer(x, None) == wanted).all()
    order = rng.permutation(480)
    shuffled = Layer(weight[:, order], zeros, layer.shift, layer.slope, pixel_shuffle=False)
    assert (shuffled(x[order], None) == wanted).all()


def test_weights_whose_sums_would_not_be_exact_are_refused() -> None:
    one, shift = np.full((1, 1, 1, 1), LIMIT, np.int16), np.zeros(1, np.int32)
    Layer(one, np.array([1 << 51]), shift, 1 << SLOPE_BITS, pixel_shuffle=False)
    Layer(one, np.array([1 << 45]), shift, 1, pixel_shuffle=False)
    largest = 1 << SLOPE_BITS
    bad = [
        (1 << 52, 0, largest),
        (-(1 << 62), 0, largest),
        (0, 48, 0),
        (1 << 40, -30, 0),
        (0, 0, 1 << 17),
        (1 << 46, 0, 1),
    ]
    for bias, moved, slope in bad:
        with pytest.raises(UserError, match="integer network is damaged"):
            Layer(one, np.array([bias]), shift + moved, slope, pixel_shuffle=False)


def test_a_network_that_would_take_much_memory_is_refused() -> None:
    layer = Layer(np.ones((4, 1, 1, 1), np.int16), np.zeros(4, np.int64), np.zeros(4, np.int32), 0, pixel_shuffle=True)

    def network(count: int) -> IntegerNetwork:
        return IntegerNetwork(0, np.zeros(1, np.int64), (layer,) * count, np.arange(3), mean_bits=None)

    assert network(2).factor == 4
    for count in (3, 8):
        with pytest.raises(UserError, match="damaged"):
            network(count)


def test_a_file_reads_back_and_damage_is_found_or_another_network(entropy: EntropyModel) -> None:
    content = (GOLDEN / "v2" / "hyper_decoder.bin").read_bytes()
    network = IntegerNetwork.from_binary(content)
    assert network.binary == content and network.digest == entropy.predictor.digest
    for cut in [*range(60), *range(60, len(content), 97), len(content) - 1]:
        with pytest.raises(UserError, match="damaged"):
            IntegerNetwork.from_binary(content[:cut])
    with pytest.raises(UserError, match="damaged"):
        IntegerNetwork.from_binary(content + b"\0")
    with pytest.raises(UserError, match="has version 2, this program reads 1: update"):
        IntegerNetwork.from_binary(content[:4] + b"\x02" + content[5:])
    rng = np.random.default_rng(0)
    for _ in range(300):
        altered = bytearray(content)
        altered[rng.integers(4, 200) if rng.random() < 0.5 else rng.integers(len(content))] ^= 1 << rng.integers(8)
        try:
            assert IntegerNetwork.from_binary(bytes(altered)).digest != network.digest
        except UserError as error:
            assert "integer network" in str(error)


@pytest.mark.parametrize("name", ["bmshj2018_hyperprior", "mbt2018_mean"])
def test_integers_are_close_to_floating_point(name: str, hyper_codec: Callable[[str], HyperCodec]) -> None:
    codec = hyper_codec(name)
    torch_codec, rng = TorchCodec(codec), np.random.default_rng(0)
    drawn = [(rng.standard_normal((codec.N, 6, 7)) * 6).astype(np.int32) for _ in range(4)]
    network = integer_network(codec, drawn)
    predictor = torch_codec.entropy.predictor
    assert predictor is not None
    for symbols in drawn:
        rows, means = network(symbols)
        parameters, (step,) = predictor.begin(symbols), predicted(codec.passes)
        float_rows, float_means = parameters(step, step.region(24, 28), np.zeros((codec.M, 24, 28), np.float32))
        assert rows.shape == float_rows.shape == (codec.M, 24, 28)
        apart = np.abs(rows.astype(int) - float_rows)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.02
        grid = 2.0**-MEAN_BITS
        assert np.abs(means - float_means).max() < 0.5 * grid + 0.02
        assert (means % grid == 0).all()
    large = (rng.standard_normal((codec.N, 47, 30)) * 6).astype(np.int32)
    in_tiles, whole = network(large)[0], network._results(large)
    assert (np.searchsorted(network.thresholds, whole[: codec.M]) == in_tiles).all()


def test_layers_without_an_integer_version_are_named(hyper_codec: Callable[[str], HyperCodec]) -> None:
    codec = hyper_codec("mbt2018_mean")
    codec.h_s.append(torch.nn.Sigmoid())
    with pytest.raises(UserError, match=r"h_s\.5 \(Sigmoid\(\)\) has no integer version"):
        integer_network(codec, [np.zeros((8, 2, 2), np.int32)])
