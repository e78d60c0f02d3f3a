"""Prefect's server on 127.0.0.1, as `prefect server start` runs it, with the checks of `same_origin`.

python -m infra.local.prefect_server --port 4200

Prefect's own protections are not enough. Its CORS setting keeps other pages from reading responses, not from sending
requests. Its API does not look at `Host`, nor its WebSockets at `Origin`. Its authentication would ask for a
password in the UI.
"""

import argparse
import os

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

    uvicorn.run(same_origin_asgi(create_app(final=True)), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
