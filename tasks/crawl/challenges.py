"""Recognises pages that ask for proof of a human visitor, or deny access."""

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
# The last one is the address in Akamai's denials.
_DENIED = re.compile(rb"<title[^>]*>[^<]*access denied[^<]*<|errors\.edgesuite\.net/", re.IGNORECASE)
# The word alone proves nothing: each page of MyAnimeList has its captcha's key in its head.
_WIDGET = re.compile(
    rb"class=[\"'][^\"']*\b(?:g-recaptcha|h-captcha|cf-turnstile|amzn-captcha)\b|id=[\"']?captcha-container\b"
    rb"|awswafcaptcha",
    re.IGNORECASE,
)
# What only challenges have. Imperva, DataDome and others also add scripts to pages that they let pass, to measure their
# readers.
_CHALLENGE = re.compile(
    # Cloudflare
    rb"id=[\"']?challenge-form\b|/cdn-cgi/challenge-platform/[^\"'\s]*/orchestrate/"
    # Imperva (Incapsula): its frame, its sentence, and the page that only has its script
    rb"|<iframe[^>]+_incapsula_resource|incapsula incident id"
    rb"|content=[\"']noindex, ?nofollow[\"']>\s*<script[^>]+src=[\"']/_incapsula_resource"
    # Akamai
    rb"|/_sec/cp_challenge/|\bsec-if-cpt-container\b|[?&]bm-verify="
    # DataDome, PerimeterX (HUMAN), DDoS-Guard, Sucuri
    rb"|captcha-delivery\.com/|id=[\"']?px-captcha\b|captcha\.px-(?:cdn|cloud)\.net/"
    rb"|/\.well-known/ddos-guard/|check\.ddos-guard\.net/|\bsucuri_cloudproxy_js\b",
    re.IGNORECASE,
)
_SEARCHED_BYTES = 100_000


def has_challenge_headers(headers: Mapping[str, str]) -> bool:
    """Whether the headers of a response announce a challenge."""
    return any(headers.get(name, "").lower() == value for name, value in _HEADERS)


def asks_for_proof(body: bytes) -> bool:
    """Whether a body is a challenge, which asks for proof of a human visitor or of a browser."""
    start = body[:_SEARCHED_BYTES]
    return bool(_TITLE.search(start) or _CHALLENGE.search(start))


def has_captcha(body: bytes) -> bool:
    """Whether a body has the widget of a captcha. Forms have it, too, and they may be on any page of a site."""
    return bool(_WIDGET.search(body[:_SEARCHED_BYTES]))


def denies_access(body: bytes) -> bool:
    """Whether a body only says that access is denied."""
    return bool(_DENIED.search(body[:_SEARCHED_BYTES]))
