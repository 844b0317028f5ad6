"""The page in a real browser, opened from the disk: ONNX Runtime, the C library, both networks; nothing but the file."""

import json
import shutil
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import SIZES, luminance
from page_folders import FOLDERS, IDLE, call, pixels
from PIL import Image

from codecswap.entropy import bitstream
from codecswap.inference.folder import read_folder
from codecswap.inference.manifest import describe_network
from codecswap.inference.runtime import open_codec
from codecswap.inference.tiles import windows
from codecswap.page.document import page as make_page


@pytest.fixture(scope="session")
def pages(folders: dict[str, Path], runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each kind of folder."""
    root = tmp_path_factory.mktemp("pages")
    for name, folder in folders.items():
        (root / f"{name}.html").write_text(make_page(folder, runtime), encoding="utf-8")
    return {name: root / f"{name}.html" for name in folders}


def drop(page: Any, *paths: Path) -> None:
    """Choose files and wait until all are done."""
    page.locator("#choose").set_input_files(list(map(str, paths)))
    page.wait_for_selector(IDLE, state="attached")


def save(page: Any, index: int, link: str, target: Path) -> Path:
    with page.expect_download() as download:
        page.locator(".card").nth(index).locator(link).click()
    download.value.save_as(target)
    return target


def said(page: Any) -> list[str]:
    return page.locator(".said").all_text_contents()


@pytest.mark.parametrize("kind", FOLDERS)
def test_pictures_are_those_of_codecswap_decode(
    visit: Callable, pages: dict[str, Path], folders: dict[str, Path], coded: Path, tmp_path: Path, kind: str
) -> None:
    page = visit(pages[kind])
    assert page.locator("#state").text_content() == "Ready." and page.locator("#warning").is_hidden()
    drop(page, coded / "a.csw", coded / "b.csw")
    assert said(page) == ["Decoded.", "Decoded."]
    for index, name in enumerate("ab"):
        call("decode", "--codec", folders[kind], "--input", coded / f"{name}.csw", "--output", tmp_path / "python.png")
        ours, theirs = pixels(tmp_path / "python.png"), pixels(save(page, index, ".png", tmp_path / "page.png"))
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1


def test_pictures_are_encoded_decoded_and_compared(
    visit: Callable, pages: dict[str, Path], folders: dict[str, Path], coded: Path, tmp_path: Path
) -> None:
    page = visit(pages["latents"])
    drop(page, coded / "b.png")
    assert said(page) == ["Encoded and decoded."]
    saved = save(page, 0, ".csw", tmp_path / "b.csw")
    tables = read_folder(folders["latents"])[1]
    (here, size), (there, wanted) = (
        bitstream.unpack(path.read_bytes(), tables, 16) for path in (saved, coded / "b.csw")
    )
    assert size == wanted == (800, 1000)
    apart = np.abs(here - there)
    assert apart.max() <= 1 and np.mean(apart) < 1e-4, "a latent may lie at the middle between two integers"
    facts = page.locator(".card .facts").text_content()
    length = saved.stat().st_size
    assert "1000×800 pixels" in facts and f"{length:,} bytes, {8 * length / 800_000:.3f} bits per pixel" in facts
    decoded, original = pixels(save(page, 0, ".png", tmp_path / "b.png")), pixels(coded / "b.png")
    decibels = 10 * np.log10(255**2 / np.mean((decoded - original) ** 2.0))
    assert f"{decibels:.2f} dB against the original" in facts


@pytest.mark.slow
def test_a_codec_with_a_hyperprior(
    visit: Callable, runtime: Path, photos: list[Path], pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "codec"
    call(
        "export",
        "--teacher",
        "tiny_hyper",
        "--replacement",
        "subpixel",
        "--output",
        folder,
        "--images",
        pictures / "val",
    )
    (tmp_path / "a.html").write_text(make_page(folder, runtime), encoding="utf-8")
    with Image.open(photos[0]) as photo:
        photo.convert("RGB").resize((1000, 330)).save(tmp_path / "a.png")
    call("encode", "--codec", folder, "--input", tmp_path / "a.png", "--output", tmp_path / "python.csw")
    call("decode", "--codec", folder, "--input", tmp_path / "python.csw", "--output", tmp_path / "python.png")
    page = visit(tmp_path / "a.html")
    drop(page, tmp_path / "python.csw")
    assert said(page)[0] == "Decoded."
    ours = pixels(save(page, 0, ".png", tmp_path / "page.png"))
    assert np.abs(ours - pixels(tmp_path / "python.png")).max() <= 1
    page = visit(tmp_path / "a.html")
    drop(page, tmp_path / "a.png")
    assert said(page) == ["Encoded and decoded."]
    saved = save(page, 0, ".csw", tmp_path / "page.csw")
    quantized = tmp_path / "quantized"  # split inputs, and a check that the page runs
    few = ["--calibration_count", 2, "--refit", "false", "--images", pictures / "val"]
    call("quantize", "--teacher", "tiny_hyper", *few, "--output", quantized)
    (tmp_path / "b.html").write_text(make_page(quantized, runtime), encoding="utf-8")
    call("decode", "--codec", quantized, "--input", tmp_path / "python.csw", "--output", tmp_path / "python.png")
    page = visit(tmp_path / "b.html")
    drop(page, tmp_path / "python.csw")
    assert said(page)[0] == "Decoded."
    ours = pixels(save(page, 0, ".png", tmp_path / "quantized.png"))
    assert np.square(ours - pixels(tmp_path / "python.png")).mean() < 0.5
    codec = open_codec(folder)
    (here, size), (there, wanted) = (
        bitstream.read(path.read_bytes(), codec.entropy, 16) for path in (saved, tmp_path / "python.csw")
    )
    assert size == wanted == (330, 1000)
    assert np.mean(here.symbols != there.symbols) < 1e-3, "a latent may lie at the middle between two integers"


def test_progress(visit: Callable, pages: dict[str, Path], coded: Path) -> None:
    page = visit(pages["symbols"])
    page.evaluate(
        "() => { window.seen = []; new MutationObserver(() => { const bar = document.querySelector('.card progress');"
        " if (bar && !bar.hidden && bar.hasAttribute('value')) seen.push([bar.value, bar.max]); })"
        ".observe(document.querySelector('#cards'), { subtree: true, attributes: true, childList: true }); }"
    )
    drop(page, coded / "b.csw")
    seen = page.evaluate("seen")
    tiles = len(list(windows(50, 8, 2))) * len(list(windows(63, 7, 2)))
    assert seen == sorted(seen) and {most for _, most in seen} == {tiles}
    assert len({value for value, _ in seen}) > tiles / 2, "screens may be slower than tiles"


def test_damaged_files_get_a_sentence_and_stop_nobody(
    visit: Callable, pages: dict[str, Path], coded: Path, tmp_path: Path
) -> None:
    good = (coded / "a.csw").read_bytes()
    (tmp_path / "cut.csw").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.csw").write_text("no picture")
    (tmp_path / "empty.csw").touch()
    (tmp_path / "newer.csw").write_bytes(good[:4] + b"\7" + good[5:])
    (tmp_path / "text.png").write_text("no picture")
    names = ("cut.csw", "text.csw", "empty.csw", "newer.csw", "text.png")
    page = visit(pages["split_inputs"])
    drop(page, *(tmp_path / name for name in names), coded / "a.csw", coded / "b.png")
    by_name = dict(zip(page.locator("h3").all_text_contents(), said(page), strict=True))
    assert by_name == {
        "cut.csw": "cut.csw is truncated or altered (its checksum does not match): copy it again.",
        "text.csw": "text.csw is no picture that codecswap encoded: name a .csw file.",
        "empty.csw": "empty.csw is no picture that codecswap encoded: name a .csw file.",
        "newer.csw": "newer.csw has a version of the format that this program does not read: update it.",
        "text.png": "text.png is no .csw file, and no picture that this browser reads.",
        "b.png": "b.png cannot be encoded, because this page has a decoder only: "
        "drop it together with the .csw file of the same name to compare.",
        "a.csw": "Decoded.",
    }
    page.get_by_role("button", name="日本語").click()
    japanese = said(page)
    assert all(any("\u3040" < letter < "\u30ff" for letter in one) for one in japanese)
    assert any(one.startswith("cut.csw: 途中で切れている") for one in japanese)


def test_a_size_that_does_not_fit_is_said(visit: Callable, pages: dict[str, Path], coded: Path, tmp_path: Path) -> None:
    with Image.open(coded / "a.png") as picture:
        picture.crop((0, 0, 100, 50)).save(tmp_path / "small.png")
    call("encode", "--codec", "tiny", "--input", tmp_path / "small.png", "--output", tmp_path / "small.csw")
    page = visit(pages["symbols"])
    drop(page, tmp_path / "small.csw")
    assert said(page) == ["small.csw is smaller than the size that this codec is fixed at (112×128 pixels)."]


def test_a_network_that_is_none_is_said_and_the_page_goes_on(
    visit: Callable, folders: dict[str, Path], runtime: Path, coded: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders["latents"], tmp_path / "codec")
    manifest = json.loads((tmp_path / "codec" / "codec.json").read_text())
    manifest["decoder"]["output"] = "nothing"
    (tmp_path / "codec" / "codec.json").write_text(json.dumps(manifest))
    (tmp_path / "a.html").write_text(make_page(tmp_path / "codec", runtime), encoding="utf-8")
    page = visit(tmp_path / "a.html")
    for count in (1, 2):
        drop(page, coded / "a.csw")
        assert said(page) == ["a.csw cannot be computed: the network's result has another size than expected."] * count
    (tmp_path / "codec" / "decoder.onnx").write_bytes(b"no network")
    network = vars(describe_network(tmp_path / "codec" / "decoder.onnx", "latents", "picture"))
    (tmp_path / "codec" / "codec.json").write_text(json.dumps(manifest | {"decoder": network}))
    (tmp_path / "b.html").write_text(make_page(tmp_path / "codec", runtime), encoding="utf-8")
    page = visit(tmp_path / "b.html")
    assert page.locator("#state").text_content().startswith("The codec cannot be started in this browser (")


def test_a_quantized_codec_is_checked(visit: Callable, folders: dict[str, Path], runtime: Path, tmp_path: Path) -> None:
    shutil.copytree(folders["split_inputs"], tmp_path / "codec")
    with Image.open(tmp_path / "codec" / "check_decoder.png") as picture:
        Image.fromarray(np.asarray(picture) // 2).save(tmp_path / "codec" / "check_decoder.png")
    manifest = json.loads((tmp_path / "codec" / "codec.json").read_text())
    digest = describe_network(tmp_path / "codec" / "check_decoder.png", "", "").sha256
    manifest["checks"]["check_decoder.png"] = digest
    (tmp_path / "codec" / "codec.json").write_text(json.dumps(manifest))
    (tmp_path / "a.html").write_text(make_page(tmp_path / "codec", runtime), encoding="utf-8")
    warning = visit(tmp_path / "a.html").locator("#warning")
    assert warning.is_visible() and warning.text_content().startswith("This browser computes this codec wrongly (")


@pytest.mark.parametrize("size", SIZES)
def test_the_wipe(visit: Callable, pages: dict[str, Path], coded: Path, size: str) -> None:
    page = visit(pages["split_inputs"], size)
    drop(page, coded / "a.csw")
    assert page.locator(".wipe").is_hidden()
    drop(page, coded / "a.png")
    assert page.locator(".card").count() == 1, "the original of the one that is there"
    wipe, stack = page.locator(".wipe input"), page.locator(".stack")
    stack.scroll_into_view_if_needed()
    box = stack.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 30)
    page.mouse.up()
    assert wipe.input_value() == "20"
    wipe.focus()
    page.keyboard.press("ArrowRight")
    assert wipe.get_attribute("aria-valuetext") == "original on the left, decoded on the right of 21 %"
    clip = page.eval_on_selector(".cover", "element => getComputedStyle(element).clipPath")
    assert "79%" in clip or "100% - 21%" in clip
    drawn = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    shown = np.array(page.eval_on_selector(".original", drawn)).reshape(215, 301, 4)[..., :3]
    np.testing.assert_array_equal(shown, pixels(coded / "a.png"))


def test_an_original_of_another_name_or_size(
    visit: Callable, pages: dict[str, Path], coded: Path, tmp_path: Path
) -> None:
    shutil.copy(coded / "a.png", tmp_path / "before.png")
    page = visit(pages["split_inputs"])
    drop(page, coded / "a.csw", tmp_path / "before.png")
    assert page.locator(".card").count() == 1 and page.locator(".wipe").is_visible()
    page.get_by_role("button", name="Remove a.csw").click()
    assert page.locator(".card").count() == 0 and page.evaluate("document.activeElement.id") == "choose"
    drop(page, coded / "a.csw", coded / "b.png")
    assert said(page) == ["Decoded. The picture b.png has 1000×800 pixels, so it is not compared."]
    assert page.locator(".wipe").is_hidden()


def test_files_can_be_dropped_anywhere(visit: Callable, pages: dict[str, Path], coded: Path) -> None:
    page = visit(pages["split_inputs"])
    page.evaluate(
        "(content) => { const data = new DataTransfer();"
        " data.items.add(new File([new Uint8Array(content)], 'a.csw'));"
        " document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })); }",
        list((coded / "a.csw").read_bytes()),
    )
    page.locator(".card").wait_for()
    page.wait_for_selector(IDLE)
    assert said(page) == ["Decoded."]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", ["en-US", "ja-JP"])
def test_both_languages_fit_every_screen(
    visit: Callable, pages: dict[str, Path], coded: Path, tmp_path: Path, size: str, language: str
) -> None:
    page = visit(pages["split_inputs"], size, locale=language)
    assert page.evaluate("document.documentElement.lang") == language[:2]
    (tmp_path / f"{'long' * 40}.csw").write_text("no picture")
    drop(page, coded / "b.csw", coded / "b.png", tmp_path / f"{'long' * 40}.csw")
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert page.get_by_role("button", name="原寸" if language == "ja-JP" else "Actual size").first.is_visible()
    page.locator(".actual").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], "the picture scrolls, not the page"
    assert page.locator(".decoded").first.bounding_box()["width"] == 1000
    texts = page.locator("[data-word]").all_text_contents()
    assert all(texts)
    page.get_by_role("button", name="English" if language == "ja-JP" else "日本語").click()
    page.reload()
    assert page.evaluate("document.documentElement.lang") != language[:2], "a reload keeps it"
    page.wait_for_selector(IDLE, state="attached")


def test_keyboard_and_screen_reader(visit: Callable, pages: dict[str, Path], coded: Path) -> None:
    page = visit(pages["split_inputs"])
    drop(page, coded / "b.csw", coded / "b.png")
    assert (
        page.locator("#state").text_content() == "b.csw: Decoded." and page.locator("#state[role=status]").count() == 1
    )
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(10):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.type"
            )
        )
    at = [reached.index(one) for one in ("choose", "remove", "range", "actual", "button png")]
    assert at == sorted(at)
    assert page.locator("#choose").get_attribute("aria-describedby") == "hint"
    names = page.locator("button, a, input, [role=img], progress").evaluate_all(
        "all => all.filter((e) => !(e.ariaLabel || e.textContent || e.labels?.[0]?.textContent)).map((e) => e.outerHTML)"
    )
    assert not names, "everything has a name"
    assert page.locator("canvas[role=img]").first.get_attribute("aria-label") == "b.csw, decoded, 1000×800 pixels"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(visit: Callable, pages: dict[str, Path], tmp_path: Path, scheme: str) -> None:
    page = visit(pages["split_inputs"], color_scheme=scheme)
    (tmp_path / "a.csw").write_text("no picture")
    drop(page, tmp_path / "a.csw")

    def shade(selector: str, what: str) -> float:
        return luminance(page.eval_on_selector(selector, f"element => getComputedStyle(element).{what}"))

    papers = [shade("body", "backgroundColor"), shade(".card", "backgroundColor")]
    assert max(papers) < 0.1 if scheme == "dark" else min(papers) > 0.8
    for selector in ("body", ".small", ".call", ".bad .said", "#state"):
        ink = shade(selector, "color")
        assert min((max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) for paper in papers) >= 4.5, selector


def test_from_a_server(visit: Callable, pages: dict[str, Path], coded: Path) -> None:
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            asked.append(self.path)

    handler = partial(Handler, directory=str(pages["split_inputs"].parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = visit(f"http://127.0.0.1:{server.server_port}/split_inputs.html")
        drop(page, coded / "a.csw")
        assert said(page) == ["Decoded."]
        server.shutdown()
    assert asked == ["/split_inputs.html"]
