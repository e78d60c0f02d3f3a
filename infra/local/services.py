"""The state of the Cloud Run stand-in: images and services, in a folder that a later process can continue with.

images.json             the image addresses, each with the digest of its source and its entry point
images/{sha256}/        the unpacked source of an image
services/{name}.json    a service with its revisions and ports
logs/{revision}.log     the output of a revision's process
"""

import asyncio
import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from google.cloud import run_v2
from google.protobuf.timestamp_pb2 import Timestamp

from infra.errors import StackError
from infra.files import write_bytes
from infra.local.revision_process import RevisionFailed, RevisionProcess, RevisionProxy
from infra.revisions import function_container
from serving.bundle.files import sha256_of

_STATE = run_v2.Condition.State
_LATEST = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST
_SERVICE = ""  # the key of the service's address; the other keys are the tags of tagged revisions


class ApiError(Exception):
    """An error response of the API, with the HTTP status and the code and name of google.rpc.Code."""

    def __init__(self, http_status: int, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.status = status


def not_found(name: str) -> ApiError:
    """NOT_FOUND, with Google's sentence."""
    return ApiError(404, 5, "NOT_FOUND", f"Resource '{name}' was not found")


def invalid(message: str) -> ApiError:
    """INVALID_ARGUMENT."""
    return ApiError(400, 3, "INVALID_ARGUMENT", message)


def failed(message: str) -> ApiError:
    """FAILED_PRECONDITION."""
    return ApiError(400, 9, "FAILED_PRECONDITION", message)


class Images:
    """Images by address. An image is a source that was unpacked instead of built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "images"
        self._index = folder / "images.json"

    def add(self, address: str, target: str, archive: bytes) -> str:
        """Unpack the source zip of an image with the entry point `target`, and return the image's digest.

        An earlier copy is replaced.

        Raises:
            ApiError: the archive is not a zip file or has no main.py.
        """
        digest = sha256_of(archive)
        folder = self._folder / digest
        temporary = self._folder / f".{digest}.{uuid.uuid4().hex}"
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as source:
                source.extractall(temporary)
            if not (temporary / "main.py").exists():
                raise failed("The source has no main.py.")
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        except zipfile.BadZipFile as error:
            raise failed("The source is not a zip archive.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        image = {"digest": digest, "target": target}
        index = self._read_index() | {address: image, _by_digest(address, digest): image}
        write_bytes(self._index, json.dumps(index, indent=2, sort_keys=True).encode())
        return f"sha256:{digest}"

    def find(self, address: str) -> tuple[str, Path, str]:
        """The address by digest, the folder and the entry point of an image.

        Raises:
            ApiError: there is no such image.
        """
        images = self._read_index().items()
        image = next((each for known, each in images if address in (known, _by_digest(known, each["digest"]))), None)
        if image is None:
            raise ApiError(404, 5, "NOT_FOUND", f"Image '{address}' not found.")
        return _by_digest(address, image["digest"]), self._folder / image["digest"], image["target"]

    def _read_index(self) -> dict[str, dict[str, str]]:
        with suppress(FileNotFoundError, ValueError):  # a damaged index is written again by the next build
            index: dict[str, dict[str, str]] = json.loads(self._index.read_bytes())
            return index
        return {}


@dataclass
class RunningService:
    """A service with its revisions, their processes and the proxies on its addresses.

    `update` changes the requested state; `reconcile` then starts the revisions and moves the traffic. After `open`,
    callers hold `lock` for both.
    """

    folder: Path
    images: Images
    service: run_v2.Service
    revisions: dict[str, run_v2.Revision] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _required_port: int | None = None
    _processes: dict[str, RevisionProcess] = field(default_factory=dict)
    _proxies: dict[str, RevisionProxy] = field(default_factory=dict)
    _stopping: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def short_name(self) -> str:
        """The service's name without project and location."""
        return last_part(self.service.name)

    @classmethod
    def read(cls, folder: Path, images: Images, path: Path) -> "RunningService":
        """Read a service that an earlier process has saved."""
        state = json.loads(path.read_text())
        revisions = [run_v2.Revision.from_json(json.dumps(revision)) for revision in state["revisions"]]
        return cls(
            folder=folder,
            images=images,
            service=run_v2.Service.from_json(json.dumps(state["service"])),
            revisions={last_part(revision.name): revision for revision in revisions},
            ports=state["ports"],
        )

    async def open(self, port: int | None) -> None:
        """Open the addresses. The service listens on `port`; if None, on its last port or a free one.

        A revision's process starts with its first request.

        Raises:
            StackError: `port` is taken.
        """
        self._required_port = port
        await self._apply_traffic()

    async def close(self) -> None:
        """Close all addresses and stop all processes."""
        await asyncio.gather(*(proxy.close() for proxy in self._proxies.values()))
        await asyncio.gather(*self._stopping, *(process.stop() for process in self._processes.values()))

    async def delete(self) -> None:
        """Stop everything, and forget the service. Its revisions are gone with it."""
        await self.close()
        self._path.unlink(missing_ok=True)

    def delete_revision(self, name: str) -> run_v2.Revision:
        """Forget a revision that users cannot reach, and return it.

        See https://cloud.google.com/run/docs/managing/revisions.

        Raises:
            ApiError: the revision has traffic or a tag, or is the latest one; nothing has changed then.
        """
        latest = (self.service.latest_created_revision, self.service.latest_ready_revision)
        if name in {last_part(each) for each in latest}:
            raise failed(f"Revision '{name}' is the latest revision of its service and cannot be deleted.")
        targets = {target.revision for target in self.service.traffic}
        if name in targets | {status.revision for status in self.service.traffic_statuses}:
            raise failed(f"Revision '{name}' can receive traffic and cannot be deleted.")
        revision = self.revisions.pop(name)
        for log in (f"{name}.log", f"{name}.1.log"):
            (self.folder / "logs" / log).unlink(missing_ok=True)
        self._save()
        return revision

    def update(self, service: run_v2.Service) -> str | None:
        """Replace the service and return the name of the new revision, or None if the template is the same.

        Raises:
            ApiError: the traffic is invalid or the revision's name is taken; nothing has changed then.
        """
        new = None if service.template == self.service.template else self._new_revision(service)
        name = last_part(new.name) if new else None
        _check_traffic(service.traffic, {*self.revisions, name})
        if new and name:
            self.revisions[name] = new
            service.latest_created_revision = new.name
        self.service = service
        return name

    def _new_revision(self, service: run_v2.Service) -> run_v2.Revision:
        template = service.template
        name = template.revision or f"{self.short_name}-{service.generation:05d}-{uuid.uuid4().hex[:3]}"
        if name in self.revisions:
            raise ApiError(409, 6, "ALREADY_EXISTS", f"Revision '{name}' already exists.")
        revision = run_v2.Revision(
            name=f"{service.name}/revisions/{name}",
            uid=str(uuid.uuid4()),
            service=service.name,
            generation=1,
            create_time=now(),
            conditions=[_ready(_STATE.CONDITION_RECONCILING)],
        )
        for name_of_field in run_v2.RevisionTemplate.meta.fields.keys() & run_v2.Revision.meta.fields.keys():
            setattr(revision, name_of_field, getattr(template, name_of_field))
        return revision

    async def reconcile(self, new: str | None) -> None:
        """Start the new revision and those with traffic, then move the traffic.

        The traffic stays as it was if a revision does not become ready. Otherwise it moves, but as with Google's
        service this ends in an error as long as the latest revision is not ready.

        Raises:
            ApiError: a revision is not ready.
        """
        targets = list(self.service.traffic) or [run_v2.TrafficTarget(type_=_LATEST, percent=100)]
        latest = last_part(self.service.latest_created_revision)
        serving = [(latest if target.type_ == _LATEST else target.revision, target) for target in targets]
        names = {name for name, _ in serving} | ({new} if new else set())
        try:
            await asyncio.gather(*(self._start_revision(name) for name in sorted(names)))
            self.service.traffic_statuses = [
                run_v2.TrafficTargetStatus(type_=target.type_, revision=name, percent=target.percent, tag=target.tag)
                for name, target in serving
            ]
            (condition,) = self.revisions[latest].conditions
            if condition.state != _STATE.CONDITION_SUCCEEDED:
                raise failed(condition.message)
        except ApiError as error:
            self.service.terminal_condition = _ready(_STATE.CONDITION_FAILED, str(error))
            raise
        else:
            self.service.terminal_condition = _ready(_STATE.CONDITION_SUCCEEDED)
            self.service.latest_ready_revision = self.service.latest_created_revision
            self.service.observed_generation = self.service.generation
        finally:
            self.service.reconciling = False
            await self._apply_traffic()

    async def _start_revision(self, name: str) -> None:
        """Start a revision's process and set the revision's condition.

        As with Google's service, a revision that was ready once stays so, whatever has become of it since.
        """
        revision = self.revisions[name]
        try:
            await self._process(name).port()
        except (RevisionFailed, ApiError) as error:
            if _is_ready(revision):
                return
            revision.conditions = [_ready(_STATE.CONDITION_FAILED, str(error))]
            raise error if isinstance(error, ApiError) else failed(str(error)) from error
        revision.conditions = [_ready(_STATE.CONDITION_SUCCEEDED)]

    def _process(self, name: str) -> RevisionProcess:
        """The process of a revision, which may not have started yet."""
        if name not in self._processes:
            container = function_container(self.revisions[name].containers)
            container.image, source, target = self.images.find(container.image)
            environment = {variable.name: variable.value for variable in container.env}
            log = self.folder / "logs" / f"{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            environment["K_SERVICE"] = self.short_name
            probe = container.startup_probe if container.startup_probe.http_get.path else None
            self._processes[name] = RevisionProcess(name, source, target, environment, log, probe)
        return self._processes[name]

    async def _apply_traffic(self) -> None:
        """Open and close addresses and stop processes according to the traffic statuses, and save the service."""
        statuses = self.service.traffic_statuses
        wanted = {_SERVICE, *(status.tag for status in statuses if status.tag)}
        for key in sorted(wanted - self._proxies.keys()):
            await self._open_address(key)
        for key in self._proxies.keys() - wanted:
            await self._proxies.pop(key).close()
            del self.ports[key]
        self.service.uri = self._uri(_SERVICE)
        for status in statuses:
            status.uri = self._uri(status.tag) if status.tag else ""
        for name in self._processes.keys() - {status.revision for status in statuses}:
            # In the background, because the process may still be handling its last requests.
            task = asyncio.create_task(self._processes.pop(name).stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        self._save()

    async def _open_address(self, key: str) -> None:
        proxy = RevisionProxy(lambda: self._weighted_revisions(key))
        required = self._required_port if key == _SERVICE else None
        try:
            self.ports[key] = await proxy.open(required or self.ports.get(key, 0))
        except OSError as error:
            if required:
                raise StackError(
                    f"Port {required} of the service {self.short_name} is taken ({error.strerror}). "
                    "Choose another port with --service-port."
                ) from error
            self.ports[key] = await proxy.open(0)  # another program has taken the last port
        self._proxies[key] = proxy

    def _weighted_revisions(self, key: str) -> list[tuple[RevisionProcess, int]]:
        """The revisions behind an address, with their weights."""
        statuses = self.service.traffic_statuses
        if key == _SERVICE:
            weights: Mapping[str, int] = {status.revision: status.percent for status in statuses if status.percent}
        else:
            weights = {status.revision: 1 for status in statuses if status.tag == key}
        return [(self._process(name), weight) for name, weight in weights.items()]

    @property
    def _path(self) -> Path:
        return self.folder / "services" / f"{self.short_name}.json"

    def _uri(self, key: str) -> str:
        return f"http://127.0.0.1:{self.ports[key]}"

    def _save(self) -> None:
        state = {
            "service": json.loads(run_v2.Service.to_json(self.service)),
            "revisions": [json.loads(run_v2.Revision.to_json(revision)) for revision in self.revisions.values()],
            "ports": self.ports,
        }
        write_bytes(self._path, json.dumps(state, indent=2).encode())


def _by_digest(address: str, digest: str) -> str:
    """The address of an image by its digest. A tag follows the last colon of its name."""
    repository, slash, name = address.partition("@")[0].rpartition("/")
    return f"{repository}{slash}{name.partition(':')[0]}@sha256:{digest}"


def last_part(name: str) -> str:
    """The last part of a resource name such as projects/p/locations/l/services/s."""
    return name.rpartition("/")[2]


def now() -> Timestamp:
    """The current time as a protobuf timestamp."""
    timestamp = Timestamp()
    timestamp.FromDatetime(datetime.now(UTC))
    return timestamp


def _check_traffic(targets: Sequence[run_v2.TrafficTarget], revisions: Collection[str | None]) -> None:
    """Raise ApiError unless the percents add up to 100, tags are unique and all revisions exist."""
    if targets and sum(target.percent for target in targets) != 100:
        raise invalid("The percents of the traffic targets must add up to 100.")
    tags = [target.tag for target in targets if target.tag]
    if len(tags) != len(set(tags)):
        raise invalid("Two traffic targets have the same tag.")
    for target in targets:
        if target.type_ != _LATEST and target.revision not in revisions:
            raise invalid(f"Revision '{target.revision}' of the traffic does not exist.")


def _is_ready(revision: run_v2.Revision) -> bool:
    return any(each.type_ == "Ready" and each.state == _STATE.CONDITION_SUCCEEDED for each in revision.conditions)


def _ready(state: int, message: str = "") -> run_v2.Condition:
    return run_v2.Condition(type_="Ready", state=state, message=message, last_transition_time=now())
