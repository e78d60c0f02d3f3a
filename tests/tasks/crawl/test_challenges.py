"""Recognising pages that ask for proof of a human visitor."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from multidict import CIMultiDict

from infra.local.site.invented_titles import SEASONS, invented_titles
from infra.local.site.pages import detail_page, not_found_page, season_page
from tasks.crawl.challenges import asks_for_proof, denies_access, has_captcha, has_challenge_headers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"CF-Mitigated": "Challenge", "Server": "cloudflare"}, True),
        ({"x-amzn-waf-action": "captcha"}, True),
        ({"X-Amzn-Waf-Action": "challenge"}, True),
        ({}, False),
        ({"Server": "cloudflare", "CF-Ray": "8a1-FRA"}, False),
        ({"cf-mitigated": ""}, False),
        ({"x-amzn-waf-action": "allow"}, False),
    ],
)
def test_challenge_headers(headers: dict[str, str], expected: bool) -> None:
    assert has_challenge_headers(CIMultiDict(headers)) is expected


def page(head: str = "", body: str = "") -> bytes:
    return f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>".encode()


CHALLENGES = {
    "Cloudflare's wait": page("<title>Just a moment...</title>"),
    "Cloudflare's block": page('<title lang="en">Attention Required! | Cloudflare</title>'),
    "Cloudflare's script": page(body='<script src="/cdn-cgi/challenge-platform/h/b/orchestrate/jsch/v1"></script>'),
    "Cloudflare's form": page(body='<form id="challenge-form" action="/?__cf_chl_f_tk=abc" method="POST"></form>'),
    "Amazon's title": page("<title>Human Verification</title>"),
    "robot": page("<title>\n  Are you a robot?\n</title>"),
    "human": page("<TITLE>Please verify that you are human</TITLE>"),
    "Incapsula's frame": page(body='<iframe id="main-iframe" src="/_Incapsula_Resource?CWUDNSAI=9&incident_id=1-2">'),
    "Incapsula's sentence": page(body="Request unsuccessful. Incapsula incident ID: 1234-5678"),
    "Incapsula's script": page(
        '<META NAME="robots" CONTENT="noindex,nofollow">\n<script src="/_Incapsula_Resource?SWJIYLWA=7"></script>'
    ),
    "Imperva's title": page("<title>Pardon Our Interruption</title>"),
    "Akamai's proof": page(body='<script src="/_sec/cp_challenge/ak-challenge-4-3.htm"></script>'),
    "Akamai's refresh": page("""<meta http-equiv="refresh" content="5; URL='/?bm-verify=AAQAAA'">"""),
    "DataDome's": page(body="<script>var dd={'host':'geo.captcha-delivery.com/captcha/'}</script>"),
    "PerimeterX's box": page(body='<div id="px-captcha"></div>'),
    "PerimeterX's title": page("<title>Access to this page has been denied.</title>"),
    "DDoS-Guard's title": page("<title>DDoS-Guard</title>"),
    "DDoS-Guard's script": page('<script src="/.well-known/ddos-guard/js-challenge/index.js"></script>'),
    "Sucuri's": page(body="<script>var sucuri_cloudproxy_js='';</script>"),
    "an old wait": page("<title>Checking your browser before accessing a.test</title>"),
    "captcha": page("<title>Captcha | MyAnimeList.net</title>"),
}
CAPTCHAS = {
    "Cloudflare's box": page(body='<div class="main cf-turnstile" data-sitekey="0x4"></div>'),
    "Amazon's box": page(body='<div id="captcha-container"></div>'),
    "Amazon's script": page('<script src="https://a.edge.captcha-sdk.awswaf.com/awsWafCaptcha.js"></script>'),
    "Google's box": page(body="<form><div class='g-recaptcha' data-sitekey='6Ld'></div></form>"),
    "hCaptcha's box": page(body='<div class="h-captcha" data-sitekey="10000000-ffff"></div>'),
}
DENIALS = {
    "Akamai's": page(body="Reference #18.2 https://errors.edgesuite.net/18.2"),
    "any": page("<title>Access Denied</title>"),
}
KINDS = (asks_for_proof, has_captcha, denies_access)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        *((body, asks_for_proof) for body in CHALLENGES.values()),
        *((body, has_captcha) for body in CAPTCHAS.values()),
        *((body, denies_access) for body in DENIALS.values()),
    ],
    ids=[*CHALLENGES, *CAPTCHAS, *DENIALS],
)
def test_challenge_captcha_and_denial_are_recognised_and_told_apart(body: bytes, kind: Callable[[bytes], bool]) -> None:
    assert [recognise for recognise in KINDS if recognise(body)] == [kind]


def is_none(body: bytes) -> bool:
    return not any(recognise(body) for recognise in KINDS)


KEY_IN_HEAD = "<meta name='recaptcha_site_key' content='6Ld_1aIZAAAAAF6bNdR67ICKIaeXLKlbhE7t2Qz4'>"
OTHERS = {
    "nothing": b"",
    "the captcha's key": page(f"<title>Fall 2010 - Anime - MyAnimeList.net</title>{KEY_IN_HEAD}"),
    "the captcha's script": page("<script src='https://www.google.com/recaptcha/api.js?render=explicit'></script>"),
    # Cloudflare adds this script to pages that it lets pass, to measure their readers.
    "Cloudflare's measuring": page("<script>a.src='/cdn-cgi/challenge-platform/scripts/jsd/main.js';</script>"),
    "Incapsula's measuring": page(
        '<script src="/_Incapsula_Resource?SWJIYLWA=719d34d31c8e3a6e6fffd425f7e032f3"></script>'
    ),
    "DataDome's measuring": page('<script src="https://js.datadome.co/tags.js"></script>'),
    "PerimeterX's measuring": page('<script src="//client.px-cloud.net/PX1/main.min.js"></script>'),
    "a story about one": page("<title>Anime</title>", "<p>Are you a robot? Just a moment: a captcha.</p>"),
    "an overloaded host": page("<title>503 Service Temporarily Unavailable</title>"),
    "a widget far behind": page("<title>Anime</title>", "." * 100_000 + '<div class="g-recaptcha"></div>'),
    "an image": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 100,
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_challenge_page_is_nothing_else(body: bytes) -> None:
    assert is_none(body)


def test_challenge_page_is_no_page_of_the_built_in_site() -> None:
    titles = invented_titles(20)
    pages = [season_page(titles, season, "http://localhost") for season in SEASONS[:4]]
    pages += [detail_page(title, "http://localhost") for title in titles]
    for text in (*pages, not_found_page("http://localhost")):
        assert is_none(text.replace("<head>", f"<head>{KEY_IN_HEAD}").encode())


def test_challenge_page_is_no_real_page(real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "myanimelist" / "pages.zip") as archive:
        bodies = {name: archive.read(name) for name in archive.namelist() if name.endswith(".html")}
    assert sum(b"recaptcha_site_key" in body for body in bodies.values()) > 200
    assert [name for name, body in bodies.items() if not is_none(body)] == []
