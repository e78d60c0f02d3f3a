"""The zip file of the function's source."""

import io
import os
import shutil
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import serving
from infra.source_zip import BASE_IMAGE, source_zip

SERVING = Path(serving.__file__).parent
ROOT = SERVING.parent


USED = (
    *("flask", "functions-framework", "google-api-core", "google-auth", "google-cloud-storage", "gunicorn", "numpy"),
    *("onnxruntime", "pillow", "requests", "urllib3", "werkzeug"),
)


def test_source_zip_contains_entry_point_package_requirements_and_python_version() -> None:
    with zipfile.ZipFile(io.BytesIO(source_zip(SERVING))) as archive:
        files = [path for package in ("bundle", "function") for path in sorted((SERVING / package).glob("*.py"))]
        files = sorted([*files, SERVING / "function" / "openapi.json"])
        names = [f"anime_genre_function/{path.relative_to(SERVING)}" for path in files]
        assert archive.namelist() == [
            ".python-version",
            "anime_genre_function/__init__.py",
            *names,
            "main.py",
            "requirements.txt",
        ]
        assert b"from anime_genre_function.function.main import predict" in archive.read("main.py")
        assert archive.read(".python-version") == f"{BASE_IMAGE[6]}.{BASE_IMAGE[7:]}\n".encode()


def test_requirements_of_the_function_pin_all_dependencies_and_nothing_else() -> None:
    """As the tested versions, so that one source gives one image."""
    pins = dict(line.split("==") for line in (SERVING / "function" / "requirements.txt").read_text().split())
    tested = dict(line.split("==") for line in (ROOT / "infra" / "constraints.txt").read_text().split() if "==" in line)
    assert pins.items() <= {canonicalize_name(name): version for name, version in tested.items()}.items()
    runtime = {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux"}
    needed: set[tuple[str, str]] = set()
    open_ = {(name, "") for name in USED}
    while open_:
        needed |= open_
        found = set()
        for name, extra in open_:
            for requirement in map(Requirement, distribution(name).requires or ()):
                if requirement.marker is None or requirement.marker.evaluate({**runtime, "extra": extra}):
                    found |= {(canonicalize_name(requirement.name), each) for each in {"", *requirement.extras}}
        open_ = found - needed
    assert pins.keys() == {name for name, _ in needed}


def test_source_zip_bytes_do_not_depend_on_folder_or_file_times(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(SERVING, copy)
    for number, path in enumerate(sorted(copy.iterdir(), reverse=True)):
        os.utime(path, (number, number))
    assert source_zip(copy) == source_zip(SERVING)
