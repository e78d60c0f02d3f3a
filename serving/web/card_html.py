"""Converts a model card from Markdown to HTML that is safe to show, whoever wrote it.

HTML in the card is shown as text. Pictures and inline styles are removed, because the page's Content-Security-Policy
does not allow them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

LEVELS_DOWN = 2  # the card is below the page's own h1 and h2
_DEEPEST = 6


class _Renderer(RendererHTML):
    """Puts tables into a frame that scrolls on a phone and can be focused with the keyboard."""

    def table_open(self, *_: Any) -> str:
        return '<div class="scroll" tabindex="0" role="group" aria-label="Table">\n<table>\n'

    def table_close(self, *_: Any) -> str:
        return "</table>\n</div>\n"


def card_html(card: str) -> Markup:
    """The card's HTML; its headings start at h3."""
    reader = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table").disable("image")
    environment: dict[str, Any] = {}
    tokens = reader.parse(card, environment)
    _lower_headings(tokens)
    _drop_styles(tokens)
    return Markup(reader.renderer.render(tokens, reader.options, environment))


def _lower_headings(tokens: Sequence[Token]) -> None:
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + LEVELS_DOWN, _DEEPEST)}"


def _drop_styles(tokens: Sequence[Token]) -> None:
    """Replace the inline styles of aligned columns with classes."""
    classes: Mapping[object, str] = {"text-align:right": "right", "text-align:center": "centre"}
    for token in tokens:
        style = token.attrs.pop("style", None)
        if style in classes:
            token.attrSet("class", classes[style])
