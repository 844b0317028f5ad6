"""`codecswap eval` from its options to its files."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from compressai.utils.plot.__main__ import parse_json_file
from PIL import Image

from codecswap.cli import parse, run
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.data.transforms import whole_picture
from codecswap.evaluation import command
from codecswap.evaluation.measure import TeacherAndStudents, code
from codecswap.metrics.table import METRICS
from codecswap.swaps.apply import swap

KEYS = {"psnr-rgb", "ms-ssim-rgb", "bpp", "encoding_time", "decoding_time"}


def evaluate(folder: Path, *words: object) -> int:
    return run("eval", ["--images", str(folder), "--num_workers", "0", "--accelerator", "cpu", *map(str, words)])


def read(folder: Path, name: str = "summary.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "pictures.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_writes_what_it_prints(folder: Path, tmp_path: Path, student_of, capsys) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for path in sorted(folder.rglob("*.png")):
        (pictures / path.name).write_bytes(path.read_bytes())
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    student, out = student_of("tiny", "upsample", "run/last.pt"), tmp_path / "out"
    assert evaluate(pictures, "--checkpoint", student, "--anchors", "50", "--output", out) == 0
    said = capsys.readouterr()
    assert "broken.jpg cannot be read" in said.err and "every bitstream of the teacher decodes" in said.out
    summary = read(out)
    assert summary["complete"] and summary["pictures"]["unreadable"] == ["broken.jpg"]
    assert (summary["pictures"]["measured"], summary["pictures"]["found"]) == (2, 3)
    teacher, mine, *anchors = summary["codecs"]
    assert [(teacher["name"], mine["name"]), mine["same_latents"]] == [("teacher", "student"), True]
    assert mine["checkpoint"] == str(student) and mine["mean"]["psnr"] < teacher["mean"]["psnr"]
    assert {anchor["name"] for anchor in anchors} >= {"JPEG q50", "WebP q50"}
    for codec in summary["codecs"]:
        line = next(line for line in said.out.splitlines() if f" {codec['name']} " in line and "│" in line)
        mean = codec["mean"]
        assert f"{mean['psnr']:.3f}" in line and f"{mean['bpp']:.4f}" in line and f"{mean['ms_ssim']:.5f}" in line
        mine_rows = [row for row in rows(out) if row["codec"] == codec["name"]]
        assert [row["picture"] for row in mine_rows] == ["a.png", "b.png"] and mine_rows[0]["kind"] == codec["kind"]
        for key in ("psnr", "bpp", "ms_ssim", "encoding_time", "decoding_time"):
            assert mean[key] == pytest.approx(sum(float(row[key]) for row in mine_rows) / 2)
        curve = read(out, summary["curves"][codec["curve"]])
        assert set(curve) == {"name", "description", "results"} and set(curve["results"]) == KEYS
        assert curve["results"]["psnr-rgb"] == [mean["psnr"]] and curve["results"]["bpp"] == [mean["bpp"]]
    codec = load_codec("tiny")
    bpp, _ = code(codec, whole_picture(pictures / "a.png")[None])
    assert float(rows(out)[0]["bpp"]) == bpp
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


def test_the_teacher_alone_and_pictures_in_sub_folders(folder: Path, tmp_path: Path, capsys) -> None:
    assert evaluate(folder, "--teacher", "tiny", "--output", tmp_path) == 0
    said = capsys.readouterr().out
    assert "Teacher against the picture: tiny, 2 pictures" in said and "student" not in said
    assert len([line for line in said.splitlines() if "│ JPEG q" in line]) == 5, "anchors are the default for --images"
    assert {row["picture"] for row in rows(tmp_path)} == {"a.png", "sub/b.png"}
    assert evaluate(folder, "--teacher", "tiny", "--anchors", "none", "--output", tmp_path) == 0
    assert {path.name for path in (tmp_path / "curves").iterdir()} == {"teacher.json"}, (
        "curves of the run before are gone"
    )


def test_crops_have_no_anchors_unless_asked(pictures: Path, capsys) -> None:
    assert run("eval", ["--coco_dir", str(pictures), "--teacher", "tiny", "--num_workers", "0"]) == 0
    assert "JPEG" not in capsys.readouterr().out


def test_files_of_others_in_the_folder_stay(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "vtm.json").write_text("{}")
    (tmp_path / "summary.json").write_text('{"curves": {"a": "curves/vtm.json"}}')
    assert evaluate(folder, "--teacher", "tiny", "--anchors", "none", "--output", tmp_path) == 0
    assert (tmp_path / "curves" / "vtm.json").exists()


def test_short_sides_have_no_ms_ssim(tmp_path: Path, photos: list[Path], capsys) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    Image.open(photos[0]).crop((0, 0, 160, 300)).save(folder / "short.png")
    assert evaluate(folder, "--teacher", "tiny", "--anchors", "40", "--output", out) == 0
    assert capsys.readouterr().out.count("not defined") == len(read(out)["codecs"])
    assert rows(out)[0]["ms_ssim"] == "" and read(out)["codecs"][0]["mean"]["ms_ssim"] is None
    assert read(out, "curves/teacher.json")["results"]["ms-ssim-rgb"] == [None]
    Image.open(photos[0]).crop((0, 0, 161, 300)).save(folder / "enough.png")
    assert evaluate(folder, "--teacher", "tiny", "--anchors", "none", "--output", out) == 0
    said = capsys.readouterr().out
    assert "(1 of 2)" in said and "not defined" not in said
    curve = read(out, "curves/teacher.json")
    assert "MS-SSIM is defined on 1 of the 2 pictures" in curve["description"]
    assert curve["results"]["ms-ssim-rgb"] == [pytest.approx(float(rows(out)[0]["ms_ssim"]))]


@pytest.mark.slow
def test_rate_distortion_of_local_teachers_and_their_students(
    folder: Path, tmp_path: Path, local_teachers: list[Path], student_of, capsys
) -> None:
    def rougher(student: FactorizedPrior) -> None:
        with torch.no_grad():
            torch.manual_seed(0)
            student.g_s[6][0].weight *= 1 + 0.05 * torch.randn_like(student.g_s[6][0].weight)

    words: list[object] = ["--anchors", "none", "--output", tmp_path / "out"]
    for index, teacher in enumerate(local_teachers):
        exact = student_of(str(teacher), "masked", f"exact/{index}/last.pt")
        rough = student_of(str(teacher), "subpixel", f"rough/{index}/last.pt", rougher)
        words += ["--teacher", teacher, "--checkpoint", rough, "--checkpoint", exact]
    assert evaluate(folder, *words) == 0
    said = capsys.readouterr().out
    summary = read(tmp_path / "out")
    assert set(summary["curves"]) == {"teacher", "subpixel, distilled", "masked, distilled"}
    teacher = read(tmp_path / "out", summary["curves"]["teacher"])["results"]
    rough_curve = read(tmp_path / "out", summary["curves"]["subpixel, distilled"])["results"]
    assert len(teacher["bpp"]) == 4 and teacher["bpp"] == sorted(teacher["bpp"]) == rough_curve["bpp"]
    assert teacher["psnr-rgb"] == sorted(teacher["psnr-rgb"])
    deltas = {entry["curve"]: entry for entry in summary["bjontegaard"]}
    same, rough = deltas["masked, distilled"], deltas["subpixel, distilled"]
    assert same["bd_rate"]["value"] == pytest.approx(0, abs=0.01) == same["bd_psnr"]["value"]
    assert rough["bd_rate"]["value"] > 0.1 and rough["bd_psnr"]["value"] < -0.01
    lost = [t - s for t, s in zip(teacher["psnr-rgb"], rough_curve["psnr-rgb"], strict=True)]
    assert min(lost) < -rough["bd_psnr"]["value"] < max(lost), "a mean of what is lost"
    assert f"subpixel, distilled against teacher: BD-rate {rough['bd_rate']['value']:+.2f} %" in said
    assert all(f"teacher q{number}.pth" in said for number in range(1, 5)) and "rough/3/last.pt" in said


def test_few_points_have_no_bd_rate_and_say_why(folder: Path, local_teachers: list[Path], student_of, capsys) -> None:
    words: list[object] = ["--anchors", "none"]
    for index, teacher in enumerate(local_teachers[:2]):
        words += ["--teacher", teacher, "--checkpoint", student_of(str(teacher), "subpixel", f"{index}/last.pt")]
    assert evaluate(folder, *words) == 0
    assert "no BD-rate and no BD-PSNR, it needs 4 points of either curve and there are 2" in capsys.readouterr().out


@pytest.mark.slow
def test_compressai_draws_the_files(folder: Path, tmp_path: Path, student_of) -> None:
    student = student_of("tiny", "upsample", "run/last.pt")
    assert evaluate(folder, "--checkpoint", student, "--anchors", "30,60", "--output", tmp_path / "out") == 0
    published = Path(
        str(files("codecswap") / "assets" / "published" / "compressai-bmshj2018-factorized-mse-kodak.json")
    )
    drawn = [*sorted((tmp_path / "out" / "curves").iterdir()), published]
    assert {path.stem for path in drawn} >= {"teacher", "student", "JPEG", "WebP"}
    for path in drawn:
        for metric in ("psnr", "ms-ssim"):
            curve = parse_json_file(path, metric)
            assert len(curve["xs"]) == len(curve["ys"]) and curve["name"] == json.loads(path.read_text())["name"]
    words = [sys.executable, "-m", "compressai.utils.plot", "-f", *map(str, drawn), "-o", str(tmp_path / "plot.png")]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 1000


def test_the_table_fits_100_columns(folder: Path, student_of, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    known = replace(METRICS["lpips"], load=lambda device: True, function=lambda x, y: torch.tensor([0.1234]))
    monkeypatch.setitem(METRICS, "lpips", known)
    first = student_of("tiny", "upsample", "checkpoints_ft/ft_best.pt")
    second = student_of("tiny", "subpixel", "checkpoints/best_msssim.pt")
    assert evaluate(folder, "--checkpoint", first, "--checkpoint", second, "--metrics", "lpips") == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(table) > 10 and max(map(len, table)) <= 100


def test_a_checkpoint_of_another_teacher_is_refused(
    folder: Path, tmp_path: Path, local_teachers: list[Path], student_of, capsys
) -> None:
    mine = student_of("tiny", "subpixel", "mine.pt")
    other = student_of(str(local_teachers[0]), "subpixel", "other.pt")
    assert evaluate(folder, "--checkpoint", mine, "--checkpoint", other) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{other} has another teacher ({local_teachers[0]}) than {mine} (tiny)" in said
    teachers = ["--teacher", local_teachers[1], "--teacher", local_teachers[2]]
    assert evaluate(folder, *teachers, "--checkpoint", other) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"The teacher of {other} ({local_teachers[0]}) is not among those named" in said
    assert evaluate(folder, "--teacher", local_teachers[1], "--checkpoint", other) == 2
    assert "is not the one that" in capsys.readouterr().err
    torch.save(FactorizedPrior(6, 10).state_dict(), tmp_path / "small.pth")
    torch.save({"student_state": swap(load_codec("tiny"))[0].state_dict()}, tmp_path / "recipe.pt")
    assert evaluate(folder, "--teacher", tmp_path / "small.pth", "--checkpoint", tmp_path / "recipe.pt") == 2
    assert "name its own with --teacher" in capsys.readouterr().err


def test_a_recipes_student_finds_its_teacher_by_the_encoder(
    folder: Path, tmp_path: Path, local_teachers: list[Path]
) -> None:
    path = tmp_path / "recipe.pt"
    torch.save({"student_state": swap(load_codec(str(local_teachers[1])), "subpixel")[0].state_dict()}, path)
    words = [
        "--teacher",
        local_teachers[0],
        "--teacher",
        local_teachers[1],
        "--anchors",
        "none",
        "--output",
        tmp_path / "o",
    ]
    assert evaluate(folder, *words, "--checkpoint", path) == 0
    names = [codec["name"] for codec in read(tmp_path / "o")["codecs"]]
    assert names == ["teacher q1.pth", "teacher q2.pth", "student"]
    assert read(tmp_path / "o")["codecs"][2]["same_latents"]


def test_a_trained_encoder_is_told(folder: Path, tmp_path: Path, student_of, capsys) -> None:
    def train(student: FactorizedPrior) -> None:
        with torch.no_grad():
            student.entropy_bottleneck.quantiles += 0.01

    one = student_of("tiny", "masked", "trained/last.pt", train)
    two = student_of("tiny", "masked", "frozen/last.pt")
    assert (
        evaluate(folder, "--checkpoint", one, "--checkpoint", two, "--anchors", "none", "--output", tmp_path / "o") == 0
    )
    said = capsys.readouterr()
    assert "trained/last.pt: encoder or entropy model was trained" in said.err
    assert "Encoder and entropy model of frozen/last.pt are the teacher's" in said.out
    assert [codec["same_latents"] for codec in read(tmp_path / "o")["codecs"]] == [None, False, True]


def test_an_interrupted_run_is_told(folder: Path, tmp_path: Path, student_of, capsys) -> None:
    best = student_of("tiny", "masked", "run/best_msssim.pt", epoch=3, config={"epochs": 15})
    student_of("tiny", "masked", "run/last.pt", epoch=4, batch=7, config={"epochs": 15})
    assert evaluate(folder, "--checkpoint", best, "--anchors", "none", "--output", tmp_path / "o") == 0
    said = capsys.readouterr()
    sentence = (
        f"{best} is from after 4 of 15 epochs, and its run is unfinished: it has come to 5 of 15 epochs and 7 steps"
    )
    assert sentence in said.err and "student" in said.out
    assert sentence in read(tmp_path / "o")["unfinished"][0]


def test_ctrl_c_shows_and_writes_what_there_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    decode = TeacherAndStudents.decode

    def stop(self, picture, x):
        if picture.startswith("sub"):
            raise KeyboardInterrupt
        return decode(self, picture, x)

    monkeypatch.setattr(TeacherAndStudents, "decode", stop)
    assert evaluate(folder, "--teacher", "tiny", "--anchors", "50", "--output", tmp_path) == 130
    said = capsys.readouterr()
    assert "stopped after 1 of 2 pictures" in said.err and "1 of 2 pictures" in said.out
    assert not read(tmp_path)["complete"] and {row["picture"] for row in rows(tmp_path)} == {"a.png"}
    assert "stopped after 1 of 2 pictures" in read(tmp_path, "curves/JPEG.json")["description"]
    (folder / "sub" / "b.png").rename(folder / "b.png")
    try:
        monkeypatch.setattr(TeacherAndStudents, "decode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert evaluate(folder, "--teacher", "tiny", "--output", tmp_path / "none") == 130
    finally:
        (folder / "b.png").rename(folder / "sub" / "b.png")
    assert capsys.readouterr().err == "codecswap eval: stopped.\n"
    assert not (tmp_path / "none" / "summary.json").exists(), "nothing was measured"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--quality", "1,9"], "--quality takes numbers from 1 to 8"),
        (["--anchors", "0"], "--anchors takes numbers from 1 to 100"),
        (["--teacher", "tiny", "--quality", "1,2"], "give one of the two"),
        (["--teacher", "nowhere.pth"], "There is no checkpoint nowhere.pth"),
        (["--checkpoint", "nowhere.pt"], "There is no checkpoint nowhere.pt"),
        (["--accelerator", "tpu"], "--accelerator is auto, cpu or cuda, not tpu"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(words: list[str], sentence: str, folder: Path, capsys) -> None:
    assert run("eval", ["--images", str(folder), "--num_workers", "0", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_an_unwritable_folder_is_refused_before_anything_is_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "build_evaluation_set", lambda *_: pytest.fail("models were loaded"))
    assert evaluate(folder, "--teacher", "tiny", "--output", tmp_path / "file" / "out") == 2
    said = capsys.readouterr().err
    assert "not a folder: --output cannot be written into it" in said and said.count("\n") == 1


def test_a_folder_without_a_readable_picture_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.png").write_bytes(b"none")
    assert evaluate(tmp_path, "--teacher", "tiny", "--output", tmp_path / "out") == 2
    assert "None of the 1 pictures" in capsys.readouterr().err
    assert not (tmp_path / "out" / "summary.json").exists()


def test_no_pictures_given(capsys) -> None:
    assert run("eval", ["--teacher", "tiny"]) == 2
    assert "name a folder with --images" in capsys.readouterr().err


def test_lists_and_numbers_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("teacher: [a, b]\nanchors: 1,2\ncheckpoint: [c]\n")
    options = parse("eval", ["--config", str(tmp_path / "a.yaml"), "--checkpoint", "d", "--checkpoint", "e"])
    assert (options.teacher, options.anchors, options.checkpoint) == (["a", "b"], "1,2", ["d", "e"])
    assert parse("eval", ["--quality", "3"]).quality == 3 and options.given == {"teacher", "anchors", "checkpoint"}
