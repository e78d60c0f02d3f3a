"""Runs the function's zip in a clean virtual environment with its requirements.txt and compares it with PyTorch.

    PYTHONPATH=. python tests/soak/soak_clean_function.py

Neither the project nor torch is installed in that environment. The script prints the largest difference between the
probabilities of the function and of PyTorch for every kind of picture. The exit code is 1 if one is above 1e-4. It
takes about two minutes, mostly for the installation.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the import path of a script contains only its own folder

import requests

from tests.parity import TOLERANCE, largest_differences, random_bundle
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
                wait_until_reachable(function.url)
                with requests.Session() as session:
                    session.headers["Connection"] = "close"
                    differences = largest_differences(function.url, session, network, genres)
    for kind, difference in differences.items():
        print(f"  {kind:32} {difference:.1e}")
    worst = max(differences.values())
    print(f"{len(differences)} kinds of pictures; the largest difference is {worst:.1e} (limit {TOLERANCE})")
    sys.exit(worst > TOLERANCE)


def clean_environment(folder: Path, requirements: Path) -> str:
    """Create a virtual environment with these requirements only. Returns the path of its Python."""
    start = time.monotonic()
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
    imports = [
        subprocess.run([python, "-I", "-c", f"import {name}"], capture_output=True) for name in ("torch", "ml", "infra")
    ]
    assert all(done.returncode for done in imports), "the environment is not clean"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"installed {requirements.name} in {time.monotonic() - start:.0f} s, {size / 1e6:.0f} MB")
    return python


def wait_until_reachable(url: str, timeout_seconds: float = 60) -> None:
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
