"""Only one process at a time crawls a site."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.crawl.site_lock import site_lock
from tasks.errors import SiteBusy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract socket names")

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys
from tasks.crawl.site_lock import site_lock
with site_lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def site_url() -> str:
    """A site that no other test run locks."""
    return f"http://{uuid4()}.test:8000"


def test_site_lock_holds_between_processes_until_the_holder_is_killed(site_url: str) -> None:
    command = [sys.executable, "-c", HOLDER, site_url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        for url in (site_url, f"{site_url}/anime/season"):
            with pytest.raises(SiteBusy, match=site_url.removeprefix("http://")) as caught, site_lock(url):
                pass
            assert caught.value.retryable
        with site_lock(f"http://other-{uuid4()}.test"):
            pass
        process.kill()
        process.wait()
        with site_lock(site_url):
            pass


def test_site_lock_holds_within_a_process_and_ends_after_an_error(site_url: str) -> None:
    with pytest.raises(OSError, match="of the block"), site_lock(site_url):
        with pytest.raises(SiteBusy), site_lock(site_url):
            pass
        raise OSError("of the block")
    with site_lock(site_url):
        pass


def test_site_lock_of_a_long_host_name() -> None:
    with site_lock(f"http://{uuid4()}.{'long.' * 20}test:8000"):
        pass
