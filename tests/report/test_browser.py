"""The report in a real browser: a desk and a phone, a mouse and a keyboard, two languages, light and dark."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import SIZES, visits
from chromium import luminance as luminance_of
from PIL import Image

from codecswap.data.transforms import validation_crop
from codecswap.report.pictures import to_pixels


@pytest.fixture
def visit(browser) -> Iterator[Callable]:
    """Opens a file at a size and waits for its viewer."""
    with visits(browser, "#viewer:not([hidden])", 10) as visit:
        yield visit


sizes = pytest.mark.parametrize("size", SIZES)


def box(page, selector: str) -> dict[str, float]:
    page.locator(selector).scroll_into_view_if_needed()
    return page.locator(selector).bounding_box()


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()


def transform(page, role: str) -> tuple[float, float, float]:
    """Left, top and width of a picture in the side-by-side view, in CSS pixels."""
    style = page.locator(f".single img[data-role={role}]").get_attribute("style")
    left, top = map(float, re.search(r"translate\(([-\d.e]+)px, ([-\d.e]+)px\)", style).groups())  # type: ignore[union-attr]
    return left, top, float(re.search(r"width: ([\d.]+)px", style)[1])  # type: ignore[index]


@sizes
def test_the_wipe_follows_pointer_and_keys(visit, report: Path, size: str) -> None:
    page = visit(report, size)
    window, handle = box(page, ".pair .window"), box(page, "#wipe")
    middle = window["y"] + window["height"] / 2
    assert page.locator("#wipe").get_attribute("aria-valuenow") == "50"
    drag(page, (handle["x"] + handle["width"] / 2, middle), (window["x"] + window["width"] * 0.2, middle))
    assert page.locator("#wipe").get_attribute("aria-valuenow") == "20"
    shown = page.eval_on_selector(".cover", "element => getComputedStyle(element).clipPath")
    assert float(re.findall(r"([\d.]+)%", shown)[-1]) == pytest.approx(20, abs=0.5)
    drag(page, (window["x"] + window["width"] * 0.6, middle), (window["x"] + window["width"] * 0.7, middle))
    assert page.locator("#wipe").get_attribute("aria-valuenow") == "70", (
        "anywhere on the picture while it is not zoomed"
    )
    page.locator("#wipe").focus()
    for key, value in (
        ("ArrowLeft", "69"),
        ("Shift+ArrowRight", "79"),
        ("End", "100"),
        ("PageDown", "90"),
        ("Home", "0"),
    ):
        page.keyboard.press(key)
        assert page.locator("#wipe").get_attribute("aria-valuenow") == value
    assert (
        page.locator("#wipe").get_attribute("aria-valuetext")
        == "original on the left, student on the right of 0\u00a0%"
    )


def test_both_sides_of_the_wipe_show_what_they_say(visit, report: Path, hostile: Path, runs: tuple[Path, Path]) -> None:
    page = visit(report)
    name = page.evaluate("JSON.parse(document.getElementById('data').textContent).pictures[0].name")
    original = to_pixels(validation_crop(next(path for path in (hostile / "val").rglob("*.png") if path.name == name)))
    student = np.array(Image.open(runs[1] / "recon_ft" / "e000" / "00000.png"))
    page.locator(".pair .window").scroll_into_view_if_needed()
    for _ in range(3):
        page.locator("#in").click()  # 4, 8, 16 times: pixels are squares
    shot = np.array(Image.open(io.BytesIO(page.locator(".pair .window").screenshot())).convert("RGB")).astype(int)
    side = shot.shape[1]
    assert page.locator("#scale").text_content() == "16×"
    middle = 112 * 16 - side // 2
    for x, expected in ((side // 4, original), (3 * side // 4, student)):
        row, column = (side // 4 + middle) // 16, (x + middle) // 16
        top, left = 16 * row - middle, 16 * column - middle
        square = shot[top + 2 : top + 14, left + 2 : left + 14]
        assert np.abs(square - expected[row, column]).max() <= 1, "a pixel of the picture, enlarged and not blurred"


@sizes
def test_time_moves_by_mouse_and_keyboard(visit, report: Path, size: str) -> None:
    page = visit(report, size)
    slider, now = page.locator("#time"), page.locator("#now")
    image = page.locator(".cover img")
    assert slider.input_value() == "4" and now.text_content().startswith("e000: fine-tuning, epochs done: 1 · ")
    last = image.get_attribute("src")
    bounds = box(page, "#time")
    page.mouse.click(bounds["x"] + 3, bounds["y"] + bounds["height"] / 2)
    assert slider.input_value() == "0" and now.text_content().startswith("pre_e000: before distillation · ")
    first = image.get_attribute("src")
    assert first != last
    slider.focus()
    said = []
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        said.append(now.text_content().split(":")[0])
        assert slider.get_attribute("aria-valuetext") == now.text_content()
    assert said == ["e000", "e001", "pre_e000", "e000"] and image.get_attribute("src") == last
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    assert [data["uris"][data["pictures"][0]["frames"][i]["picture"]] for i in (0, 4)] == [first, last]


@sizes
def test_zoom_and_pan_are_linked(visit, report: Path, size: str) -> None:
    page = visit(report, size)
    page.locator("input[name=mode][value=side]").check()
    roles = ("original", "student") if size == "phone" else ("original", "teacher", "student")
    window = box(page, "[data-pane=original] .window")
    assert all(transform(page, role)[2] == pytest.approx(window["width"], abs=1) for role in roles), "it fits"
    page.locator("[data-pane=original] .window").focus()
    for key in "++":
        page.keyboard.press(key)
    before = transform(page, "original")
    assert before[2] in (224 * 2, 224 * 4) and page.locator("#scale").text_content() == f"{before[2] / 224:g}×"
    assert {transform(page, role) for role in roles} == {before}
    assert (
        page.eval_on_selector(".single img[data-role=student]", "e => getComputedStyle(e).imageRendering")
        == "pixelated"
    )
    window = box(page, "[data-pane=student] .window")
    x, y = window["x"] + window["width"] / 2, window["y"] + window["height"] / 2
    drag(page, (x, y), (x - 30, y - 20))
    assert {transform(page, role) for role in roles} == {(before[0] - 30, before[1] - 20, before[2])}
    page.keyboard.press("ArrowRight")
    assert transform(page, "original")[0] == transform(page, "student")[0] < before[0] - 30
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    left, _, width = transform(page, "student")
    assert left + width == pytest.approx(window["width"], abs=1), "never beyond the picture"
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, 100)
    page.keyboard.up("Control")
    assert {transform(page, role)[2] for role in roles} == {
        before[2] / 2 if before[2] / 2 > window["width"] else window["width"]
    }
    page.locator("#fit").click() if page.locator("#fit").is_enabled() else None
    assert transform(page, "original")[:2] == (0, 0)


@sizes
def test_the_difference_map_is_ten_times_the_difference(
    visit, report: Path, hostile: Path, runs: tuple[Path, Path], size: str
) -> None:
    page = visit(report, size)
    page.locator("input[name=mode][value=difference]").check()
    page.wait_for_selector("#map[data-of]")
    content = page.evaluate("document.getElementById('map').toDataURL()")
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(content.split(",")[1]))).convert("RGB"))
    name = page.evaluate("JSON.parse(document.getElementById('data').textContent).pictures[0].name")
    original = to_pixels(validation_crop(next(path for path in (hostile / "val").rglob("*.png") if path.name == name)))
    student = np.array(Image.open(runs[1] / "recon_ft" / "e000" / "00000.png"))
    apart = np.abs(original.astype(int) - student)
    np.testing.assert_array_equal(shown, np.minimum(10 * apart, 255))
    assert page.locator("#spread").text_content() == f"Here: mean {apart.mean():.2f}, largest {apart.max()} levels."
    assert page.locator(".scale").is_visible() and "≥ 25.5" in page.locator(".scale").text_content()
    page.locator("input[name=reference][value=teacher]").check()
    page.wait_for_function("old => document.getElementById('map').toDataURL() !== old", arg=content)
    assert page.locator("[data-caption=difference]").text_content() == "|student − teacher| × 10"


@sizes
def test_both_languages(visit, report: Path, size: str) -> None:
    page = visit(report, size)
    assert (
        page.evaluate("document.documentElement.lang") == "en" and page.get_by_text("Where it loses most").is_visible()
    )
    page.get_by_role("button", name="日本語").click()
    assert page.evaluate("document.documentElement.lang") == "ja"
    assert (
        page.get_by_text("損失が最も大きい画像").is_visible()
        and not page.get_by_text("Where it loses most").is_visible()
    )
    assert "レポート" in page.title() and "ファインチューニング" in page.locator("#time").get_attribute(
        "aria-valuetext"
    )
    assert page.locator("#wipe").get_attribute("aria-label") == "ワイプの位置"
    assert page.locator("#psnr-wide-described").text_content().startswith("学習ステップ")
    page.reload()
    assert page.evaluate("document.documentElement.lang") == "ja", "a reload keeps it"
    assert visit(report, size, locale="ja-JP").evaluate("document.documentElement.lang") == "ja"


@sizes
@pytest.mark.parametrize("language", ["en-US", "ja-JP"])
def test_nothing_is_wider_than_the_screen(visit, report: Path, size: str, language: str) -> None:
    page = visit(report, size, locale=language)
    page.eval_on_selector_all("details", "all => all.forEach(element => { element.open = true; })")
    for mode in ("wipe", "side", "difference"):
        page.locator(f"input[name=mode][value={mode}]").check()
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        cut = page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => e.offsetWidth"
            " && !e.closest('.scroll, .thumbs, .window, svg, pre') && e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert not cut


@sizes
def test_light_and_dark(visit, report: Path, size: str) -> None:
    def luminance(page, selector: str, what: str) -> float:
        return luminance_of(page.eval_on_selector(selector, f"element => getComputedStyle(element).{what}"))

    for scheme in ("light", "dark"):
        page = visit(report, size, color_scheme=scheme)
        paper = luminance(page, "body", "backgroundColor")
        assert paper > 0.8 if scheme == "light" else paper < 0.1
        drawn = "svg.narrow" if size == "phone" else "svg.wide"
        student = f"{drawn} [style*='--student']"
        for selector, what, least in (
            ("body", "color", 7),
            (".small", "color", 4.5),
            (".good strong", "color", 4.5),
            (f"{drawn} text", "fill", 4.5),
            (student, "stroke", 3),
            (f"{drawn} [style*='--teacher']", "stroke", 3),
            (f"{drawn} [style*='--third']", "stroke", 3),
        ):
            ink = luminance(page, selector, what)
            contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
            assert contrast >= least, f"{selector} in {scheme}: {contrast:.1f}"
        assert page.locator(student).first.is_visible()


@sizes
def test_worst_pictures_open_in_the_viewer(visit, report: Path, size: str) -> None:
    page = visit(report, size)
    button = page.locator("[data-open]").first
    index = int(button.get_attribute("data-open"))
    loaded = page.eval_on_selector_all(
        ".triplet img", "all => all.every(image => image.naturalWidth > 100 && image.alt)"
    )
    assert loaded and page.locator(".triplet img").count() == 9
    button.click()
    thumb = page.locator("#thumbs button").nth(index)
    assert thumb.get_attribute("aria-pressed") == "true" and thumb.get_attribute("aria-label").endswith("(worst)")
    assert page.locator("#time").is_disabled() and page.locator("#now").text_content().startswith("best checkpoint")
    assert page.locator("input[name=reference][value=start]").is_disabled()


def test_keyboard_and_screen_reader(visit, report: Path) -> None:
    page = visit(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0, "it shows where it is focused"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("input[name=mode][value=wipe]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer").get_attribute("data-mode") == "side"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, summary, [tabindex=\"0\"], section')].filter(e => e.offsetWidth"
        " && !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length || e.textContent.trim()))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert not unnamed
    dangling = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].flatMap(e => e.getAttribute('aria-labelledby').split(' '))"
        ".filter(id => !document.getElementById(id))"
    )
    assert not dangling
    ring = "e => { e.focus(); return getComputedStyle(e).outlineStyle; }"
    page.keyboard.press("Tab")
    assert page.eval_on_selector("#in", ring) == "solid"


def test_a_watched_page_reads_itself_again_and_stays_where_it_is(visit, report: Path, tmp_path: Path) -> None:
    path = tmp_path / "watched.html"
    watched = report.read_text("utf-8").replace("<body>", '<body data-refresh="15">')
    box = '<input type="checkbox" id="refresh" checked><p id="version">one</p>'
    path.write_text(
        watched.replace('<section aria-labelledby="verdict">', f'<section aria-labelledby="verdict">{box}'), "utf-8"
    )
    page = visit(path)
    page.clock.install()
    page.reload()
    page.locator("input[name=mode][value=side]").check()
    page.locator("#time").focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#in").click()
    page.evaluate("scrollTo(0, 1500)")
    kept = page.evaluate(
        "[scrollY, document.getElementById('time').value, document.getElementById('scale').textContent]"
    )
    assert kept[0] == 1500 and kept[1] == "3"
    path.write_text(path.read_text("utf-8").replace(">one<", ">two<"), "utf-8")
    page.clock.run_for(14_000)
    assert page.locator("#version").text_content() == "one"
    page.clock.run_for(4_000)
    page.wait_for_function("document.getElementById('version')?.textContent === 'two'")
    page.wait_for_selector("#viewer[data-mode=side]")
    again = page.evaluate(
        "[scrollY, document.getElementById('time').value, document.getElementById('scale').textContent]"
    )
    assert again == kept
    page.locator("#refresh").uncheck()
    path.write_text(path.read_text("utf-8").replace(">two<", ">three<"), "utf-8")
    page.clock.run_for(60_000)
    assert page.locator("#version").text_content() == "two", "not against the reader's will"


def test_what_is_missing_does_not_break_the_page(
    visit, runs: tuple[Path, Path], copy: tuple[Path, Path], tmp_path: Path
) -> None:
    from codecswap.cli import run

    for name in ("run.json", "config.yaml"):
        (copy[0] / name).unlink()
    output = tmp_path / "report.html"
    assert run("report", [str(copy[0]), "-o", str(output)]) == 0
    page = visit(output, "phone")
    assert not page.locator("input[name=reference][value=original]").is_enabled()
    assert page.locator("input[name=reference][value=start]").is_checked(), "there is still something to compare with"
    assert page.locator(".notes li").count() >= 1
    page.locator("input[name=mode][value=difference]").check()
    page.wait_for_selector("#map[data-of]")
