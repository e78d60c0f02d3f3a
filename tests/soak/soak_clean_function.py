"""The function's zip in an environment of its own, made from its requirements.txt: does it answer as PyTorch does?

    python tests/soak/soak_clean_function.py

Nothing of the project is installed there, and no torch. It is asked about pictures of all kinds; printed is the largest
difference of a probability from the network's own. The exit code is 1 where one is above 1e-4. Takes about two minutes,
most of them for the installation.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # of which a script that is run sees only its own folder

import requests

from tests.parity import TOLERANCE, answers_differ, random_bundle
from tests.soak.function_process import BUCKET, started, unpack_function, upload_bundle
from tests.storage import storage_emulator


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = unpack_function(folder / "function")
        python = clean_environment(folder / "environment", source / "requirements.txt")
        network, genres = random_bundle(folder / "bundle")
        with storage_emulator(folder, BUCKET) as storage_url:
            environment = upload_bundle(storage_url, folder / "bundle")
            with started(source, environment, folder / "function.log", python) as function:
                wait_until_it_listens(function.url)
                with requests.Session() as session:
                    session.headers["Connection"] = "close"
                    differences = answers_differ(function.url, session, network, genres)
    for kind, difference in differences.items():
        print(f"  {kind:32} {difference:.1e}")
    worst = max(differences.values())
    print(f"{len(differences)} kinds of pictures, the largest difference is {worst:.1e} ({TOLERANCE} are allowed)")
    sys.exit(worst > TOLERANCE)


def clean_environment(folder: Path, requirements: Path) -> str:
    """The Python of a new environment with these requirements alone."""
    start = time.monotonic()
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
    unknown = [
        subprocess.run([python, "-I", "-c", f"import {name}"], capture_output=True) for name in ("torch", "ml", "infra")
    ]
    assert all(tried.returncode for tried in unknown), "the environment is not clean"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"installed {requirements.name} in {time.monotonic() - start:.0f} s, {size / 1e6:.0f} MB")
    return python


def wait_until_it_listens(url: str, timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            requests.get(url, timeout=5, headers={"Connection": "close"}).raise_for_status()
            return
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
