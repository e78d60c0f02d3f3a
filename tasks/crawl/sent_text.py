"""Describes a text, such as a web page, that a host sent instead of something else."""

import codecs
import re
from html import unescape

from tasks.errors import excerpt

_TITLE = re.compile(r"<(title|h1)\b[^>]*>(.*?)(?:</\1|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_SEARCHED_BYTES = 100_000
# Of the first characters of a text, so many may be control characters or cannot be decoded.
_CHECKED_CHARACTERS, _MOST_ODD = 1000, 0.1


def described(body: bytes) -> str | None:
    """What a body is in a few words, with its title or beginning; None if it is not text."""
    start = body[:_SEARCHED_BYTES]
    is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = start.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace").strip()
    checked = text[:_CHECKED_CHARACTERS]
    odd = sum(not (character.isprintable() or character.isspace()) or character == "\ufffd" for character in checked)
    if not text or "\0" in checked or odd > _MOST_ODD * len(checked):
        return None
    if not text.startswith("<"):
        return f'a text, "{excerpt(text)}",'
    titles = (excerpt(unescape(_TAG.sub("", match[2]))) for match in _TITLE.finditer(text))
    title = next(filter(None, titles), None)
    return f'a page with the title "{title}"' if title else "a page without a title"
