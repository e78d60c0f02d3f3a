"""Is an answer a page that wants proof of a human being, whatever its status says?"""

import re
from collections.abc import Mapping

# Set by Cloudflare and by AWS WAF beside their challenges, and by nobody else.
_HEADERS = (("cf-mitigated", "challenge"), ("x-amzn-waf-action", "captcha"), ("x-amzn-waf-action", "challenge"))
_TITLE = re.compile(
    rb"<title[^>]*>[^<]*(?:just a moment|attention required|human verification|captcha|are you (?:a )?(?:human|robot)"
    rb"|verify (?:that )?you are|access denied|security check)[^<]*<",
    re.IGNORECASE,
)
# The boxes themselves. The bare word says nothing: each page of the site names its captcha's key in its head.
_WIDGET = re.compile(
    rb"class=[\"'][^\"']*\b(?:g-recaptcha|h-captcha|cf-turnstile|amzn-captcha)\b|id=[\"']?(?:captcha-container|challenge-form)\b"
    rb"|/cdn-cgi/challenge-platform/[^\"'\s]*/orchestrate/|awswafcaptcha",
    re.IGNORECASE,
)
_READ_BYTES = 100_000


def names_a_challenge(headers: Mapping[str, str]) -> bool:
    """Whether the answer's headers say so."""
    return any(headers.get(name, "").lower() == value for name, value in _HEADERS)


def shows_a_challenge(body: bytes) -> bool:
    """Whether a body that is not what was asked for is such a page; to be asked of no other bodies."""
    start = body[:_READ_BYTES]
    return bool(_TITLE.search(start) or _WIDGET.search(start))
