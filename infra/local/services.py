"""What a local Cloud Run keeps: images, services, their revisions and traffic, in a folder that outlives it.

images/{sha256}/        an unpacked source; images.json says which address and entry point belong to it
services/{name}.json    a service with its revisions and ports
logs/{revision}.log     what a revision's process said
"""

import asyncio
import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from google.cloud import run_v2
from google.protobuf.timestamp_pb2 import Timestamp

from infra.errors import StackError
from infra.files import sha256_of, write_bytes
from infra.local.revision_process import Address, RevisionFailed, RevisionProcess

_STATE = run_v2.Condition.State
_LATEST = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST
_SERVICE = ""  # the key of a service's own port, beside those of its tags


class Refused(Exception):
    """A request that Cloud Run refuses, with its HTTP status, gRPC code (google.rpc.Code) and name."""

    def __init__(self, http_status: int, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.status = status


def not_found(what: str) -> Refused:
    """NOT_FOUND, as Google words it."""
    return Refused(404, 5, "NOT_FOUND", f"Resource '{what}' was not found")


def invalid(message: str) -> Refused:
    """INVALID_ARGUMENT."""
    return Refused(400, 3, "INVALID_ARGUMENT", message)


class Images:
    """Sources that were "built": unpacked, and known by the address that was asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "images"
        self._index = folder / "images.json"

    def add(self, address: str, target: str, archive: bytes) -> None:
        """Unpack a source zip; raises Refused where it is none that functions-framework could run."""
        digest = sha256_of(archive)
        place = self._folder / digest
        if not place.exists():
            beside = self._folder / f".{digest}.{uuid.uuid4().hex}"
            try:
                with zipfile.ZipFile(io.BytesIO(archive)) as source:
                    source.extractall(beside)
                if not (beside / "main.py").exists():
                    raise Refused(400, 9, "FAILED_PRECONDITION", "The source has no main.py.")
                beside.rename(place)
            except zipfile.BadZipFile as error:
                raise Refused(400, 9, "FAILED_PRECONDITION", "The source is not a zip archive.") from error
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        index = self._read() | {address: {"digest": digest, "target": target}}
        write_bytes(self._index, json.dumps(index, indent=2, sort_keys=True).encode())

    def find(self, address: str) -> tuple[Path, str]:
        """Folder and entry point of an image."""
        try:
            image = self._read()[address]
        except KeyError as error:
            raise Refused(404, 5, "NOT_FOUND", f"Image '{address}' not found.") from error
        return self._folder / image["digest"], image["target"]

    def _read(self) -> dict[str, dict[str, str]]:
        if not self._index.exists():
            return {}
        index: dict[str, dict[str, str]] = json.loads(self._index.read_text())
        return index


@dataclass
class RunningService:
    """A service, its revisions, and the processes and addresses that serve it now."""

    folder: Path
    images: Images
    service: run_v2.Service
    revisions: dict[str, run_v2.Revision] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _fixed_port: int | None = None
    _processes: dict[str, RevisionProcess] = field(default_factory=dict)
    _addresses: dict[str, Address] = field(default_factory=dict)
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def short_name(self) -> str:
        """The service's name without its project and location."""
        return self.service.name.rpartition("/")[2]

    @classmethod
    def read(cls, folder: Path, images: Images, path: Path) -> "RunningService":
        """A service as an earlier run left it."""
        state = json.loads(path.read_text())
        revisions = [run_v2.Revision.from_json(json.dumps(revision)) for revision in state["revisions"]]
        return cls(
            folder=folder,
            images=images,
            service=run_v2.Service.from_json(json.dumps(state["service"])),
            revisions={revision.name.rpartition("/")[2]: revision for revision in revisions},
            ports=state["ports"],
        )

    def save(self) -> None:
        """Keep the service for the next run."""
        state = {
            "service": json.loads(run_v2.Service.to_json(self.service)),
            "revisions": [json.loads(run_v2.Revision.to_json(item)) for item in self.revisions.values()],
            "ports": self.ports,
        }
        path = self.folder / "services" / f"{self.short_name}.json"
        write_bytes(path, json.dumps(state, indent=2).encode())

    async def open(self, port: int | None) -> None:
        """Listen: on `port` if one is given, else on the port it had, else on a free one.

        Processes start with the first request. Raises StackError where the given port is taken.
        """
        self._fixed_port = port
        await self._serve()

    async def close(self) -> None:
        """End all addresses and processes."""
        await asyncio.gather(*(address.close() for address in self._addresses.values()))
        await asyncio.gather(*self._ending, *(process.stop() for process in self._processes.values()))

    def add_revision(self) -> run_v2.Revision:
        """The revision that the service's template asks for now, not ready yet."""
        template, service = self.service.template, self.service
        name = template.revision or f"{self.short_name}-{service.generation:05d}-{uuid.uuid4().hex[:3]}"
        if name in self.revisions:
            raise Refused(409, 6, "ALREADY_EXISTS", f"Revision '{name}' already exists.")
        revision = run_v2.Revision(
            name=f"{service.name}/revisions/{name}",
            uid=str(uuid.uuid4()),
            service=service.name,
            generation=1,
            create_time=now(),
            labels=template.labels,
            annotations=template.annotations,
            containers=template.containers,
            scaling=template.scaling,
            timeout=template.timeout,
            max_instance_request_concurrency=template.max_instance_request_concurrency,
            conditions=[run_v2.Condition(type_="Ready", state=_STATE.CONDITION_RECONCILING)],
        )
        self.revisions[name] = revision
        service.latest_created_revision = revision.name
        return revision

    def check_traffic(self) -> None:
        """Refuse traffic to unknown revisions, or that is not 100 % together."""
        targets = self.service.traffic
        if targets and sum(target.percent for target in targets) != 100:
            raise invalid("The percents of all traffic targets have to be 100 together.")
        tags = [target.tag for target in targets if target.tag]
        if len(tags) != len(set(tags)):
            raise invalid("A tag stands at more than one traffic target.")
        for target in targets:
            if target.type_ != _LATEST and target.revision not in self.revisions:
                raise invalid(f"Revision '{target.revision}' of the traffic does not exist.")

    async def reconcile(self, new: run_v2.Revision | None) -> None:
        """Bring the service to what was asked for; raises Refused where a revision does not become ready.

        The traffic stays where it was until all revisions that are to serve are ready.
        """
        targets = list(self.service.traffic) or [run_v2.TrafficTarget(type_=_LATEST, percent=100)]
        serving = [(self._revision_of(target), target) for target in targets]
        names = {name for name, _ in serving} | ({new.name.rpartition("/")[2]} if new else set())
        try:
            await asyncio.gather(*(self._start(name) for name in sorted(names)))
        except Refused as refused:
            self.service.terminal_condition = _ready(_STATE.CONDITION_FAILED, str(refused))
            raise
        else:
            self.service.traffic_statuses = [
                run_v2.TrafficTargetStatus(type_=target.type_, revision=name, percent=target.percent, tag=target.tag)
                for name, target in serving
            ]
            self.service.terminal_condition = _ready(_STATE.CONDITION_SUCCEEDED)
            self.service.latest_ready_revision = self.service.latest_created_revision
            self.service.observed_generation = self.service.generation
        finally:
            self.service.reconciling = False
            await self._serve()

    def _revision_of(self, target: run_v2.TrafficTarget) -> str:
        if target.type_ == _LATEST:
            return self.service.latest_created_revision.rpartition("/")[2]
        return target.revision

    async def _start(self, name: str) -> None:
        revision = self.revisions[name]
        try:
            process = self._process(name)
            await process.port()
        except (RevisionFailed, Refused) as error:
            revision.conditions = [_ready(_STATE.CONDITION_FAILED, str(error))]
            if isinstance(error, Refused):
                raise
            raise Refused(400, 9, "FAILED_PRECONDITION", str(error)) from error
        revision.conditions = [_ready(_STATE.CONDITION_SUCCEEDED)]

    def _process(self, name: str) -> RevisionProcess:
        if name not in self._processes:
            container = self.revisions[name].containers[0]
            source, target = self.images.find(container.image)
            environment = {variable.name: variable.value for variable in container.env}
            log = self.folder / "logs" / f"{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            environment["K_SERVICE"] = self.short_name
            self._processes[name] = RevisionProcess(name, source, target, environment, log)
        return self._processes[name]

    async def _serve(self) -> None:
        """Open and close addresses and end processes, as the traffic now is."""
        statuses = self.service.traffic_statuses
        wanted = {_SERVICE, *(status.tag for status in statuses if status.tag)}
        for key in sorted(wanted - self._addresses.keys()):
            await self._open_address(key)
        for key in self._addresses.keys() - wanted:
            await self._addresses.pop(key).close()
            del self.ports[key]
        self.service.uri = self._uri(_SERVICE)
        for status in statuses:
            status.uri = self._uri(status.tag) if status.tag else ""
        for name in self._processes.keys() - {status.revision for status in statuses}:
            # In the background: a revision may still be answering its last requests.
            task = asyncio.create_task(self._processes.pop(name).stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self.save()

    async def _open_address(self, key: str) -> None:
        address = Address(lambda: self._choices(key))
        fixed = self._fixed_port if key == _SERVICE else None
        try:
            self.ports[key] = await address.open(fixed or self.ports.get(key, 0))
        except OSError as error:
            if fixed:
                raise StackError(
                    f"Port {fixed} of the service {self.short_name} is taken ({error.strerror}); end what "
                    "uses it, or give another one with --service-port."
                ) from error
            self.ports[key] = await address.open(0)  # somebody else has the port of the last run now
        self._addresses[key] = address

    def _choices(self, key: str) -> list[tuple[RevisionProcess, int]]:
        """The revisions that an address serves, with their weights."""
        statuses = self.service.traffic_statuses
        if key == _SERVICE:
            served: Mapping[str, int] = {item.revision: item.percent for item in statuses if item.percent}
        else:
            served = {item.revision: 1 for item in statuses if item.tag == key}
        return [(self._process(name), weight) for name, weight in served.items()]

    def _uri(self, key: str) -> str:
        return f"http://127.0.0.1:{self.ports[key]}"


def now() -> Timestamp:
    """The present, as Google's messages hold it."""
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC))
    return moment


def _ready(state: int, message: str = "") -> run_v2.Condition:
    return run_v2.Condition(type_="Ready", state=state, message=message, last_transition_time=now())
