"""A card in Markdown is converted to safe HTML."""

from typing import Any

from serving.web.card_html import card_html


def test_headings_start_at_h3() -> None:
    assert "<h3>One</h3>" in card_html("# One\n")
    assert "<h6>Four</h6>" in card_html("#### Four\n")
    assert "<h6>Six</h6>" in card_html("###### Six\n")


def test_html_is_shown_as_text() -> None:
    html = card_html("<script>alert(1)</script>\n\nA <b onclick=x>word</b>.\n")
    assert "<script" not in html and "<b " not in html
    assert "&lt;script&gt;" in html and "&lt;b onclick=x&gt;" in html


def test_dangerous_links_are_removed() -> None:
    assert "href" not in card_html("[a](javascript:alert(1)) [b](data:text/html,x)\n")
    assert '<a href="https://example.org">c</a>' in card_html("[c](https://example.org)\n")


def test_pictures_are_removed() -> None:
    assert "<img" not in card_html("![a poster](https://example.org/p.jpg)\n")


def test_table_alignment_is_a_class_and_tables_scroll(function: Any) -> None:
    html = card_html(function.model["card"])
    assert "style=" not in html
    assert '<th class="right">weighted F1</th>' in html
    assert '<td class="right">0.471</td>' in html
    assert html.count('<div class="scroll" tabindex="0"') == html.count("</table>\n</div>") == 1
