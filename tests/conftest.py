"""What all tests share: the real data where it is at hand, and an environment that waits little."""

import os
import tempfile
from pathlib import Path

import pytest

# Read when the steps are imported: a failed step waits this long before it is tried again.
os.environ["ANIME_GENRE_RETRY_DELAY_SECONDS"] = "[2, 2]"
_home = tempfile.TemporaryDirectory()  # gone when the tests are
os.environ["PREFECT_HOME"] = _home.name
os.environ["XDG_RUNTIME_DIR"] = _home.name  # where gunicorn keeps its control socket
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Tests train on tiny tensors, for which a second thread costs more than it does; the processes they start have it too.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pages, posters and weights; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("ANIME_GENRE_REAL_DATA", ROOT.parent / "shared"))
    if not (folder / "posters" / "anime.zip").exists():
        pytest.skip(f"no real data in {folder}; ANIME_GENRE_REAL_DATA may name another folder")
    return folder
