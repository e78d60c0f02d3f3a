"""Recognises pages that ask for proof of a human visitor, whatever their status is."""

import re
from collections.abc import Mapping

# Cloudflare and AWS WAF send these headers with their challenges. Nobody else does.
_HEADERS = (("cf-mitigated", "challenge"), ("x-amzn-waf-action", "captcha"), ("x-amzn-waf-action", "challenge"))
_TITLE = re.compile(
    rb"<title[^>]*>[^<]*(?:just a moment|attention required|human verification|captcha|are you (?:a )?(?:human|robot)"
    rb"|verify (?:that )?you are|access denied|security check)[^<]*<",
    re.IGNORECASE,
)
# The widgets themselves. The word alone proves nothing: each page of MyAnimeList has its captcha's key in its head.
_WIDGET = re.compile(
    rb"class=[\"'][^\"']*\b(?:g-recaptcha|h-captcha|cf-turnstile|amzn-captcha)\b|id=[\"']?(?:captcha-container|challenge-form)\b"
    rb"|/cdn-cgi/challenge-platform/[^\"'\s]*/orchestrate/|awswafcaptcha",
    re.IGNORECASE,
)
_SEARCHED_BYTES = 100_000


def has_challenge_headers(headers: Mapping[str, str]) -> bool:
    """Whether the headers of a response announce a challenge."""
    return any(headers.get(name, "").lower() == value for name, value in _HEADERS)


def is_challenge_page(body: bytes) -> bool:
    """Whether a body is a challenge. Use it only for bodies that are not the expected page."""
    start = body[:_SEARCHED_BYTES]
    return bool(_TITLE.search(start) or _WIDGET.search(start))
