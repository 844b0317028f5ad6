"""Both languages say everything, and nothing is left over."""

import re
from importlib.resources import files

import pytest

from codecswap.report.texts import LANGUAGES, TEXTS, attributes, text

PLACE = re.compile(r"\{(\w+)\}")
SOURCES = {
    path.name: path.read_text("utf-8")
    for path in (files("codecswap") / "report").iterdir()
    if path.name.endswith((".py", ".j2", ".js"))
}


@pytest.mark.parametrize("key", TEXTS)
def test_both_languages_are_complete(key: str) -> None:
    assert set(TEXTS[key]) == set(LANGUAGES) and all(said.strip() for said in TEXTS[key].values())
    assert set(PLACE.findall(TEXTS[key]["en"])) == set(PLACE.findall(TEXTS[key]["ja"])), "the same figures in both"


def test_japanese_is_japanese() -> None:
    kana_or_kanji = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
    foreign = {key for key, texts in TEXTS.items() if not kana_or_kanji.search(PLACE.sub("", texts["ja"]))}
    assert foreign == {"bits_per_pixel", "plot_metric", "js_decibels", "js_difference"}, "units and names only"


def test_every_key_is_used_and_every_used_key_is_there() -> None:
    everything = "\n".join(SOURCES.values())
    dynamic = (
        "plot_",
        "stage_",
        "column_",
        "headline_",
        "alt_",
        "js_",
        "bitstreams_",
        "note_",
        "state_",
        "untrained_",
        "advice_reach_",
    )
    for key in TEXTS:
        assert f'"{key}"' in everything or key.startswith(dynamic), f"nothing says {key}"
    used = re.findall(r'\bt\("(\w+)"', SOURCES["template.html.j2"])
    used += re.findall(r'\b(?:note|text)\("(\w+)"', everything)
    used += [f"js_{key}" for key in re.findall(r'\btranslate\("(\w+)"', SOURCES["report.js"])]
    assert len(used) > 100 and not {key for key in used if not key.endswith("_")} - set(TEXTS)


def test_values_are_escaped_in_text_and_attributes() -> None:
    said = text("note_picture_gone", path='<script>"&')
    assert "<script>" not in said.__html__() and "&lt;script&gt;&#34;&amp;" in said.__html__()
    assert '"&lt;script&gt;&#34;&amp; ' in attributes("title", said) and said.to("ja").startswith('<script>"& が')


def test_texts_may_stand_in_texts() -> None:
    nested = text("wall_of", stage=text("stage_distill"), epochs="3", time="0:00:01")
    assert nested.to("en").startswith("distillation: 0:00:01") and nested.to("ja").startswith("蒸留: 0:00:01")
