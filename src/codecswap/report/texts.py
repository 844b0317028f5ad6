"""Texts of the report in English and Japanese, from ``texts.toml``."""

import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

LANGUAGES = ("en", "ja")

TEXTS: dict[str, dict[str, str]] = tomllib.loads((files("codecswap.report") / "texts.toml").read_text("utf-8"))
"""Texts by key and language, with {placeholders} for values."""


@dataclass(frozen=True)
class Text:
    """A text in both languages."""

    key: str
    """The text's key in ``texts.toml``."""
    values: dict[str, Any] = field(default_factory=dict)
    """Values of its placeholders: strings, or other texts."""

    def to(self, language: str) -> str:
        """The text in one language, not escaped."""
        values = {name: value.to(language) if isinstance(value, Text) else value for name, value in self.values.items()}
        return TEXTS[self.key][language].format(**values)

    def __html__(self) -> Markup:
        """HTML with both languages, one of which the page hides; called by jinja."""
        return Markup("").join(
            Markup('<span class="{0}" lang="{0}">{1}</span>').format(language, escape(self.to(language)))
            for language in LANGUAGES
        )


def text(key: str, **values: Any) -> Text:
    """The text of a key, with values for its placeholders."""
    return Text(key, values)


def attributes(into: str, content: Text) -> Markup:
    """Attributes of an element that cannot hold both languages: the script puts the right one ``into`` place.

    Args:
        into: ``text`` for the element's own text, or the name of an attribute, which is in English without a script.
    """
    en, ja = (content.to(language) for language in LANGUAGES)
    now = Markup("") if into == "text" else Markup(' {}="{}"').format(Markup(into), en)
    return Markup('data-into="{}" data-en="{}" data-ja="{}"').format(into, en, ja) + now
