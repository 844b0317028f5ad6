"""Students with other GDNs, and encoders, through the whole recipe."""

from pathlib import Path

import pytest
import torch
from test_loop import FAST, rows, train, weights

from codecswap.cli import run
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.graph import onnx_graph as graph
from codecswap.layers.gdn import PlainActivation
from codecswap.students.checkpoint import read_student
from codecswap.swaps.apply import swap, swap_gdn
from codecswap.training.student import LatentCost, TeacherStudent

SMALL = ("--replacement", "subpixel", "--calibration_count", "8", "--lr", "1e-3")


def trained_names(student: torch.nn.Module) -> set[str]:
    return {name for name, parameter in student.named_parameters() if parameter.requires_grad}


def test_what_trains_with_another_gdn(teacher: FactorizedPrior) -> None:
    student, _ = swap_gdn(swap(teacher, "subpixel")[0], "gdn1")
    convs = {f"g_s.{i}.0.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias")}
    gains = {f"g_s.{i}.{kind}" for i in (1, 3, 5) for kind in ("beta", "gamma")}
    TeacherStudent(teacher, student)
    assert trained_names(student) == convs | gains  # it was made to be trained
    TeacherStudent(teacher, student, freeze_gdn=True)
    assert trained_names(student) == convs
    ramps, _ = swap_gdn(swap(teacher, "subpixel")[0], "ramps")
    TeacherStudent(teacher, ramps)
    assert trained_names(ramps) == convs  # it is close already: as GDN itself, only when asked for
    TeacherStudent(teacher, ramps, whole_decoder=True)
    assert trained_names(ramps) > convs
    encoder, _ = swap_gdn(swap(teacher, "subpixel")[0], "relu", "encoder")
    TeacherStudent(teacher, encoder, part="encoder")
    assert trained_names(encoder) == {f"g_a.{i}.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias")}


@pytest.mark.slow
def test_a_decoder_without_gdn_through_the_recipe(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Distilled, resumed, fine-tuned, exported; the teacher's bitstreams decode all along."""
    train("distill", pictures, tmp_path / "d", *SMALL, "--gdn", "relu", "--init", "weights", "--epochs", "1")
    said = capsys.readouterr().out
    assert "--gdn relu cannot equal this teacher" in said and "--replacement subpixel cannot" not in said
    table = rows(tmp_path / "d")
    assert table[-1]["psnr_teacher"] > table[0]["psnr_teacher"]
    train("distill", pictures, tmp_path / "d", "--resume", "auto", "--epochs", "2")
    assert len(rows(tmp_path / "d")) == 3
    resumed = [
        "--coco_dir",
        str(pictures),
        "--save_dir",
        str(tmp_path / "d"),
        *FAST,
        "--resume",
        "auto",
        "--gdn",
        "none",
    ]
    assert run("distill", resumed) == 2
    assert "--gdn is relu in" in capsys.readouterr().err
    last = tmp_path / "d" / "last.pt"
    train("finetune", pictures, tmp_path / "f", "--resume_student", str(last), "--epochs", "1")
    loaded = read_student(tmp_path / "f" / "ft_last.pt")
    assert loaded.record and (loaded.record.gdn, loaded.record.same_latents, loaded.exact) == ("relu", True, False)
    assert sum(isinstance(layer, PlainActivation) for layer in loaded.student.g_s) == 3
    size = ("--height", "64", "--width", "64", "--images", str(pictures))
    options = ["--checkpoint", str(loaded.path), "--output", str(tmp_path / "e"), *size, "--part", "decoder"]
    assert run("export", options) == 0
    operators = graph.facts(tmp_path / "e" / "decoder.onnx", (1, 80, 4, 4)).operators
    assert set(operators) == {"Conv", "DepthToSpace", "Relu"}
    assert run("export", [*options, "--gdn", "ramps"]) == 2
    assert "holds a student with --gdn relu" in capsys.readouterr().err


@pytest.mark.slow
def test_the_number_of_pieces_is_kept(pictures: Path, tmp_path: Path) -> None:
    train(
        "distill",
        pictures,
        tmp_path,
        *SMALL,
        "--gdn",
        "ramps",
        "--part",
        "both",
        "--gdn_tolerance",
        "0.2",
        "--epochs",
        "0",
    )
    loaded = read_student(tmp_path / "last.pt")
    assert loaded.record and loaded.record.gdn_pieces in (1, 2, 3)
    assert weights(tmp_path / "last.pt")["g_s.1.norm.weight"].shape == (48 * loaded.record.gdn_pieces, 48, 1, 1)


@pytest.mark.slow
def test_an_encoder_towards_the_teachers_latents(
    teacher: FactorizedPrior, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Only the encoder moves, and towards the teacher; files are exchanged in both directions."""
    options = (*SMALL, "--gdn", "gdn1", "--part", "encoder", "--init", "weights")
    train("distill", pictures, tmp_path / "d", *options, "--epochs", "2")
    table = rows(tmp_path / "d")
    assert table[-1]["psnr_teacher"] > table[0]["psnr_teacher"]
    assert abs(table[-1]["bpp"] / table[-1]["teacher_bpp"] - 1) < abs(table[0]["bpp"] / table[0]["teacher_bpp"] - 1)
    state, old = weights(tmp_path / "d" / "last.pt"), swap(teacher, "subpixel")[0].state_dict()
    assert all(torch.equal(state[name], value) for name, value in old.items() if not name.startswith("g_a"))
    train(
        "finetune",
        pictures,
        tmp_path / "f",
        "--resume_student",
        str(tmp_path / "d" / "last.pt"),
        "--part",
        "encoder",
        "--epochs",
        "1",
    )
    loaded = read_student(tmp_path / "f" / "ft_last.pt")
    student = loaded.student
    assert loaded.record and loaded.record.gdn_part == "encoder" and not loaded.record.same_latents
    assert student.same_entropy(teacher) and not student.same_latents(teacher)
    y = student.g_a(torch.rand(1, 3, 64, 64))
    read = teacher.decompress_latents(student.compress_latents(y), y.shape[-2:])
    torch.testing.assert_close(read, student.quantize(y), rtol=0, atol=1e-5)
    capsys.readouterr()
    assert run("eval", ["--checkpoint", str(loaded.path), "--images", str(pictures / "val"), "--anchors", "none"]) == 0
    assert "either's decoder reads the other's files" in capsys.readouterr().out
    assert run("report", [str(tmp_path / "d"), "--output", str(tmp_path / "report.html"), "--pictures", "1"]) == 0
    assert "it writes other files, but either decodes" in (tmp_path / "report.html").read_text()


def test_an_inexact_decoder_is_no_decoder_to_keep(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ["--coco_dir", str(pictures), "--save_dir", str(tmp_path), *FAST]
    assert run("distill", [*common, "--part", "encoder"]) == 2
    assert "add --replacement subpixel or masked" in capsys.readouterr().err
    assert run("distill", [*common, "--part", "encoder", "--unfreeze_all"]) == 2
    assert "leave out --part encoder" in capsys.readouterr().err


def test_what_an_error_of_a_latent_costs(teacher: FactorizedPrior) -> None:
    """Against the decoder itself: unit errors of one channel, decoded."""
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 32).repeat_interleave(4, 2).repeat_interleave(4, 3)
    cost, latents = LatentCost(teacher, x), encode(teacher, x)
    wanted = (teacher.g_s(latents) - x).square().mean()
    channels = latents.var((0, 2, 3)).argsort(descending=True)[:3].tolist()
    for channel in channels:
        error = torch.zeros_like(latents)
        error[:, channel] = 0.05 * (2 * torch.randint(0, 2, latents[:, channel].shape) - 1)
        raised = (teacher.g_s(latents + error) - teacher.g_s(latents)).square().mean()
        # the cost has the scale of an absolute error, and the bits besides
        assert 0.5 < cost(latents + error, latents) / (0.5 * raised / wanted.sqrt()) < 4
