"""Prefect's server on 127.0.0.1, as `prefect server start` runs it, with the checks of `same_origin`.

python -m infra.local.prefect_server --port 4200

Prefect's own protections are not enough. Its CORS setting keeps other pages from reading responses, not from sending
requests. Its API does not look at `Host`, nor its WebSockets at `Origin`. Its authentication would ask for a
password in the UI.

It lists the artifacts of a run by key, in the order of the steps.
"""

import argparse
import os
from typing import Any

import uvicorn

from infra.local.same_origin import origins, same_origin_asgi


def main() -> None:
    """Serve the API and the UI until the process is terminated."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.prefect_server", description="Prefect's server.")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    args = parser.parse_args()
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(origins(args.port))
    os.environ["PREFECT_SERVER_API_PORT"] = str(args.port)

    from prefect.server.api.server import create_app  # reads the settings when it is imported

    _sort_artifacts_by_key()
    uvicorn.run(same_origin_asgi(create_app(final=True)), host="127.0.0.1", port=args.port, log_level="warning")


def _sort_artifacts_by_key() -> None:
    """Sort artifacts by key where the UI asks for no order. Their ids, by which Prefect sorts them, are random."""
    from prefect.server.schemas.sorting import ArtifactSort

    as_sql_sort: Any = ArtifactSort.as_sql_sort

    def by_key(sort: ArtifactSort) -> Any:
        return as_sql_sort(ArtifactSort.KEY_ASC if sort == ArtifactSort.ID_DESC else sort)

    setattr(ArtifactSort, "as_sql_sort", by_key)  # noqa: B010 - mypy knows no assignment to a method


if __name__ == "__main__":
    main()
