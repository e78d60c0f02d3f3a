"""What a local Cloud Run runs: revisions as processes of functions-framework, and the addresses they have."""

import asyncio
import ctypes
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

from infra.local.processes import free_port

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 3.0
REQUEST_TIMEOUT_SECONDS = 60.0
SHUTDOWN_TIMEOUT_SECONDS = 1.0  # for requests that are being answered
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Headers of one connection, which a proxy does not pass on (RFC 9110, section 7.6.1).
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
    """A revision that does not start; the message is the one its condition shows."""


class RevisionProcess:
    """One revision, run by functions-framework in this Python environment on a port of its own."""

    def __init__(self, name: str, source: Path, target: str, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._source = source
        self._target = target
        self._environment = environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._port = 0
        self._runtime: tempfile.TemporaryDirectory[str] | None = None

    async def port(self) -> int:
        """The port it answers on; started if it does not run (yet, or any more). Raises RevisionFailed."""
        async with self._lock:
            if self._process is None or self._process.returncode is not None:
                await self._start()
            return self._port

    async def stop(self) -> None:
        """End the process and what it started: politely, then by force."""
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
        command = [sys.executable, "-m", "functions_framework", "--target", self._target]
        command += [
            "--source",
            str(self._source / "main.py"),
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
        ]
        environment = {**os.environ, **self._environment, "K_REVISION": self.name, "PORT": str(self._port)}
        # gunicorn puts a control socket there, else into the user's home; functions-framework cannot turn that off.
        # Not in the stand-in's own folder, because a socket's path has to be shorter than 108 characters.
        environment["XDG_RUNTIME_DIR"] = self._runtime.name
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._source,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a process group of its own, which can be ended as a whole
                preexec_fn=_end_with_parent,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._listening(self._process)
        except TimeoutError:
            await self._fail(f"within {START_TIMEOUT_SECONDS:.0f} s")

    async def _listening(self, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                writer.close()
                return
        await self._fail("before it ended")

    async def _fail(self, when: str) -> None:
        assert self._process is not None
        _signal_group(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        raise RevisionFailed(
            f"Revision '{self.name}' is not ready and cannot serve traffic. The user-provided container "
            f"failed to start and listen on its port {when}. Its last words: {lines[-1] if lines else 'none'}"
        )


class Address:
    """A port of 127.0.0.1 that passes every request on to one of several revisions, by their weights."""

    def __init__(self, choices: Callable[[], Sequence[tuple[RevisionProcess, int]]]) -> None:
        self._choices = choices
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None

    async def open(self, port: int) -> int:
        """Listen on the port (0: on any free one) and return it; OSError where it is taken."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._session = ClientSession(
            # A connection a request: an idle one would keep gunicorn from ending.
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

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        choices = self._choices()
        if not choices:
            return web.Response(status=404, text="No revision serves this address.\n")
        [revision] = random.choices(*zip(*choices, strict=True))
        try:
            port = await revision.port()
            return await self._answer(request, port)
        except (RevisionFailed, ClientError, TimeoutError) as error:
            return web.Response(status=503, text=f"Service Unavailable: {error}\n")

    async def _answer(self, request: web.Request, port: int) -> web.StreamResponse:
        assert self._session is not None
        async with self._session.request(
            request.method,
            URL(f"http://127.0.0.1:{port}{request.raw_path}", encoded=True),
            headers=[item for item in request.headers.items() if item[0].lower() not in _HOP_BY_HOP],
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        ) as upstream:
            # Read whole before anything is sent on, so that an answer that breaks off becomes a 503.
            body = await upstream.read()
            kept = [item for item in upstream.headers.items() if item[0].lower() not in _HOP_BY_HOP]
            response = web.Response(status=upstream.status, body=body)
            for name, value in kept:
                if name.lower() not in ("content-length", "content-type"):
                    response.headers.add(name, value)
            response.headers["Content-Type"] = upstream.headers.get("Content-Type", "text/plain")
            return response


def _end_with_parent() -> None:
    """In the child: be ended when the stand-in is, even where that is killed and cannot clean up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):  # all of it may have ended
        os.killpg(group, number)
