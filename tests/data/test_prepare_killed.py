import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from prepare_steps import run, tree

from codecswap.data.discovery import scan

pytest_plugins = ["prepare_fixtures"]


def start(*arguments, before=""):
    """The command in a process of its own; ``before`` runs in it first."""
    code = f"import sys\nfrom codecswap import cli\n{before}\nsys.exit(cli.main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "prepare", *map(str, arguments), "--val_ratio", "0.2"]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # what runs the tests in the background may have Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


DIE = """
import os, signal
from codecswap.data.prepare import {module} as module
count = {after}
def last_words(*arguments, _real=module.{name}, **keywords):
    global count
    count -= 1
    if count < 0:
        {half}
        os.kill(os.getpid(), signal.SIGKILL)
    return _real(*arguments, **keywords)
module.{name} = last_words
"""


@pytest.mark.parametrize(
    ("step", "module", "name", "after", "half"),
    [
        ("unpacking", "unpack", "shutil.copyfileobj", 15, "arguments[1].write(b'half'); arguments[1].flush()"),
        ("before the folder gets its name", "fetch", "Path.rename", 0, "pass"),
        ("before the first crop", "crop_folder", "crop_all", 0, "pass"),
        ("cropping", "crops", "Image.Image.save", 20, "open(arguments[1], 'wb').write(b'half')"),
        ("before the last manifest", "crop_folder", "_write", 1, "pass"),
    ],
)
def test_kill_in_any_step(step, module, name, after, half, coco_server, tmp_path, coco_pictures, coco_crops):
    coco, out = tmp_path / "coco", tmp_path / "out"
    arguments = ("--coco_dir", coco, "--out_dir", out, "--url", coco_server.url("train2017.zip"), "--workers", 1)
    process = start(*arguments, before=DIE.format(module=module, name=name, after=after, half=half))
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert run(*arguments[:-2]) == 0
    assert tree(out) == coco_crops
    assert tree(coco) == {f"train2017/{name}": data for name, data in tree(coco_pictures).items()}


@pytest.mark.parametrize("most", [[], ["--max_images", "25"]])
def test_kill_while_data_comes(most, coco_server, tmp_path, coco_crops):
    coco, out = tmp_path / "coco", tmp_path / "out"
    arguments = ("--coco_dir", coco, "--out_dir", out, "--url", coco_server.url("train2017.zip"), *most)
    coco_server.block, coco_server.pause = (4096, 0.02) if not most else (1 << 16, 0.05)
    process = start(*arguments)
    expires = time.monotonic() + 20
    while time.monotonic() < expires:
        sizes = [path.stat().st_size for path in coco.rglob("*") if path.is_file()] if coco.exists() else []
        if sum(sizes) > 30_000:
            break
        time.sleep(0.01)
    process.kill()
    process.communicate()
    coco_server.block, coco_server.pause, sent = 1 << 16, 0.0, coco_server.sent
    coco_server.requests.clear()
    assert run(*arguments) == 0
    assert any(first > 0 for _, first in coco_server.requests) and coco_server.sent > sent
    made = tree(out)
    if most:
        shutil.rmtree(out)
        shutil.rmtree(coco)
        assert run(*arguments) == 0
        coco_crops = tree(out)
    assert made == coco_crops


@pytest.fixture(scope="session")
def many(coco_pictures, tmp_path_factory):
    """Enough pictures to be stopped among them, and what becomes of them."""
    folder = tmp_path_factory.mktemp("many")
    for copy in range(16):
        for path in scan(coco_pictures):
            os.link(path, folder / f"{copy}_{path.name}")
    out = tmp_path_factory.mktemp("many_crops")
    assert run("--images", folder, "--out_dir", out) == 0
    return folder, tree(out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_several_processes_crop(number, tmp_path, many):
    """Ctrl-C leaves whole files and no processes; so does a kill, but for files that begin with a dot."""
    folder, undisturbed = many
    whole = sum(name.endswith(".jpg") for name in undisturbed)
    arguments = ("--images", folder, "--out_dir", tmp_path / "o", "--workers", 2)
    for _ in range(5):  # on a busy machine the run may be over before it is seen to have begun
        process = start(*arguments)
        expires = time.monotonic() + 20
        while len(scan(tmp_path / "o")) < 30 and time.monotonic() < expires:
            time.sleep(0.005)
        if number == signal.SIGINT:  # Ctrl-C reaches all of them
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        else:
            process.kill()
        output, _ = process.communicate(timeout=10)  # returns when the last worker has closed the pipe
        there = scan(tmp_path / "o")
        if len(there) < whole:
            break
        shutil.rmtree(tmp_path / "o")
    assert 30 <= len(there) < whole
    for path in there:
        with Image.open(path) as crop:
            crop.load()
    if number == signal.SIGINT:
        assert process.returncode == 130 and "Run the same command again to continue" in output
        assert "Traceback" not in output and not list((tmp_path / "o").rglob(".*"))
    assert run(*arguments[:-2], workers=2) == 0
    assert tree(tmp_path / "o") == undisturbed
