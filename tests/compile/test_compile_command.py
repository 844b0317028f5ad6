"""`codecswap compile`: what the toolchain says is printed, kept and decides the exit code; bad input leaves nothing behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from codecswap import cli
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.folder import write_float
from codecswap.compile.toolchain import Compiled, CompiledOperator, Job
from codecswap.errors import UserError
from codecswap.inference.folder import read_folder

TARGET = """
operators = ["Conv", "Mul", "Sqrt", "DepthToSpace"]
toolchain = "fake"
form = "subpixel"
precisions = ["float32", "w8a8"]
[chips]
fake = "fake-1"
"""


class Fake:
    """A toolchain whose NPU has no square root."""

    install = "fakec: pip install fakec"

    def __init__(self) -> None:
        self.job: Job | None = None
        self.there = True
        self.fails = False
        self.whole = False
        self.cycles = {"w8a8": 107}
        self.noise = 0.0
        """Noise in what is decoded in w8a8."""

    def installed(self, python: Path | None) -> str | None:
        return "fakec 1.0" if self.there else None

    def compile(self, job: Job) -> Compiled:
        self.job = job
        path = write_float(job).path
        if self.fails:
            raise UserError("fakec failed.")
        if not self.there:
            return Compiled((path,), None)
        (built := job.folder / "decoder.fake").write_bytes(b"built")
        operators = (
            CompiledOperator("g_s.0", "Conv", True, 100),
            CompiledOperator("g_s.1", "Mul", True),
            CompiledOperator("g_s.1", "Sqrt", self.whole, 7),
        )
        noise = self.noise if job.precision == "w8a8" else 0

        @torch.no_grad()
        def decode(latents: np.ndarray) -> np.ndarray:
            picture = job.codec.g_s(torch.from_numpy(latents)[None])[0].numpy()
            return (picture + noise * np.random.default_rng(0).standard_normal(picture.shape)).astype(np.float32)

        cycles = self.cycles.get(job.precision, 107)
        return Compiled((built, path), "fakec 1.0", operators, cycles, 1.25, 2048, decode, ("A note.",))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setitem(TOOLCHAINS, "fake", toolchain := Fake())
    return toolchain


@pytest.fixture
def arguments(tmp_path: Path, pictures: Path) -> list[str]:
    (target := tmp_path / "fake.toml").write_text(TARGET)
    given = {
        "target": target,
        "output": tmp_path / "out",
        "images": pictures / "val",
        "calibration_images": pictures / "train",
    }
    sized = {"teacher": "tiny", "height": 128, "width": 96}
    return ["compile", *(f"--{key}={value}" for key, value in (given | sized).items())]


def test_what_falls_to_the_cpu_is_named_and_gives_exit_code_3(
    fake: Fake, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(arguments) == 3
    printed = capsys.readouterr().out
    assert "2 operators on the NPU, 1 on the CPU; 107 cycles; 1.2 ms; 2 KiB of memory" in printed
    [row] = [line for line in printed.splitlines() if "g_s.1" in line]
    assert row.index("Mul") < row.index("Sqrt")
    assert "A note." in printed
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert (report["chip"], report["precision"], report["form"]) == ("fake-1", "float32", "subpixel")
    assert [one["operator"] for one in report["operators"] if not one["on_npu"]] == ["Sqrt"]
    assert report["files"][:2] == ["decoder.fake", "decoder.onnx"]
    assert set(report["files"]) == {path.name for path in (tmp_path / "out").iterdir()} - {"report.json"}
    # pictures of 240x240 in tiles of 96x128 are those decoded whole, as far as float goes
    quality = report["quality"]
    assert quality["pictures"] == 2 and quality["to_float"] > 100
    assert quality["compiled"] == pytest.approx(quality["float32"], abs=1e-3)
    assert quality["file"] == pytest.approx(quality["float32"], abs=1e-3)
    assert quality["to_file"] > 100 and quality["file_to_float"] > 100


def test_precisions_are_compared_and_the_best_is_taken(
    fake: Fake, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fake.cycles = {"w8a8": 50}
    assert cli.main(arguments) == 3
    printed = capsys.readouterr().out
    assert "Recommended, and taken: --precision w8a8" in printed
    assert (
        "Against the file, the simulator: " in printed and "decoder.onnx, against the decoder in float32: " in printed
    )
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["precision"] == "w8a8"
    fake.noise = 0.02  # now w8a8 loses too much
    assert cli.main(arguments) == 3
    assert "Recommended, and taken: --precision float32" in capsys.readouterr().out
    cli.main([*arguments, "--precision", "w8a8"])
    assert "Recommended" not in capsys.readouterr().out


@pytest.mark.parametrize("noise", [0.2, np.nan])
def test_a_wreck_is_said_with_its_reason(
    fake: Fake, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, noise: float
) -> None:
    fake.noise, fake.whole = noise, True
    assert cli.main([*arguments, "--precision", "float32"]) == 0
    assert not capsys.readouterr().err
    assert cli.main([*arguments, "--precision", "w8a8"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("The decoder in w8a8 on fake-1 ") and said.count("\n") == 1
    assert ("no numbers" if np.isnan(noise) else "dB") in said and "--precision float32" in said
    assert "compiler's scales and arithmetic" in said or np.isnan(noise)
    assert (tmp_path / "out" / "report.json").is_file()


def test_the_job_has_real_symbols_of_the_compiled_size(fake: Fake, arguments: list[str]) -> None:
    cli.main([*arguments, "--form", "masked", "--precision", "w8a8"])
    assert fake.job
    assert (fake.job.form, fake.job.precision, fake.job.target.chip) == ("masked", "w8a8", "fake-1")
    teacher = TorchCodec(fake.job.codec)
    assert len(fake.job.samples.pictures) == len(fake.job.samples.symbols) == 8
    for picture, symbols in zip(fake.job.samples.pictures, fake.job.samples.symbols, strict=True):
        assert picture.shape == (3, 128, 96)
        assert (teacher.tables.to_symbols(teacher.analyze(picture)) == symbols).all() and symbols.any()


def test_without_the_toolchain_the_files_are_written_and_what_is_missing_is_said(
    fake: Fake, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fake.there = False
    assert cli.main(arguments) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "Not checked" in line]
    assert "pip install fakec" in line and "NPU" in line
    manifest, _ = read_folder(tmp_path / "out")
    assert manifest.decoder and (tmp_path / "out" / manifest.decoder.file).is_file()
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["compiler"] is None
    # then the list of operators is what there is to ask
    (tmp_path / "fake.toml").write_text(TARGET.replace('"DepthToSpace"', '"Resize"'))
    assert cli.main(arguments) == 3
    assert "DepthToSpace at g_s.0, g_s.2, g_s.4, g_s.6: use --replacement masked" in capsys.readouterr().out


def test_a_folder_is_replaced_atomically(fake: Fake, arguments: list[str], tmp_path: Path) -> None:
    assert cli.main(arguments) == 3
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    fake.fails = True
    assert cli.main([*arguments, "--form", "native"]) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    fake.fails = fake.there = False
    (tmp_path / "out" / "mine.txt").touch()
    assert cli.main(arguments) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*before, "mine.txt"} - {"decoder.fake"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--target"),
        (["--target", "rk9999"], "rk3588"),
        (["--target", "opset13"], "no toolchain"),
        (["--target", "rk3588", "--precision", "int3"], "float16 or w8a8"),
        (["--target", "rk3588", "--height", "100"], "multiple of 16"),
        (["--target", "rk3588", "--height", "64"], "more than 64"),
        (["--target", "rk3588", "--toolchain_python", "/nowhere/python"], "no Python with"),
        (["--target", "rk3588", "--calibration_images", "/nowhere"], "/nowhere"),
        (["--target", "rk3588", "--teacher", "/nowhere.pth"], "/nowhere.pth"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], said: str) -> None:
    assert cli.main(["compile", "--teacher", "tiny", "--output", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert said in error and error.strip().count("\n") == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "text",
    [TARGET.replace("fake-1", "").replace('"fake-1"', "3").replace('= ""', "= 3"), TARGET.replace("subpixel", "square"),
     TARGET.replace('precisions = ["float32", "w8a8"]', ""), TARGET.split("[chips]")[0]],
)  # fmt: skip
def test_a_damaged_target_is_refused(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture, text: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert cli.main(["compile", "--teacher", "tiny", "--target", str(tmp_path / "bad.toml")]) == 2
    assert "no target file" in capsys.readouterr().err
