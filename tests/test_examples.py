"""The examples are run as a reader would run them, and each is short enough to be read at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from codecswap import load_student, open_codec

FOLDER = Path(__file__).parents[1] / "examples"
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "


def run(*words: object, code: str | None = None) -> str:
    start = [sys.executable, "-W", "ignore", *(["-c", code] if code else [])]
    done = subprocess.run(
        [*start, *map(str, words)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "exported"
    said = run(FOLDER / "swap_and_export.py", "tiny", folder)
    assert "g_s.0: ConvTranspose2d" in said and "PixelShuffle" in said
    return folder


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_an_example_has_at_most_30_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 30


@pytest.mark.slow
def test_a_folder_of_pictures_is_coded_without_pytorch(exported: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.open(photos[0]).convert("RGB").crop((0, 0, 100, 80)).save(tmp_path / "pictures" / "a.png")
    code = WITHOUT_TORCH + "runpy.run_path(sys.argv[0], run_name='__main__')"
    said = run(FOLDER / "code_folder.py", exported, tmp_path / "pictures", tmp_path / "coded", code=code)
    assert said.startswith("a.png: ") and Image.open(tmp_path / "coded" / "a.png").size == (100, 80)
    assert open_codec(exported).decompress((tmp_path / "coded" / "a.csw").read_bytes()).size == (100, 80)


def test_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    words = [sys.executable, FOLDER / "code_folder.py", tmp_path / "nowhere", tmp_path, tmp_path / "out"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 1 and "no exported codec" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_decoder_is_quantized_and_compiled(tmp_path: Path) -> None:
    said = run(FOLDER / "quantize_and_compile.py", "tiny", "ethos-u55", tmp_path)
    assert "quantized: ONNX Runtime agrees" in said and "operators on the CPU: none" in said
    assert (tmp_path / "compiled" / "report.json").is_file() and (tmp_path / "quantized" / "codec.json").is_file()


@pytest.mark.slow
def test_a_student_is_trained_and_saved(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for place in range(40):
        left = 8 * place
        crop = Image.open(photos[place % len(photos)]).convert("RGB").crop((left, left, left + 224, left + 224))
        crop.save(tmp_path / "pictures" / f"{place}.jpg")
    said = run(FOLDER / "train.py", tmp_path / "pictures", tmp_path / "student.pt")
    assert said.count("epoch 0: MS-SSIM") == 2 and "student: " in said
    student = load_student(tmp_path / "student.pt")
    assert student.record is not None and student.record.replacement == "upsample"
