"""The whole page, the command that writes it, and what it says where things are missing."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from codecswap.cli import run
from codecswap.codecs.source import load_codec
from codecswap.data.discovery import find_pictures
from codecswap.data.transforms import whole_picture
from codecswap.evaluation.evaluate import evaluate
from codecswap.evaluation.published import published
from codecswap.report import curves, measurements, writing
from codecswap.report.advice import advise
from codecswap.report.measurements import Measurements
from codecswap.report.page import write_page
from codecswap.report.run import read_run, read_runs
from codecswap.report.texts import text
from codecswap.students.checkpoint import read_student
from codecswap.swaps.apply import swap


class Elements(HTMLParser):
    """All elements of a page: names with attributes, and visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*folders: Path, limit: int = 0) -> str:
    return write_page(read_runs([str(folder) for folder in folders]), Measurements(limit), {})


def says(page: str, key: str, language: str = "en", **values: str) -> bool:
    return text(key, **values).to(language) in Elements(page).text


def test_the_verdict_is_what_evaluation_measures(report: Path, runs: tuple[Path, Path], hostile: Path) -> None:
    page = report.read_text("utf-8")
    paths = find_pictures(hostile).val
    student = read_student(runs[1] / "ft_best.pt").student
    pictures = [(path.name, whole_picture(path)) for path in paths]
    results = evaluate(pictures, {"student": student}, teacher=load_codec("tiny"))
    theirs, mine = (result.mean() for result in results)
    lost = theirs["psnr"] - mine["psnr"]
    changes = [m.scores["psnr"] - t.scores["psnr"] for t, m in zip(*(result.coded for result in results), strict=True)]
    assert says(page, "basis_range", least=f"−{-min(changes):.2f}", most=f"−{-max(changes):.2f}")
    for language in ("en", "ja"):
        assert says(page, "headline_loses", language, decibels=f"{lost:.2f}")
        assert says(page, "headline_same_rate", language, student=f"{mine['bpp']:.3f}", teacher="")
        assert says(page, "bitstreams_kept", language)
        assert says(page, "basis_measured", language, count="3", all="3", checkpoint=str(runs[1] / "ft_best.pt"))
    assert f"{mine['psnr']:.2f}\u00a0dB" in page and f"{theirs['ms_ssim']:.4f}" in page and f"{mine['bpp']:.4f}" in page
    assert 'class="notes"><h2' not in page and "note_" not in page, "nothing is missing"
    for name in ("JPEG", "WebP", "AVIF"):
        assert f"> {name}</li>" in page


def test_the_verdict_says_what_to_ship(
    report: Path, runs: tuple[Path, Path], hostile: Path, tmp_path: Path, capsys
) -> None:
    page = report.read_text("utf-8")
    teacher = load_codec("tiny")
    students = {name: swap(teacher, name)[0] for name in ("subpixel", "masked")}
    results = evaluate(find_pictures(hostile).val, students, teacher=teacher)
    operators = {"subpixel": "Conv, DepthToSpace", "masked": "Resize, Mul, Conv"}
    theirs = results[0].mean()["psnr"]
    for result in results[1:]:
        psnr = result.mean()["psnr"]
        assert psnr == pytest.approx(theirs, abs=0.004), "exact"
        said = {"name": result.name, "operators": operators[result.name], "psnr": f"{psnr:.2f}"}
        for language in ("en", "ja"):
            assert says(page, "advice_nothing", language, **said) and says(page, f"untrained_{result.name}", language)
    assert says(page, "advice_same_pictures", count="3")
    assert says(page, "advice_reach_small", "ja", name="upsample") and not says(
        page, "advice_reach_full", name="upsample"
    )
    assert page.index('class="advice"') < page.index('class="states"') < page.index('class="cards"'), "first screen"
    command = "codecswap export --teacher tiny --replacement subpixel --output codec"
    assert f"<code>{command}</code>" in page
    assert run("report", [str(runs[1]), "-o", str(tmp_path / "again.html")]) == 0
    assert f"\n  {command}\n" in capsys.readouterr().out, "the terminal says it too"
    options = shlex.split(command)[2:-1]
    assert run("export", [*options, str(tmp_path / "codec")]) == 0 and (tmp_path / "codec" / "decoder.onnx").exists()


def test_advice_needs_something_that_loses_less(runs: tuple[Path, Path]) -> None:
    comparison = Measurements(1).compare(read_run(runs[1]))
    assert comparison is not None and list(comparison.exact) == ["subpixel", "masked"]
    zoo = advise(comparison, {"teacher": None, "quality": 3, "metric": "ms-ssim"})
    assert zoo is not None and "--quality 3 --metric ms-ssim --replacement subpixel" in zoo.command
    only_masked = advise(replace(comparison, exact={"masked": comparison.exact["masked"]}), {"teacher": "it's.pth"})
    assert only_masked is not None and only_masked.command.endswith("--replacement masked --output codec")
    assert """--teacher 'it'"'"'s.pth'""" in only_masked.command
    assert advise(replace(comparison, exact={}), {}) is None
    assert advise(replace(comparison, exact={"masked": comparison.student}), {}) is None, "it loses as much"
    assert advise(replace(comparison, student=comparison.teacher), {}) is None, "nothing is lost"


def test_familiar_formats_are_compared_on_the_same_few_pictures(runs: tuple[Path, Path], monkeypatch) -> None:
    monkeypatch.setattr(measurements, "ANCHOR_PICTURES", 2)
    comparison = Measurements(limit=3).compare(read_run(runs[0]))
    assert comparison
    student, few = comparison.student, comparison.on_anchors
    assert len(student.coded) == 3 and len(few) == 2
    names = [student.coded[index].picture for index in few]
    assert all([one.picture for one in anchor.coded] == names for anchor in comparison.anchors)
    mean = sum(student.coded[index].bpp for index in few) / 2
    plot = curves.rate_plots(comparison)[0]
    assert mean in [line.x[0] for line in plot.lines] and mean != student.mean()["bpp"]
    known = published("bmshj2018_factorized")["results"]["bpp"]
    assert plot.lines[0].x == known


def test_replacements_that_do_the_same_are_measured_once(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[list[str]] = []

    def counting(pictures, codecs=None, **more):
        decoded.extend([list(codecs)] if codecs else [])
        return evaluate(pictures, codecs, **more)

    monkeypatch.setattr(measurements, "evaluate", counting)
    comparison = Measurements(1).compare(read_run(runs[1]))
    assert comparison is not None and decoded == [["student", "subpixel"]]
    masked = swap(load_codec("tiny"), "masked")[0]
    path = find_pictures(Path(read_run(runs[1]).config["coco_dir"])).val[0]
    wanted = evaluate([path], {"masked": masked}, teacher=load_codec("tiny"))[1].coded[0]
    mine = comparison.exact["masked"]
    assert (mine.name, mine.coded[0].scores, mine.coded[0].bpp) == ("masked", wanted.scores, wanted.bpp)

    def other_masked(teacher, name):
        codec, report = swap(teacher, name)
        with torch.no_grad():
            next(codec.g_s.parameters()).mul_(1.01 if name == "masked" else 1)
        return codec, report

    monkeypatch.setattr(measurements, "swap", other_masked)
    comparison = Measurements(1).compare(read_run(runs[1]))
    assert comparison is not None and decoded[1] == ["student", "subpixel", "masked"]
    assert comparison.exact["masked"].mean()["psnr"] != comparison.exact["subpixel"].mean()["psnr"]


def test_names_cannot_become_elements(report: Path, runs: tuple[Path, Path]) -> None:
    page = report.read_text("utf-8")
    parsed = Elements(page)
    scripts = [attributes for name, attributes in parsed.elements if name == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not [name for name, attributes in parsed.elements if name == "b" or "onerror" in attributes]
    assert page.count("</script>") == 2 and "<img src=x" not in page
    assert str(runs[0]) in parsed.text and "<img src=x onerror=alert(1)>.png" in parsed.text
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert "<img src=x onerror=alert(1)>.png" in [picture["name"] for picture in data["pictures"]]
    assert not [
        attribute for _, attributes in parsed.elements for attribute in attributes if attribute.startswith("on")
    ]


def test_hostile_options_and_records_are_escaped(copy: tuple[Path, Path]) -> None:
    attack = '"><script>alert(1)</script>'
    config = (copy[0] / "config.yaml").read_text()
    (copy[0] / "config.yaml").write_text(re.sub(r"wandb_project:.*", f"wandb_project: '{attack}'", config))
    record = json.loads((copy[0] / "run.json").read_text())
    record["starts"][0] |= {"command": ["codecswap", attack], "time": attack, "forced": [attack], "resumed": attack}
    record["starts"][0] |= {
        "versions": {attack: attack},
        "hardware": {"cpu": attack, "cores": attack, "gpus": [attack]},
    }
    record["pictures"] |= {"sha256": attack}
    record["shown"][0] |= {"path": attack}
    (copy[0] / "run.json").write_text(json.dumps(record))
    page = page_of(copy[0])
    assert page.count("<script") == 2 and page.count("alert(1)") >= 10 and attack in Elements(page).text


def test_the_file_needs_nothing_else(report: Path) -> None:
    page = report.read_text("utf-8")
    assert report.stat().st_size < 20_000_000
    outside = re.sub(r'"data:image/webp;base64,[\w+/=]*"', '""', page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]  # type: ignore[index]
    assert (
        "default-src 'none'" in policy
        and "img-src data:" in policy
        and "unsafe-inline" not in policy.split("script-src")[1]
    )
    loads = [
        a.get(key) for _, a in Elements(page).elements for key in ("src", "href", "srcset", "action") if a.get(key)
    ]
    assert all(link.startswith(("#", "data:")) for link in loads if link), loads
    assert not re.search(r"@import|url\((?!#|&quot;#)|https?://", outside)


def test_how_to_repeat_it_is_there(report: Path, runs: tuple[Path, Path]) -> None:
    said = Elements(report.read_text("utf-8")).text
    record = json.loads((runs[1] / "run.json").read_text())
    assert record["codec"]["teacher_sha256"] in said and record["pictures"]["sha256"] in said
    assert record["origin"]["student_sha256"] in said and f"torch {record['starts'][0]['versions']['torch']}" in said
    assert torch.load(runs[1] / "ft_best.pt", weights_only=True)["student_sha256"] in said
    assert "--batch_size" in said and record["starts"][0]["hardware"]["cpu"] in said


def test_commands_are_quoted_for_a_shell(copy: tuple[Path, Path]) -> None:
    record = json.loads((copy[1] / "run.json").read_text())
    record["starts"][0]["command"] = ["codecswap", "finetune", "--save_dir", "it's tuned"]
    (copy[1] / "run.json").write_text(json.dumps(record))
    assert """codecswap finetune --save_dir 'it'"'"'s tuned'""" in Elements(page_of(copy[1])).text
    (copy[1] / "run.json").unlink()
    assert f"codecswap finetune --config {copy[1] / 'config.yaml'}" in Elements(page_of(copy[1])).text


def test_an_older_run_is_shown_and_its_gap_is_said(copy: tuple[Path, Path], runs: tuple[Path, Path]) -> None:
    whole = page_of(*runs)
    for folder in copy:
        (folder / "run.json").unlink()
    page = page_of(*copy)
    assert says(page, "note_unproved", folder=str(copy[0])) and not says(whole, "note_unproved", folder=str(runs[0]))
    count = len(re.findall(r"data:image/webp", page))
    assert count == len(re.findall(r"data:image/webp", whole)), "the same pictures, found again from its options"


def test_without_teacher_or_pictures_the_runs_own_figures_stand(copy: tuple[Path, Path]) -> None:
    record = json.loads((copy[0] / "run.json").read_text())
    changed = record | {"codec": record["codec"] | {"teacher": str(copy[0] / "gone.pth")}}
    (copy[0] / "run.json").write_text(json.dumps(changed))
    page = page_of(copy[0], limit=4)
    best = max(read_run(copy[0]).rows, key=lambda row: row["msssim_teacher"])
    lost = best["teacher_psnr_picture"] - best["psnr_picture"]
    assert says(page, "headline_loses", decibels=f"{lost:.2f}") and says(page, "bitstreams_unproved")
    assert says(page, "basis_training", epoch=f"{best['epoch']:.0f}", folder=str(copy[0]))
    assert "There is no checkpoint" in page and 'id="rate"' not in page
    changed = record | {"pictures": record["pictures"] | {"folder": str(copy[0] / "gone")}}
    (copy[0] / "run.json").write_text(json.dumps(changed))
    page = page_of(copy[0], limit=4)
    assert "There is no folder" in page and says(page, "bitstreams_kept"), "the promise needs no pictures"
    changed = record | {"codec": record["codec"] | {"teacher_sha256": "0" * 64}}
    (copy[0] / "run.json").write_text(json.dumps(changed))
    assert says(page_of(copy[0]), "note_other_teacher", name="tiny", expected="0" * 12)


def test_other_pictures_than_the_runs_are_said(copy: tuple[Path, Path], hostile: Path) -> None:
    record = json.loads((copy[0] / "run.json").read_text())
    record["pictures"]["sha256"] = "0" * 64
    (copy[0] / "run.json").write_text(json.dumps(record))
    assert says(page_of(copy[0], limit=1), "note_pictures_changed", folder=str(hostile))


def test_a_broken_bitstreams_is_found_in_the_tensors(copy: tuple[Path, Path]) -> None:
    content = torch.load(copy[0] / "best_msssim.pt", weights_only=True)
    assert content["codec"]["same_latents"] is True
    content["student_state"]["entropy_bottleneck.quantiles"][0] += 1e-6
    del content["student_sha256"]
    torch.save(content, copy[0] / "best_msssim.pt")
    page = page_of(copy[0])
    assert says(page, "bitstreams_broken") and not says(page, "bitstreams_kept"), "whatever the file says of itself"


def test_runs_that_go_on_say_so(copy: tuple[Path, Path]) -> None:
    folder = copy[0]
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:3]))
    assert "1 of 2 epochs so far" in page_of(folder)
    (folder / "metrics.csv").unlink()
    (folder / "last.pt").unlink()
    page = page_of(folder)
    assert "the first of 2 epochs is not finished" in page and says(page, "no_rows") and says(page, "no_verdict")
    (folder / "best_msssim.pt").unlink()
    page = page_of(folder, limit=1)
    assert says(page, "note_no_checkpoint", folder=str(folder))


def test_exact_students_lose_nothing(hostile: Path, tmp_path: Path) -> None:
    options = ["--coco_dir", str(hostile), "--teacher", "tiny", "--batch_size", "4", "--num_workers", "0"]
    options += [
        "--accelerator",
        "cpu",
        "--replacement",
        "subpixel",
        "--recon_count",
        "1",
        "--save_dir",
        str(tmp_path / "run"),
    ]
    assert run("distill", options) == 0
    page = page_of(tmp_path / "run", limit=1)
    assert says(page, "headline_equals", decibels="0.00") and says(page, "worst_none")
    assert 'class="advice"' not in page and not says(page, "untrained_masked"), "nothing better to name"
    assert "nothing to train" in page and read_run(tmp_path / "run").complete


def test_large_pictures_are_measured_in_their_center_and_shown_where_they_lose(
    runs: tuple[Path, Path], hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecswap.report.measurements.MAX_SIDE", 208)
    monkeypatch.setattr("codecswap.report.measurements.REGION", 64)
    comparison = Measurements(3).compare(read_run(runs[1]))
    assert comparison is not None and comparison.cropped == 3 and len(comparison.errors) == 3
    worst = comparison.errors
    assert [entry.lost for entry in worst] == sorted((entry.lost for entry in worst), reverse=True)
    for entry in worst:
        assert entry.size == (208, 208) and entry.pixels["student"].shape == (3, 64, 64)
        assert entry.lost == pytest.approx(entry.teacher_psnr - entry.psnr)
        mine, theirs = (
            (entry.pixels[role] - entry.pixels["original"]).square().mean().item() for role in ("student", "teacher")
        )
        whole_mine, whole_theirs = 10 ** (-entry.psnr / 10), 10 ** (-entry.teacher_psnr / 10)
        assert mine - theirs >= whole_mine - whole_theirs, "the region loses more than the picture on average"


def test_bad_options_are_one_sentence(runs: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    assert run("report", [str(runs[0]), "-o", str(tmp_path / "no" / "r.html")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert run("report", [str(runs[0]), "-o", str(tmp_path / "r.html"), "--pictures", "-1"]) == 2
    assert "--pictures is at least 0" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_watching_follows_a_run_to_its_end(copy: tuple[Path, Path], tmp_path: Path, monkeypatch, capsys) -> None:
    output, folder = tmp_path / "report.html", copy[0]
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:2]))
    seen = []

    def meanwhile(seconds: float) -> None:
        page = output.read_text("utf-8")
        seen.append((page.count("<tr>"), "data-refresh" in page))
        if len(seen) in (2, 3):
            (folder / "metrics.csv").write_text("".join(lines[: len(seen) + 1]))
        assert len(seen) < 9, "it must end by itself"

    monkeypatch.setattr(writing.time, "sleep", meanwhile)
    assert run("report", [str(folder), "-o", str(output), "--watch", "--pictures", "0"]) == 0
    assert [refreshes for _, refreshes in seen] == [True] * 4, "written at the beginning and after each change"
    assert [rows for rows, _ in seen[1:]] == [seen[0][0], seen[0][0] + 1, seen[0][0] + 2]
    assert "data-refresh" not in output.read_text("utf-8"), "a finished page waits for nothing"
    assert capsys.readouterr().out.count("Written") == 4
    assert not list(tmp_path.glob(".*")), "nothing half-written"


def test_ctrl_c_ends_watching_with_a_whole_page(copy: tuple[Path, Path], tmp_path: Path, monkeypatch) -> None:
    (copy[0] / "last.pt").unlink()

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.time, "sleep", stop)
    output = tmp_path / "report.html"
    assert run("report", [str(copy[0]), "-o", str(output), "--watch", "--pictures", "0"]) == 0
    page = output.read_text("utf-8")
    assert "data-refresh" not in page and page.rstrip().endswith("</html>")


@pytest.mark.slow
def test_a_watched_report_measures_only_what_is_new(
    copy: tuple[Path, Path], monkeypatch, tmp_path: Path, capsys
) -> None:
    measurements, encoded = Measurements(1), {}
    for _ in range(2):
        write_page(read_runs([str(folder) for folder in copy]), measurements, encoded)
    assert capsys.readouterr().out.count("Measuring") == 1
    content = torch.load(copy[1] / "ft_best.pt", weights_only=True)
    torch.save(content | {"note": "another file"}, copy[1] / "ft_best.pt")
    write_page(read_runs([str(folder) for folder in copy]), measurements, encoded)
    assert capsys.readouterr().out.count("Measuring") == 1
