"""An architecture is one class and one line of the table: another one, with a factor of 8, goes through everything."""

from pathlib import Path

import pytest
import torch
from compressai import models
from compressai.entropy_models import EntropyBottleneck
from compressai.models.utils import conv, deconv
from PIL import Image
from torch import nn

from codecswap.codecs.architectures import ARCHITECTURES, untrained
from codecswap.codecs.factorized import FactorizedPrior, FactorizedPriorReLU
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.evaluation.measure import code, show
from codecswap.export.folder import write_float
from codecswap.export.verify import verify
from codecswap.inference.runtime import OnnxCodec
from codecswap.layers.gdn import GDN
from codecswap.students.checkpoint import load_student, save_student
from codecswap.swaps.apply import swap, swap_gdn


class Shallow(FactorizedPrior):
    """Two strides of 2 and one of 2 by a kernel of 3, with no more than one GDN."""

    factor = 8
    margin = 3

    def __init__(self, N: int, M: int) -> None:
        super().__init__(N, M)
        self.g_a = nn.Sequential(conv(3, N), GDN(N), conv(N, N), conv(N, M, kernel_size=3))
        self.g_s = nn.Sequential(deconv(M, N), deconv(N, N), GDN(N, inverse=True), deconv(N, 3))
        self.entropy_bottleneck = EntropyBottleneck(M)

    @classmethod
    def untrained(cls, state):
        if "g_a.6.weight" in state:
            raise ValueError("these are four layers")
        return cls(state["g_a.0.weight"].shape[0], state["g_a.3.weight"].shape[0])


@pytest.fixture
def shallow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shallow:
    monkeypatch.setitem(ARCHITECTURES, "shallow", Shallow)
    torch.manual_seed(0)
    torch.save(Shallow(6, 10).state_dict(), tmp_path / "shallow.pth")
    codec = load_codec(str(tmp_path / "shallow.pth"))
    assert isinstance(codec, Shallow)
    return codec


def test_each_architecture_knows_its_own_weights(shallow: Shallow, teacher: FactorizedPrior) -> None:
    assert type(untrained(teacher.state_dict())) is FactorizedPrior
    assert type(untrained(shallow.state_dict())) is Shallow
    with pytest.raises(ValueError, match="no architecture"):
        untrained({"g_a.0.weight": torch.zeros(3)})


def test_another_factor_goes_through_evaluation_swap_export_and_files(shallow: Shallow, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 38, 50)
    bpp, latents = code(shallow, x)
    assert latents.shape == (1, 10, 5, 7) and bpp > 0
    assert show(shallow, latents, x).shape == x.shape
    student, replaced = swap(shallow, "subpixel")
    assert len(replaced) == 3 and student.same_latents(shallow)
    seen = encode(shallow, torch.rand(1, 3, 64, 48))
    assert torch.allclose(student.g_s(seen), shallow.g_s(seen), atol=1e-5)
    manifest = write_float(student, tmp_path / "folder")
    assert (manifest.factor, manifest.margin) == (8, 3)
    verify(student, tmp_path / "folder", iter([torch.rand(3, 40, 56).numpy()]), "float32")
    picture = Image.effect_noise((50, 38), 80).convert("RGB")
    data = bitstream.encode(OnnxCodec(tmp_path / "folder", tile=(7, 7)), picture)
    assert bitstream.decode(TorchCodec(shallow), data).size == picture.size
    assert bitstream.unpack(data, shallow.entropy_tables(), 8)[0].shape == (10, 5, 7)


def test_relu_instead_of_gdn_is_told_by_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(models.FactorizedPriorReLU(6, 10).state_dict(), tmp_path / "relu.pth")
    codec = load_codec(str(tmp_path / "relu.pth"))
    assert type(codec) is FactorizedPriorReLU and (codec.N, codec.M) == (6, 10)
    plain = FactorizedPrior(6, 10).eval()
    plain.make_tables()
    swapped = swap_gdn(swap(plain, "subpixel")[0], "relu", "both", init="random")[0]
    save_student(swapped, tmp_path / "student.pt", plain)
    assert type(load_student(tmp_path / "student.pt")) is FactorizedPrior, "its GDNs were swapped, its codec has some"
    with pytest.raises(UserError, match="publishes no weights of bmshj2018_factorized_relu"):
        load_codec(model="bmshj2018_factorized_relu")


def test_a_student_of_another_encoder_has_other_latents(shallow: Shallow) -> None:
    student, _ = swap(shallow, "masked")
    with torch.no_grad():
        student.g_a[0].bias[0] += 1e-6
    assert not student.same_latents(shallow)
