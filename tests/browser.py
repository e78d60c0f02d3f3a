"""A real browser: Debian's Chromium, or another Chromium or Chrome on the path."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium_browser() -> Iterator[Browser]:
    """The browser for the length of the block; where there is none the test skips, unless that is forbidden."""
    executable = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if executable is None:
        message = "No Chromium or Chrome is installed, so the page was not tried in a browser."
        if os.environ.get("ANIME_GENRE_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox; nothing but the project's own pages is opened.
        running = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield running
        running.close()
