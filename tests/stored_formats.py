"""The stored formats as a fixture: a bucket and the workspace files that steps read, in one archive.

    python -m tests.stored_formats    rebuilds the archive with the present code
    unpack(workspace)                 unpacks it as a workspace for `local_stack`

The archive was built in November 2026, and users have buckets like it. Rebuild it only if a format changes on
purpose.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

from tests.small_site import small_site

ARCHIVE = Path(__file__).parent / "flows" / "stored_formats.zip"
SITE_PORT = 21764
"""The port of the built-in site in the archive's URLs."""
TITLES = 170
SEASONS = "2015-winter..2019-fall"
_INDEX = "index.json"
_OMITTED = ("logs", "prefect", "tensorboard", "checkpoints", "stack.json", "stack.lock", "run.lock")


def pack(workspace: Path, archive: Path) -> None:
    """Write a workspace's files into an archive; equal files are stored once."""
    for database in workspace.glob("*.sqlite"):
        sqlite3.connect(database).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    with sqlite3.connect(workspace / "mlflow.db") as mlflow:  # MLflow stores the path of the script that logged a model
        mlflow.execute("UPDATE tags SET value = 'retrain' WHERE key = 'mlflow.source.name'")
        mlflow.execute("UPDATE logged_model_tags SET tag_value = 'retrain' WHERE tag_key = 'mlflow.source.name'")
    mlflow.execute("VACUUM").connection.close()
    index = {}
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(path for path in workspace.rglob("*") if path.is_file()):
            name = path.relative_to(workspace)
            if name.parts[0] in _OMITTED or "logs" in name.parts or name.name.endswith((".lock", "-wal", "-shm")):
                continue
            data = path.read_bytes()
            digest = sha256(data).hexdigest()
            if digest not in index.values():
                entry = zipfile.ZipInfo(digest, date_time=(1980, 1, 1, 0, 0, 0))
                packed.writestr(entry, data, zipfile.ZIP_LZMA)
            index[name.as_posix()] = digest
        entry = zipfile.ZipInfo(_INDEX, date_time=(1980, 1, 1, 0, 0, 0))
        packed.writestr(entry, json.dumps(index, indent=1), zipfile.ZIP_DEFLATED)


def read(archive: Path = ARCHIVE) -> dict[str, bytes]:
    """The archive's files by their path in the workspace."""
    with zipfile.ZipFile(archive) as packed:
        return {name: packed.read(digest) for name, digest in json.loads(packed.read(_INDEX)).items()}


def unpack(workspace: Path, archive: Path = ARCHIVE) -> None:
    """Write the archive's files into a workspace."""
    for name, data in read(archive).items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_bytes(data)


def retrain(workspace: Path, site_url: str) -> str:
    """Run the command that the archive was built with, and return what it prints.

    It writes `summary.json` into the workspace.
    """
    command = [sys.executable, "-m", "flows.cli", "retrain", "--workspace", str(workspace), "--site-url", site_url]
    command += ["--seasons", SEASONS, "--image-size", "32", "--min-posters", "15", "--min-posters-per-part", "2"]
    command += ["--candidates", "scratch", "--trials", "1", "--epochs", "4", "--weights", "none"]
    command += ["--details", "0"]  # the archive has no detail pages
    return subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Run the flow once over the built-in site and pack its workspace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ARCHIVE)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder, small_site(TITLES, port=SITE_PORT) as site_url:
        retrain(Path(folder), site_url)
        pack(Path(folder), output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
