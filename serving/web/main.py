"""Starts the page if only this folder is deployed: on App Engine (app.yaml) or in a container (Dockerfile).

    FUNCTION_URL=https://... gunicorn 'main:create_app()'

The folder's modules use relative imports, so this module loads the folder as a package.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from flask import Flask


def create_app() -> Flask:
    """Call `app.create_app` with the settings of the environment.

    Raises:
        ValueError: the environment's FUNCTION_URL is not an http or https address.
    """
    spec = spec_from_file_location("web", Path(__file__).parent / "__init__.py")
    if spec is None or spec.loader is None:
        raise ImportError("The page's folder is not a package: it has no __init__.py.")
    package = sys.modules["web"] = module_from_spec(spec)
    spec.loader.exec_module(package)
    app: Flask = import_module("web.app").create_app()
    return app
