"""The revisions of the Cloud Run stand-in: processes of functions-framework, and the proxy in front of them."""

import asyncio
import ctypes
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from google.cloud import run_v2
from yarl import URL

from infra.local.processes import free_port, rotate_log
from infra.local.same_origin import refusal

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 3.0
REQUEST_TIMEOUT_SECONDS = 60.0
SHUTDOWN_TIMEOUT_SECONDS = 1.0  # for requests in progress
_POLL_SECONDS = 0.05
_RESTART_SECONDS = 0.5  # until the end of a process is noticed
_NO_REVISION = "No model has been trained yet. The command anime-genre retrain trains and deploys one.\n"
_LISTEN = "failed to start and listen on its port"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Headers that apply to one connection only. Proxies do not forward them (RFC 9110, section 7.6.1).
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class RevisionFailed(Exception):
    """A revision does not start. The message is that of the revision's condition."""


class RevisionProcess:
    """A revision as a process of functions-framework. It uses this Python environment and a free port.

    Args:
        probe: the HTTP startup probe; without it, a process that listens on its port is ready.
    """

    def __init__(
        self,
        name: str,
        source: Path,
        target: str,
        environment: Mapping[str, str],
        log: Path,
        probe: run_v2.Probe | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self._target = target
        self._environment = environment
        self._log = log
        self._probe = probe
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._port = 0
        self._runtime: tempfile.TemporaryDirectory[str] | None = None

    async def port(self) -> int:
        """Start the process unless it is running, and return its port. A long log is rotated.

        Raises:
            RevisionFailed: the process exits, does not listen within `START_TIMEOUT_SECONDS`, or fails its probe.
        """
        rotate_log(self._log)
        async with self._lock:
            if self._process is None or self._process.returncode is not None:
                await self._start()
            return self._port

    async def stop(self) -> None:
        """Stop the process and its children: with SIGTERM, and after `STOP_TIMEOUT_SECONDS` with SIGKILL."""
        async with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_SECONDS)
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
            if self._runtime is not None:
                self._runtime.cleanup()
                self._runtime = None

    async def _start(self) -> None:
        self._port = free_port()
        if self._runtime is None:
            self._runtime = tempfile.TemporaryDirectory(prefix="revision-")
        command = [
            *(sys.executable, "-m", "functions_framework", "--target", self._target),
            *("--source", str(self._source / "main.py"), "--host", "127.0.0.1", "--port", str(self._port)),
        ]
        environment = {**os.environ, **self._environment, "K_REVISION": self.name, "PORT": str(self._port)}
        # gunicorn creates a control socket in this folder, by default in the user's home. functions-framework has no
        # option for it. The stand-in's folder is not used, because a socket's path is limited to 107 characters.
        environment["XDG_RUNTIME_DIR"] = self._runtime.name
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._source,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a new process group, which can be killed as a whole
                preexec_fn=_exit_with_parent,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._wait_until_listening(self._process)
        except TimeoutError:
            await self._raise_failed(f"{_LISTEN} within {START_TIMEOUT_SECONDS:.0f} s")
        if self._probe:
            await self._pass_probe(self._process, self._probe)

    async def _pass_probe(self, process: asyncio.subprocess.Process, probe: run_v2.Probe) -> None:
        """Wait until the startup probe succeeds.

        See https://cloud.google.com/run/docs/configuring/healthchecks.
        """
        url = f"http://127.0.0.1:{self._port}{probe.http_get.path}"
        await asyncio.sleep(probe.initial_delay_seconds)
        async with ClientSession(timeout=ClientTimeout(probe.timeout_seconds or 1)) as session:
            for _ in range(probe.failure_threshold or 3):
                began = time.monotonic()
                with suppress(ClientError, TimeoutError):
                    async with session.get(url, headers={"Connection": "close"}) as response:
                        if 200 <= response.status < 400:
                            return
                if process.returncode is not None:
                    await self._raise_failed(f"{_LISTEN} before it exited")
                await asyncio.sleep(max(0, began + (probe.period_seconds or 10) - time.monotonic()))
        await self._raise_failed("failed the configured startup probe checks")

    async def _wait_until_listening(self, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                writer.close()
                return
        await self._raise_failed(f"{_LISTEN} before it exited")

    async def _raise_failed(self, how: str) -> NoReturn:
        assert self._process is not None
        _signal_group(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        raise RevisionFailed(
            f"Revision '{self.name}' is not ready and cannot serve traffic. The user-provided container "
            f"{how}. The last line of its log: {lines[-1] if lines else 'none'}"
        )


class RevisionProxy:
    """A reverse proxy on a port of 127.0.0.1. It forwards each request to a revision drawn by weight.

    Args:
        weighted_revisions: returns the revisions to choose from and their weights. It is called for each request.
    """

    def __init__(self, weighted_revisions: Callable[[], Sequence[tuple[RevisionProcess, int]]]) -> None:
        self._weighted_revisions = weighted_revisions
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None

    async def open(self, port: int) -> int:
        """Listen on a port, or on a free one if `port` is 0, and return it.

        Raises:
            OSError: the port is taken.
        """
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._forward_to_any)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._session = ClientSession(
            # One connection per request, because an idle connection delays the exit of gunicorn.
            connector=TCPConnector(limit=0, force_close=True),
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
        )
        actual_port: int = runner.addresses[0][1]
        return actual_port

    async def close(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()
        if self._session:
            await self._session.close()

    async def _forward_to_any(self, request: web.Request) -> web.StreamResponse:
        if reason := refusal(request.headers.get("Host"), None):  # the function itself knows which origins may call it
            return web.Response(status=403, text=f"{reason}\n")
        weighted = self._weighted_revisions()
        if not weighted:
            return web.Response(status=404, text=_NO_REVISION)
        revisions, weights = zip(*weighted, strict=True)
        [revision] = random.choices(revisions, weights)
        try:
            try:
                return await self._forward(request, await revision.port())
            except ClientConnectorError:  # the process has just ended; nothing was sent to it
                await asyncio.sleep(_RESTART_SECONDS)
                return await self._forward(request, await revision.port())
        except (RevisionFailed, ClientError, TimeoutError) as error:
            return web.Response(status=503, text=f"Service Unavailable: {error}\n")

    async def _forward(self, request: web.Request, port: int) -> web.StreamResponse:
        assert self._session is not None
        async with self._session.request(
            request.method,
            URL(f"http://127.0.0.1:{port}{request.raw_path}", encoded=True),
            headers=[item for item in request.headers.items() if item[0].lower() not in _HOP_BY_HOP],
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        ) as upstream:
            # The whole body is read before the response starts. An incomplete one raises and becomes a 503.
            body = await upstream.read()
            kept = [item for item in upstream.headers.items() if item[0].lower() not in _HOP_BY_HOP]
            response = web.Response(status=upstream.status, body=body)
            for name, value in kept:
                if name.lower() not in ("content-length", "content-type"):
                    response.headers.add(name, value)
            response.headers["Content-Type"] = upstream.headers.get("Content-Type", "text/plain")
            return response


def _exit_with_parent() -> None:
    """Called in the child process: let the system send it SIGTERM when the stand-in exits, even if it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):  # all its processes may have exited
        os.killpg(group, number)
