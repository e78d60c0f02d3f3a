"""Recognises pages that ask for proof of a human visitor, whatever their status is."""

import re
from collections.abc import Mapping

# Cloudflare and AWS WAF send these headers with their challenges. Nobody else does.
_HEADERS = (("cf-mitigated", "challenge"), ("x-amzn-waf-action", "captcha"), ("x-amzn-waf-action", "challenge"))
_TITLE = re.compile(
    rb"<title[^>]*>[^<]*(?:just a moment|attention required|human verification|captcha|are you (?:a )?(?:human|robot)"
    rb"|verify (?:that )?you are|security check|ddos-guard|pardon our interruption|checking your browser"
    rb"|access to this page has been denied|you are being redirected)[^<]*<",
    re.IGNORECASE,
)
_DENIED = re.compile(rb"<title[^>]*>[^<]*access denied[^<]*<", re.IGNORECASE)
# The widgets and scripts themselves. The word alone proves nothing: each page of MyAnimeList has its captcha's key in
# its head. Imperva, DataDome and others also add scripts to pages that they let pass, to measure their readers.
_WIDGET = re.compile(
    rb"class=[\"'][^\"']*\b(?:g-recaptcha|h-captcha|cf-turnstile|amzn-captcha)\b|id=[\"']?(?:captcha-container|challenge-form)\b"
    rb"|/cdn-cgi/challenge-platform/[^\"'\s]*/orchestrate/|awswafcaptcha"
    # Imperva (Incapsula): its frame, its sentence, and the page that only has its script
    rb"|<iframe[^>]+_incapsula_resource|incapsula incident id"
    rb"|content=[\"']noindex, ?nofollow[\"']>\s*<script[^>]+src=[\"']/_incapsula_resource"
    # Akamai
    rb"|/_sec/cp_challenge/|\bsec-if-cpt-container\b|[?&]bm-verify=|errors\.edgesuite\.net/"
    # DataDome, PerimeterX (HUMAN), DDoS-Guard, Sucuri
    rb"|captcha-delivery\.com/|id=[\"']?px-captcha\b|captcha\.px-(?:cdn|cloud)\.net/"
    rb"|/\.well-known/ddos-guard/|check\.ddos-guard\.net/|\bsucuri_cloudproxy_js\b",
    re.IGNORECASE,
)
_SEARCHED_BYTES = 100_000


def has_challenge_headers(headers: Mapping[str, str]) -> bool:
    """Whether the headers of a response announce a challenge."""
    return any(headers.get(name, "").lower() == value for name, value in _HEADERS)


def is_challenge_page(body: bytes) -> bool:
    """Whether a body is a challenge or denies access. Use it only for bodies that are not the expected page."""
    return asks_for_proof(body) or bool(_DENIED.search(body[:_SEARCHED_BYTES]))


def asks_for_proof(body: bytes) -> bool:
    """Whether a body is a challenge, which asks for proof of a human visitor or of a browser."""
    start = body[:_SEARCHED_BYTES]
    return bool(_TITLE.search(start) or _WIDGET.search(start))
