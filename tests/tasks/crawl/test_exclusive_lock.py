"""One crawl of a site at a time, whichever process it is in."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.crawl.exclusive_lock import exclusive_lock
from tasks.errors import SiteBusy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from tasks.crawl.exclusive_lock import exclusive_lock
with exclusive_lock(sys.argv[1]):
    print("asking", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another_process_asking(site_url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that asks the site until its input ends."""
    command = [sys.executable, "-c", HOLDER, site_url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"asking\n"
        yield process


@pytest.fixture
def site_url() -> str:
    """A site that no other test run asks."""
    return f"http://{uuid4()}.test:8000"


def test_while_another_process_asks_nobody_else_does(site_url: str) -> None:
    with another_process_asking(site_url):
        with pytest.raises(SiteBusy, match=site_url.removeprefix("http://")) as caught, exclusive_lock(site_url):
            pass
        assert caught.value.retryable
        with pytest.raises(SiteBusy), exclusive_lock(f"{site_url}/anime/season"):
            pass
    with exclusive_lock(site_url):
        pass


def test_another_site_may_be_asked_meanwhile(site_url: str) -> None:
    with another_process_asking(site_url), exclusive_lock(f"http://other-{uuid4()}.test"):
        pass


def test_a_process_that_is_killed_leaves_the_site_free(site_url: str) -> None:
    with another_process_asking(site_url) as process:
        process.kill()
        process.wait()
        with exclusive_lock(site_url):
            pass


def test_within_a_process_it_is_the_same(site_url: str) -> None:
    with exclusive_lock(site_url), pytest.raises(SiteBusy), exclusive_lock(site_url):
        pass


def test_an_error_leaves_the_site_free_and_goes_on(site_url: str) -> None:
    with pytest.raises(OSError, match="of the block"), exclusive_lock(site_url):
        raise OSError("of the block")
    with exclusive_lock(site_url):
        pass


def test_a_site_with_a_long_name_is_not_taken_for_a_busy_one() -> None:
    with exclusive_lock(f"http://{uuid4()}.{'long.' * 20}test:8000"):
        pass
