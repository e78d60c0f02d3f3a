"""Pages that want proof of a human being, and pages that do not."""

import zipfile
from pathlib import Path

import pytest
from multidict import CIMultiDict

from infra.local.site.invented_titles import SEASONS, invented_titles
from infra.local.site.pages import detail_page, not_found_page, season_page
from tasks.crawl.challenges import names_a_challenge, shows_a_challenge


@pytest.mark.parametrize(
    "headers",
    [
        {"cf-mitigated": "challenge"},
        {"CF-Mitigated": "Challenge", "Server": "cloudflare"},
        {"x-amzn-waf-action": "captcha"},
        {"X-Amzn-Waf-Action": "challenge"},
    ],
)
def test_a_challenge_is_known_by_its_headers(headers: dict[str, str]) -> None:
    assert names_a_challenge(CIMultiDict(headers))


@pytest.mark.parametrize(
    "headers",
    [{}, {"Server": "cloudflare", "CF-Ray": "8a1-FRA"}, {"cf-mitigated": ""}, {"x-amzn-waf-action": "allow"}],
)
def test_a_host_behind_the_same_network_is_none(headers: dict[str, str]) -> None:
    assert not names_a_challenge(CIMultiDict(headers))


def page(head: str = "", body: str = "") -> bytes:
    return f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>".encode()


CHALLENGES = {
    "Cloudflare's wait": page("<title>Just a moment...</title>"),
    "Cloudflare's block": page('<title lang="en">Attention Required! | Cloudflare</title>'),
    "Cloudflare's script": page(body='<script src="/cdn-cgi/challenge-platform/h/b/orchestrate/jsch/v1"></script>'),
    "Cloudflare's form": page(body='<form id="challenge-form" action="/?__cf_chl_f_tk=abc" method="POST"></form>'),
    "Cloudflare's box": page(body='<div class="main cf-turnstile" data-sitekey="0x4"></div>'),
    "Amazon's title": page("<title>Human Verification</title>"),
    "Amazon's box": page(body='<div id="captcha-container"></div>'),
    "Amazon's script": page('<script src="https://a.edge.captcha-sdk.awswaf.com/awsWafCaptcha.js"></script>'),
    "Google's box": page(body="<form><div class='g-recaptcha' data-sitekey='6Ld'></div></form>"),
    "hCaptcha's box": page(body='<div class="h-captcha" data-sitekey="10000000-ffff"></div>'),
    "a robot?": page("<title>\n  Are you a robot?\n</title>"),
    "a human?": page("<TITLE>Please verify that you are human</TITLE>"),
    "denied": page("<title>Access Denied</title>"),
    "a captcha": page("<title>Captcha | MyAnimeList.net</title>"),
}


@pytest.mark.parametrize("body", CHALLENGES.values(), ids=CHALLENGES)
def test_a_challenge_is_known_by_its_title_or_its_box(body: bytes) -> None:
    assert shows_a_challenge(body)


KEY_IN_HEAD = "<meta name='recaptcha_site_key' content='6Ld_1aIZAAAAAF6bNdR67ICKIaeXLKlbhE7t2Qz4'>"
ORDINARY = {
    "nothing": b"",
    "half of a page": page(KEY_IN_HEAD)[:60],
    "the captcha's key": page(f"<title>Fall 2010 - Anime - MyAnimeList.net</title>{KEY_IN_HEAD}"),
    "the captcha's script": page("<script src='https://www.google.com/recaptcha/api.js?render=explicit'></script>"),
    # Put by Cloudflare into pages that everybody may read, to measure who reads them.
    "Cloudflare's measuring": page("<script>a.src='/cdn-cgi/challenge-platform/scripts/jsd/main.js';</script>"),
    "a story about one": page("<title>Anime</title>", "<p>Are you a robot? Just a moment: a captcha.</p>"),
    "an overloaded host": page("<title>503 Service Temporarily Unavailable</title>"),
    "a mention far behind": page("<title>Anime</title>", "." * 100_000 + '<div class="g-recaptcha"></div>'),
    "an image": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 100,
}


@pytest.mark.parametrize("body", ORDINARY.values(), ids=ORDINARY)
def test_what_is_no_challenge_is_not_taken_for_one(body: bytes) -> None:
    assert not shows_a_challenge(body)


def test_no_page_of_the_small_site_is_taken_for_one() -> None:
    titles = invented_titles(60)
    pages = [season_page(titles, season, "http://localhost") for season in SEASONS]
    pages += [detail_page(title, "http://localhost") for title in titles]
    for text in (*pages, not_found_page("http://localhost")):
        body = text.replace("<head>", f"<head>{KEY_IN_HEAD}").encode()
        assert KEY_IN_HEAD.encode() in body
        assert not shows_a_challenge(body)


def test_no_real_page_is_taken_for_one(real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "myanimelist" / "pages.zip") as archive:
        bodies = {name: archive.read(name) for name in archive.namelist() if name.endswith(".html")}
    assert len(bodies) > 200
    assert sum(b"recaptcha_site_key" in body for body in bodies.values()) > 200
    assert [name for name, body in bodies.items() if shows_a_challenge(body)] == []
