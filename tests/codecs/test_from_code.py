"""Codecs that a user's code builds: every stage, refusals in a sentence, and that nothing runs unless the user names it."""

import json
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from small_codecs import small_codec

import codecswap
from codecswap import cli
from codecswap.codecs import from_code
from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import Teacher, load_codec
from codecswap.config import names_code
from codecswap.errors import UserError
from codecswap.export import codec as exporting
from codecswap.students.checkpoint import load_student, read_student

EXAMPLE = Path(__file__).parents[2] / "examples" / "bls2017.py"
HEAD = """
import torch
from torch import nn
from compressai.models import FactorizedPrior, JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior, ScaleHyperprior
from compressai.entropy_models import EntropyBottleneck
torch.manual_seed(0)

class Other(FactorizedPrior):
    def forward(self, x):
        made = super().forward(x)
        return made | {"x_hat": 2 * made["x_hat"]}

class Global(nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)

def changed(model, part, layer):
    setattr(model, part, nn.Sequential(*getattr(model, part), layer))
    return model
"""


@pytest.fixture(scope="module")
def bls2017(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``file.py:function`` of the example, with weights of 8 channels beside it."""
    folder = tmp_path_factory.mktemp("bls2017")
    shutil.copy(EXAMPLE, folder / "bls2017.py")
    name = f"{folder / 'bls2017.py'}:BLS2017"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = from_code._called(name)
        model = type(model)(8)
        model.g_a[4].weight *= 50
        model.update()
    torch.save(model.state_dict(), folder / "bls2017.pth")
    return name.replace("BLS2017", "codec")


def written(folder: Path, returned: str, head: str = HEAD) -> str:
    """The name of a function that returns an expression's value."""
    path = folder / f"written_{zlib.crc32(returned.encode())}.py"
    path.write_text(f"{head}\ndef codec():\n    return {returned}\n")
    return f"{path}:codec"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_receptive_fields_are_measured_as_they_are_known(name: str) -> None:
    codec = small_codec(name)
    assert max(from_code._reach(codec.g_s, codec.M, 1, 16), from_code._reach(codec.g_a, 3, 16, 1)) == codec.margin


def test_a_codec_with_a_table_for_each_channel(bls2017: str, photos: list[Path]) -> None:
    codec = load_codec(bls2017)
    assert (codec.N, codec.M, codec.factor, codec.margin, codec.multiple) == (8, 8, 16, 2, 16)
    assert codec.decompress(codec.compress(photos[0])).size == (768, 512)
    x = torch.rand(1, 3, 64, 64)
    rounded, likelihoods = codec.entropy_bottleneck(codec.g_a(x), training=False)
    assert torch.equal(codec.quantize(codec.g_a(x)), rounded) and rounded.unique().numel() > 10
    assert codec.bits(codec.g_a(x)).item() == pytest.approx(-likelihoods.log2().sum().item(), rel=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("bmshj2018_hyperprior", "Scale"), ("mbt2018_mean", "MeanScale")])
def test_codecs_with_a_hyperprior_write_the_strings_of_the_same_known_codec(
    name: str, kind: str, tmp_path: Path
) -> None:
    known = small_codec(name)
    torch.save(known.state_dict(), tmp_path / "a.pth")
    loading = f"(lambda model: model.load_state_dict(torch.load({str(tmp_path / 'a.pth')!r})) and model)"
    codec = load_codec(written(tmp_path, f"{loading}({kind}Hyperprior(8, 12))"))
    assert type(codec).__name__ == f"Built{kind}Hyperprior"
    assert (codec.N, codec.M, codec.margin, codec.multiple) == (8, 12, 2, 64)
    y = known.g_a(torch.rand(1, 3, 64, 64))
    assert codec.compress_latents(y) == known.compress_latents(y)
    student, _ = codecswap.swap(codec, "subpixel")
    codecswap.save_student(student, tmp_path / "student.pt", codec)
    loaded = load_student(tmp_path / "student.pt", codec.source.path)
    assert loaded.same_latents(known) and type(loaded) is type(codec)
    assert torch.equal(loaded.g_s(y), student.g_s(y))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("{}", "returned dict, not a torch.nn.Module"),
        ("nn.Conv2d(3, 3, 3)", "has no g_a, g_s, entropy_bottleneck (CompressAI's EntropyBottleneck): give it these"),
        ("1 / 0", "cannot be run (ZeroDivisionError: division by zero): correct that code"),
        ("exit(3)", "cannot be run (SystemExit: 3)"),
        ("codec", "returned function, not a torch.nn.Module"),
        (
            "JointAutoregressiveHierarchicalPriors(8, 12)",
            "known of CompressAI's own classes alone; save its state dict",
        ),
        ("Other(8, 12)", "gives another picture or other bits"),
        ("changed(FactorizedPrior(8, 12), 'g_s', Global())", "it cannot be computed in tiles"),
        ("changed(FactorizedPrior(8, 12), 'g_s', nn.Conv2d(3, 3, 3))", "g_s gives (1, 3, 254, 254)"),
        ("changed(FactorizedPrior(8, 12), 'g_a', nn.Conv2d(9, 9, 3))", "does not code a picture of 256x256 pixels"),
        ("changed(MeanScaleHyperprior(8, 12), 'h_s', nn.PixelShuffle(2))", "h_s gives (1, 6, 32, 32)"),
        ("changed(FactorizedPrior(8, 12), 'g_a', nn.Conv2d(12, 9, 1))", "does not code a picture"),
    ],
)
def test_what_is_no_such_codec_ends_in_a_sentence(
    returned: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ["export", "--teacher", written(tmp_path, returned), "--output", str(tmp_path / "out")]
    assert cli.main(given) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_names_that_do_not_exist(photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    there = written(tmp_path, "None")
    broken = written(tmp_path, "1 +")
    for name, said in (
        ("missing.py:codec", "There is no file missing.py: check --teacher"),
        ("missing.pth", "There is no checkpoint missing.pth: check --teacher"),
        (f"{there}s", "has no function codecs: name one after the colon"),
        (broken, "cannot be run (SyntaxError"),
        ("no_such_package.models:codec", "cannot be run (ModuleNotFoundError: No module named 'no_such_package'"),
    ):
        for command in (["eval", "--images", str(photos[0].parent)], ["export", "--output", str(tmp_path / "out")]):
            assert cli.main([*command, "--teacher", name]) == 2
            error = capsys.readouterr().err
            assert said in error and error.count("\n") == 1
    assert not names_code("C:\\codecs\\a.pth") and not names_code("a.pth") and names_code("codecs.mine:build")


def test_operators_are_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(exporting, "encode_samples", lambda *given: pytest.fail("it has begun"))
    for returned, said in (
        ("changed(FactorizedPrior(8, 12), 'g_s', nn.GELU())", "GELU at the layer g_s.7 has no operator"),
        ("changed(MeanScaleHyperprior(8, 12), 'h_s', nn.Tanh())", "The layer h_s.5 (Tanh()) has no integer version"),
    ):
        name = written(tmp_path, returned)
        for command in (["quantize"], ["compile", "--target", "openvino"]):
            assert cli.main([*command, "--teacher", name, "--output", str(tmp_path / "out")]) == 2
            assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_goes_through_every_stage(
    bls2017: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher, val = ["--teacher", bls2017], ["--images", str(pictures / "val")]
    few = ["--coco_dir", str(pictures), "--batch_size", "4", "--num_workers", "0", "--accelerator", "cpu"]
    few += ["--epochs", "1", "--recon_every", "0"]
    first, second = str(tmp_path / "d"), str(tmp_path / "f")
    start = ["--replacement", "subpixel", "--gdn", "gdn1", "--calibration_count", "4"]
    assert cli.main(["distill", *teacher, *few, *start, "--save_dir", first]) == 0
    student = ["--resume_student", f"{first}/last.pt"]
    assert cli.main(["finetune", *teacher, *few, *student, "--quantized", "w8a8", "--save_dir", second]) == 0
    for checkpoint in (f"{first}/last.pt", f"{second}/ft_last.pt"):
        loaded = load_student(checkpoint, bls2017)
        assert loaded.same_latents(load_codec(bls2017)) and loaded.record.teacher == bls2017
    for command in ("export", "quantize"):
        assert cli.main([command, *teacher, *val, "--output", str(tmp_path / command)]) == 0
        codec = codecswap.open_codec(tmp_path / command)
        assert codec.manifest.name == "bls2017.py:codec" and codec.manifest.margin == 2
    capsys.readouterr()
    assert cli.main(["advise", *teacher, *val]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be replaced by upsample: its stride is (4, 4), not 2. subpixel and masked equal the teacher" in said
    assert cli.main(["report", first, "--output", str(tmp_path / "report.html")]) == 0
    assert "is code, which runs only if you name it yourself" in (tmp_path / "report.html").read_text("utf-8")
    given = [
        "--checkpoint",
        f"{first}/last.pt",
        "--codec",
        str(tmp_path / "export"),
        "--output",
        str(tmp_path / "eval"),
    ]
    given += [*val, "--num_workers", "0", "--anchors", "none", "--accelerator", "cpu"]
    assert cli.main(["eval", *teacher, *given]) == 0
    found = [one["mean"]["bpp"] for one in json.loads((tmp_path / "eval" / "summary.json").read_text())["codecs"]]
    assert len(found) == 3 and found[0] == found[1] == pytest.approx(found[2], rel=0.03)
    capsys.readouterr()
    for words in (["eval", *given], ["finetune", *few, *student, "--save_dir", str(tmp_path / "x")]):
        assert cli.main(words) == 2
        assert f"is code and runs only if you name it: add --teacher {bls2017}." in capsys.readouterr().err


def test_no_file_has_code_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    name = written(tmp_path, f"open({str(touched)!r}, 'w')")
    codec: Codec = small_codec("bmshj2018_factorized")
    student, _ = codecswap.swap(codec, "subpixel")
    codec.source = Teacher(name)
    codecswap.save_student(student, tmp_path / "named.pt", codec)
    codec.source = Teacher()
    codecswap.save_student(student, tmp_path / "configured.pt", codec)
    content = torch.load(tmp_path / "configured.pt", weights_only=True)
    torch.save(content | {"config": {"teacher": name}}, tmp_path / "configured.pt")
    for path in (tmp_path / "named.pt", tmp_path / "configured.pt"):
        for teachers in ([], [Teacher(name)], [Teacher("tiny", run_code=True)]):
            with pytest.raises(UserError, match="runs only if you name it"):
                read_student(path, teachers)
    with pytest.raises(UserError, match="runs only if you name it yourself"):
        Teacher(name).load()
    assert not touched.exists()
