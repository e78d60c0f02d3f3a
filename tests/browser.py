"""A real browser for tests: Chromium or Chrome."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium_browser() -> Iterator[Browser]:
    """Run the browser inside the block. Without a browser, skip the test, or fail if ANIME_GENRE_REQUIRE_BROWSER=1."""
    executable = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if executable is None:
        message = "No Chromium or Chrome is installed, so the page cannot be tested in a browser."
        if os.environ.get("ANIME_GENRE_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # Root cannot use Chromium's sandbox. The tests open only the project's own pages, and none needs a GPU, which
        # Chromium would emulate.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"]
        running = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield running
        running.close()
