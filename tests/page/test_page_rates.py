"""Variable rate in the page: files of any gain are decoded, and a slider chooses the gain of what is encoded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from page_folders import call, pixels
from PIL import Image
from test_page_browser import drop, said, save

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.entropy import bitstream
from codecswap.inference.runtime import open_codec
from codecswap.page.document import page as make_page


@pytest.mark.slow
def test_a_codec_with_variable_rate(visit: Callable, runtime: Path, coded: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = ARCHITECTURES["mbt2018_mean_vbr"](8, 12, vr_entbttlnck=True)
    with torch.no_grad():
        codec.g_a[6].weight *= 100
        codec.h_a[4].weight *= 20
        codec.h_s[4].bias[:12] += torch.linspace(1, 16, 12)
    codec.make_tables()
    torch.save(codec.state_dict(), tmp_path / "vbr.pth")
    folder = tmp_path / "codec"
    call("export", "--teacher", tmp_path / "vbr.pth", "--replacement", "subpixel", "--output", folder)
    (tmp_path / "a.html").write_text(make_page(folder, runtime), encoding="utf-8")
    with Image.open(coded / "b.png") as picture:
        picture.crop((0, 0, 300, 200)).save(tmp_path / "a.png")
    call("encode", "--codec", folder, "--input", tmp_path / "a.png", "-o", tmp_path / "python.csw", "--gain", 0.3)
    call("decode", "--codec", folder, "--input", tmp_path / "python.csw", "--output", tmp_path / "python.png")
    page = visit(tmp_path / "a.html")
    drop(page, tmp_path / "python.csw")
    ours = pixels(save(page, 0, ".png", tmp_path / "page.png"))
    assert said(page) == ["Decoded."] and np.abs(ours - pixels(tmp_path / "python.png")).max() <= 1
    assert "Gain0.300" in page.locator(".card .facts").text_content()
    slider = page.locator("#gain input")
    assert slider.get_attribute("aria-valuetext") == "gain 1.00"
    slider.focus()
    slider.press("Home")
    assert page.locator("#gain output").text_content() == "gain 0.10"
    drop(page, tmp_path / "a.png")
    assert said(page) == ["Decoded.", "Encoded and decoded."]
    saved = save(page, 1, ".csw", tmp_path / "page.csw").read_bytes()
    call("encode", "--codec", folder, "--input", tmp_path / "a.png", "-o", tmp_path / "python.csw", "--gain", 0.1)
    entropy, wanted = open_codec(folder).entropy, (tmp_path / "python.csw").read_bytes()
    assert saved[50:54] == wanted[50:54] and len(saved) == pytest.approx(len(wanted), rel=0.02)
    here, there = (bitstream.read(each, entropy, 16)[0] for each in (saved, wanted))
    assert np.mean(here.symbols != there.symbols) < 1e-3, "a latent may lie at the middle between two integers"
