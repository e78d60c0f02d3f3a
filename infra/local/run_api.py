"""A stand-in for Cloud Run: the part of its Admin API that this project's client uses.

    python -m infra.local.run_api --port 8899 --state FOLDER [--service-port NAME=PORT]

It implements services, revisions, builds:submit and operations of the Cloud Run Admin API v2, and the builds of Cloud
Build v1. A build unpacks the source zip from the bucket of STORAGE_EMULATOR_HOST. A revision is a process of
functions-framework in this Python environment. The state is kept in FOLDER: after a restart, services have the same
revisions, traffic and addresses.

As Google does, it requires a bearer token: whoever may deploy here can run programs on this machine. The token is that
of the environment variable ANIME_GENRE_CLOUD_RUN_TOKEN.

`main` starts the server, `CloudRunServer` handles the requests, and `infra.local.services` holds the services.
"""

import argparse
import asyncio
import hmac
import json
import logging
import os
import re
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from google.api_core import exceptions as google_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import run_v2
from google.cloud.storage import Client
from google.protobuf.json_format import ParseError

from infra.errors import StackError
from infra.local.revision_process import RevisionProxy
from infra.local.rules import BUILD_FIELDS, MASK, violation
from infra.local.same_origin import same_origin_middleware
from infra.local.services import ApiError, Images, RunningService, invalid, not_found, now
from infra.settings import environment_variable

_LOCATION = "projects/{project}/locations/{location}"
_SERVICE_ID = re.compile(r"[a-z]([-a-z0-9]{0,47}[a-z0-9])?")
_STORAGE_TIMEOUT_SECONDS = 30.0
_TOKEN = environment_variable("cloud_run_token")


class CloudRunServer:
    """The handlers of the API's requests, and the services and operations that they manage."""

    def __init__(self, folder: Path, service_ports: Mapping[str, int], token: str) -> None:
        self._folder = folder
        self._authorization = f"Bearer {token}".encode()
        self._images = Images(folder)
        self._service_ports = service_ports
        self._without_service: dict[str, RevisionProxy] = {}  # listens on the port of a service that is not created yet
        self._services: dict[str, RunningService] = {}
        self._operations: dict[str, dict[str, Any]] = {}
        self._builds: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Restore the services of an earlier process. A damaged file is moved aside: its service is gone."""
        for path in sorted((self._folder / "services").glob("*.json")):
            try:
                running = RunningService.read(self._folder, self._images, path)
            except (ValueError, KeyError, TypeError, ParseError) as error:
                aside = path.replace(path.with_suffix(".damaged"))
                logging.warning("The service in %s is damaged and is gone. Its file is now %s. %s", path, aside, error)
                continue
            self._services[running.service.name] = running
            await running.open(self._service_ports.get(running.short_name))
        names = {running.short_name for running in self._services.values()}
        for name, port in self._service_ports.items():
            proxy = RevisionProxy(lambda: [])
            with suppress(OSError):  # the port is taken; creating the service fails with that reason
                if name not in names:
                    await proxy.open(port)
                    self._without_service[name] = proxy

    async def close(self) -> None:
        """Cancel the builds and operations, and stop all services."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(proxy.close() for proxy in self._without_service.values()))
        await asyncio.gather(*(running.close() for running in self._services.values()))

    def application(self) -> web.Application:
        """The web application with the API's routes."""
        checks = [same_origin_middleware, _error_responses, self._check_token]
        application = web.Application(middlewares=checks, client_max_size=2**22)
        services, one_service = f"/v2/{_LOCATION}/services", f"/v2/{_LOCATION}/services/{{service}}"
        application.add_routes(
            [
                web.get("/healthz", self._health),
                web.get(services, self._list_services),
                web.post(services, self._create_service),
                web.get(one_service, self._get_service),
                web.patch(one_service, self._update_service),
                web.delete(one_service, self._delete_service),
                web.get(f"{one_service}/revisions", self._list_revisions),
                web.get(f"{one_service}/revisions/{{revision}}", self._get_revision),
                web.delete(f"{one_service}/revisions/{{revision}}", self._delete_revision),
                web.post(f"/v2/{_LOCATION}/builds:submit", self._submit_build),
                web.get(f"/v2/{_LOCATION}/operations/{{operation}}", self._get_operation),
                web.get(f"/v1/{_LOCATION}/builds/{{build}}", self._get_build),
            ]
        )
        return application

    @web.middleware
    async def _check_token(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").encode()
        if request.path != "/healthz" and not hmac.compare_digest(sent, self._authorization):
            raise ApiError(401, 16, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _list_services(self, request: web.Request) -> web.Response:
        prefix = f"{_parent(request)}/services/"
        services = [running.service for name, running in self._services.items() if name.startswith(prefix)]
        return web.json_response({"services": [_to_json(service) for service in services]})

    async def _get_service(self, request: web.Request) -> web.Response:
        return web.json_response(_to_json(self._find(request).service))

    async def _list_revisions(self, request: web.Request) -> web.Response:
        revisions = self._find(request).revisions.values()
        return web.json_response({"revisions": [_to_json(revision) for revision in revisions]})

    async def _get_revision(self, request: web.Request) -> web.Response:
        name = request.match_info["revision"]
        revisions = self._find(request).revisions
        if name not in revisions:
            raise not_found(request.path.removeprefix("/v2/"))
        return web.json_response(_to_json(revisions[name]))

    async def _delete_revision(self, request: web.Request) -> web.Response:
        running, name = self._find(request), request.match_info["revision"]
        if sent := sorted({"etag", "validateOnly"} & request.query.keys()):
            raise invalid(f"This project deletes revisions without {', '.join(sent)}.")
        if name not in running.revisions:
            raise not_found(request.path.removeprefix("/v2/"))
        async with running.lock:
            deleted = _as_any(running.delete_revision(name))
        name = f"{_parent(request)}/operations/{uuid.uuid4()}"
        self._operations[name] = {"name": name, "metadata": deleted, "response": deleted, "done": True}
        return web.json_response({"name": name, "metadata": deleted})

    async def _create_service(self, request: web.Request) -> web.Response:
        service_id = request.query.get("serviceId", "")
        if not _SERVICE_ID.fullmatch(service_id):
            raise invalid("The service id must consist of up to 49 lower-case letters, digits and hyphens.")
        name = f"{_parent(request)}/services/{service_id}"
        if name in self._services:
            raise ApiError(409, 6, "ALREADY_EXISTS", f"Resource '{service_id}' already exists.")
        service = await _parse_body(request, run_v2.Service)
        _check(violation(_to_json(service)))
        _check_template(service, service_id)
        if any(target.revision for target in service.traffic):
            raise invalid("The traffic of a new service cannot name a revision, because there is none yet.")
        service.name, service.uid, service.generation = name, str(uuid.uuid4()), 1
        service.create_time = service.update_time = now()
        service.etag = uuid.uuid4().hex
        running = RunningService(self._folder, self._images, run_v2.Service(name=name))
        revision = running.update(service)
        if proxy := self._without_service.pop(service_id, None):
            await proxy.close()
        await running.open(self._service_ports.get(service_id))
        self._services[name] = running
        return web.json_response(self._start_operation(request, running, revision))

    async def _update_service(self, request: web.Request) -> web.Response:
        running = self._find(request)
        wanted = await _parse_body(request, run_v2.Service)
        fields = [_snake_case(path) for path in request.query.get("updateMask", "").split(",") if path]
        if not fields or not set(fields) <= set(MASK):
            raise invalid(f"This project updates only {', '.join(MASK)}, not {', '.join(fields) or 'all'}.")
        async with running.lock:
            if wanted.etag and wanted.etag != running.service.etag:
                raise ApiError(409, 10, "ABORTED", f"Conflict for resource '{running.short_name}'.")
            _check(violation(_to_json(wanted), _to_json(running.service)))
            if wanted.name and wanted.name != running.service.name:
                raise invalid("The name of a service is immutable.")
            service = run_v2.Service(running.service)
            for field in fields:
                setattr(service, field, getattr(wanted, field))
            _check_template(service, running.short_name)
            service.generation += 1
            service.etag, service.update_time, service.reconciling = uuid.uuid4().hex, now(), True
            revision = running.update(service)
        return web.json_response(self._start_operation(request, running, revision))

    async def _delete_service(self, request: web.Request) -> web.Response:
        running = self._services.pop(self._find(request).service.name)
        await running.delete()
        name = f"{_parent(request)}/operations/{uuid.uuid4()}"
        service = _as_any(running.service)
        self._operations[name] = {"name": name, "metadata": service, "response": service, "done": True}
        return web.json_response(self._operations[name])

    async def _reconcile(self, running: RunningService, new: str | None) -> dict[str, Any]:
        async with running.lock:
            await running.reconcile(new)
            return _as_any(running.service)

    async def _submit_build(self, request: web.Request) -> web.Response:
        wanted = await _parse_body(request, run_v2.SubmitBuildRequest)
        source, target = wanted.storage_source, wanted.buildpack_build.function_target
        if not (source.bucket and source.object_ and wanted.image_uri and target):
            raise invalid("A build requires a storage source, an image URI and a function target.")
        _check(violation(_to_json(wanted), fields=BUILD_FIELDS))
        identifier = str(uuid.uuid4())
        name = f"{_parent(request)}/builds/{identifier}"
        address = request.url.with_path(f"/v1/{name}").with_query(None)
        build: dict[str, Any] = {"id": identifier, "name": name, "status": "QUEUED", "logUrl": str(address)}
        self._builds[name] = build
        self._start(self._build(wanted, build))
        metadata = {"@type": "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata", "build": build}
        operation = {"name": f"{_parent(request)}/operations/{uuid.uuid4().hex}", "metadata": metadata}
        response: dict[str, Any] = {"buildOperation": operation}
        pack = wanted.buildpack_build
        if pack.enable_automatic_updates:
            response["baseImageUri"] = (
                f"{request.match_info['location']}-docker.pkg.dev/serverless-runtimes/google-22/runtimes/{pack.base_image}"
            )
        return web.json_response(response)

    async def _build(self, wanted: run_v2.SubmitBuildRequest, build: dict[str, Any]) -> None:
        """Build an image and write the outcome into the build's resource."""
        source, target = wanted.storage_source, wanted.buildpack_build.function_target
        try:
            archive = await asyncio.to_thread(_read_object, source.bucket, source.object_)
            digest = await asyncio.to_thread(self._images.add, wanted.image_uri, target, archive)
        except Exception as error:
            build.update(status="FAILURE", statusDetail=str(error))
        else:
            build.update(status="SUCCESS", results={"images": [{"name": wanted.image_uri, "digest": digest}]})

    async def _get_build(self, request: web.Request) -> web.Response:
        name = f"{_parent(request)}/builds/{request.match_info['build']}"
        if name not in self._builds:
            raise not_found(name)
        return web.json_response(self._builds[name])

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start_operation(self, request: web.Request, running: RunningService, new: str | None) -> dict[str, Any]:
        """Start the operation that brings a service to its wanted state. Clients poll it (`_get_operation`)."""
        name = f"{_parent(request)}/operations/{uuid.uuid4()}"
        operation: dict[str, Any] = {"name": name, "metadata": _as_any(running.service)}
        self._operations[name] = operation

        async def run() -> None:
            try:
                result = {"response": await self._reconcile(running, new)}
            except ApiError as error:
                result = {"error": {"code": error.code, "message": str(error)}}
            except Exception as error:  # INTERNAL
                result = {"error": {"code": 13, "message": f"{type(error).__name__}: {error}"}}
            operation.update(result, done=True)

        self._start(run())
        return operation

    async def _get_operation(self, request: web.Request) -> web.Response:
        name = f"{_parent(request)}/operations/{request.match_info['operation']}"
        if name not in self._operations:
            raise not_found(name)
        return web.json_response(self._operations[name])

    def _find(self, request: web.Request) -> RunningService:
        name = f"{_parent(request)}/services/{request.match_info['service']}"
        if name not in self._services:
            raise not_found(name)
        return self._services[name]


@web.middleware
async def _error_responses(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Respond to errors as Google's APIs do: {"error": {"code", "message", "status"}}."""
    try:
        return await handler(request)
    except ApiError as error:
        code, message, status = error.http_status, str(error), error.status
    except StackError as error:  # the port of a new service is taken
        code, message, status = 400, str(error), "FAILED_PRECONDITION"
    except web.HTTPNotFound:
        code, message, status = 404, f"This stand-in does not implement {request.path}.", "NOT_FOUND"
    except web.HTTPMethodNotAllowed:
        code, message, status = 405, f"{request.path} does not support {request.method}.", "UNIMPLEMENTED"
    except web.HTTPRequestEntityTooLarge:
        code, message, status = 413, "The request is too large.", "INVALID_ARGUMENT"
    except Exception:
        logging.exception("%s %s", request.method, request.path)
        code, message, status = 500, "Internal error encountered.", "INTERNAL"
    body = {"error": {"code": code, "message": message, "status": status}}
    return web.json_response(body, status=code)


def _parent(request: web.Request) -> str:
    return _LOCATION.format(**{name: request.match_info[name] for name in ("project", "location")})


async def _parse_body(request: web.Request, kind: Any) -> Any:
    """Parse the request's body as a message of the API."""
    try:
        return kind.from_json(await request.text())
    except (ParseError, ValueError) as error:
        raise invalid(f"Invalid JSON payload received: {error}") from error


def _to_json(message: Any) -> dict[str, Any]:
    text = type(message).to_json(message, use_integers_for_enums=False, always_print_fields_with_no_presence=False)
    document: dict[str, Any] = json.loads(text)
    return document


def _as_any(resource: run_v2.Service | run_v2.Revision) -> dict[str, Any]:
    """A service or revision as the metadata and the response of an operation contain it.

    Google adds fields that a client's version does not know. Clients must ignore them.
    """
    kind = f"type.googleapis.com/google.cloud.run.v2.{type(resource).__name__}"
    return {"@type": kind, **_to_json(resource), "fieldOfTomorrow": True}


def _check(broken: str | None) -> None:
    if broken:
        raise invalid(broken)


def _check_template(service: run_v2.Service, service_id: str) -> None:
    if service.template.revision and not service.template.revision.startswith(f"{service_id}-"):
        raise invalid(f"The name of a revision must begin with that of its service, {service_id}-.")
    containers = service.template.containers
    if not containers or not all(each.image for each in containers):
        raise invalid("Each container of the template must have an image.")
    if len(containers) > 1 and sum(bool(each.ports) for each in containers) != 1:
        raise invalid("One container of several must have a port.")


def _snake_case(path: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", path)


def _read_object(bucket: str, name: str) -> bytes:
    client = Client(project="local", credentials=AnonymousCredentials())
    try:
        data: bytes = client.bucket(bucket).blob(name).download_as_bytes(timeout=_STORAGE_TIMEOUT_SECONDS)
    except google_exceptions.NotFound as error:
        raise ApiError(404, 5, "NOT_FOUND", f"The source gs://{bucket}/{name} does not exist.") from error
    return data


async def _serve(port: int, folder: Path, service_ports: Mapping[str, int], token: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = CloudRunServer(folder, service_ports, token)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    try:
        try:
            await site.start()
        except OSError as error:
            raise StackError(
                f"Port {port} for the Cloud Run stand-in is taken ({error.strerror}). Choose another one with --port."
            ) from error
        await server.open()
        actual_port = runner.addresses[0][1]
        print(f"Cloud Run stand-in on http://127.0.0.1:{actual_port}", flush=True)
        await stopped.wait()
    finally:
        await server.close()
        await runner.cleanup()


def _service_port(text: str) -> tuple[str, int]:
    name, _, port = text.partition("=")
    return name, int(port)


def main() -> int:
    """Run the stand-in until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.run_api", description=__doc__)
    parser.add_argument("--port", type=int, default=8899, help="port of the API; 0 chooses a free one")
    parser.add_argument("--state", type=Path, required=True, help="folder for images, services and logs")
    parser.add_argument(
        "--service-port",
        type=_service_port,
        action="append",
        default=[],
        metavar="NAME=PORT",
        help="port of a service's address; a free one if not given",
    )
    options = parser.parse_args()
    try:
        if "STORAGE_EMULATOR_HOST" not in os.environ:
            raise StackError("Set STORAGE_EMULATOR_HOST to the address of the storage emulator that builds read from.")
        token = os.environ.pop(_TOKEN, "")  # revisions inherit the environment, and must not have the token
        if not token:
            raise StackError(f"Set {_TOKEN} to the token that clients must send.")
        asyncio.run(_serve(options.port, options.state.absolute(), dict(options.service_port), token))
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
