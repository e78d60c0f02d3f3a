"""The source of the Cloud Function as a zip file."""

import io
import zipfile
from pathlib import Path

FUNCTION_TARGET = "predict"
BASE_IMAGE = "python313"  # Google's image of Python and the operating system
_PYTHON_VERSION = "3.13\n"  # that of the base image
_PACKAGE = "anime_genre_function"
"""The package in the zip. No package of a checkout has this name, so none can shadow the deployed source."""
_MAIN = f"""\
from {_PACKAGE}.function.main import {FUNCTION_TARGET}

__all__ = ["{FUNCTION_TARGET}"]
"""


def source_zip(folder: Path) -> bytes:
    """Return the function's source as Cloud Build expects it. The bytes depend on the files' content alone.

    The zip holds main.py, which imports the entry point; requirements.txt, which pins all dependencies, so that one
    source gives one image; .python-version; and the package `anime_genre_function`
    with the packages `bundle` and `function` of the `serving` folder, including openapi.json.
    """
    requirements = folder / "function" / "requirements.txt"
    files = {
        ".python-version": _PYTHON_VERSION.encode(),
        "main.py": _MAIN.encode(),
        "requirements.txt": requirements.read_bytes(),
    }
    files[f"{_PACKAGE}/__init__.py"] = b""
    for package in ("bundle", "function"):
        shipped = (path for path in (folder / package).iterdir() if path.suffix in (".py", ".json"))
        files |= {f"{_PACKAGE}/{package}/{path.name}": path.read_bytes() for path in shipped}
    buffer = io.BytesIO()
    # Stored, not deflated: deflated bytes depend on the version of zlib.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
