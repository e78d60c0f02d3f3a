"""The zip file of the function's source."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import serving
from infra.source_zip import source_zip

SERVING = Path(serving.__file__).parent


def test_source_zip_contains_entry_point_package_and_pinned_requirements() -> None:
    with zipfile.ZipFile(io.BytesIO(source_zip(SERVING))) as archive:
        files = [path for package in ("bundle", "function") for path in sorted((SERVING / package).glob("*.py"))]
        files = sorted([*files, SERVING / "function" / "openapi.json"])
        names = [f"anime_genre_function/{path.relative_to(SERVING)}" for path in files]
        assert archive.namelist() == ["anime_genre_function/__init__.py", *names, "main.py", "requirements.txt"]
        assert b"from anime_genre_function.function.main import predict" in archive.read("main.py")
        pins = archive.read("requirements.txt").decode().split()
    assert all("==" in pin for pin in pins)
    assert {pin.partition("==")[0].lower() for pin in pins} == {
        "flask",
        "functions-framework",
        "google-api-core",
        "google-auth",
        "google-cloud-storage",
        "gunicorn",
        "numpy",
        "onnxruntime",
        "pillow",
        "requests",
        "urllib3",
        "werkzeug",
    }


def test_source_zip_bytes_do_not_depend_on_folder_or_file_times(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(SERVING, copy)
    for number, path in enumerate(sorted(copy.iterdir(), reverse=True)):
        os.utime(path, (number, number))
    assert source_zip(copy) == source_zip(SERVING)
