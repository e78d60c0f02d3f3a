"""Revisions and traffic of a Cloud Run service: the values used here, and their conversion to Cloud Run's messages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from google.cloud import run_v2
from google.protobuf.duration_pb2 import Duration

CANDIDATE = "candidate"
_SOURCE_SHA256 = "source-sha256"  # annotation of a revision: the SHA-256 of the source of its image

RUNTIME_ENVIRONMENT = {
    # glibc returns blocks of this size to the system when they are freed. By default it keeps larger and larger blocks
    # per thread: after several large posters a revision held 1.1 GB; with this setting it holds 0.25 GB.
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    # Threads of functions-framework. Most of them only wait for slow senders if no front end buffers requests.
    "THREADS": "32",
}
"""Environment variables of every revision."""


@dataclass(frozen=True)
class Resources:
    """What one instance of a revision has, in Cloud Run's units: CPUs such as "1", memory such as "1Gi"."""

    cpu: str
    memory: str


DEFAULT_RESOURCES = Resources("1", "1Gi")


@dataclass(frozen=True)
class Image:
    """An image of the function: its address in Artifact Registry, by digest, and the sha256 of its source."""

    address: str
    source_sha256: str


@dataclass(frozen=True)
class Revision:
    """A revision of a service. `url` is its address, None if it has none."""

    name: str
    image: Image
    environment: Mapping[str, str]
    ready: bool
    url: str | None
    resources: Resources = DEFAULT_RESOURCES
    created: datetime | None = None


@dataclass(frozen=True)
class Traffic:
    """The revision with most of the traffic, and the name of the revision that a deployment last sent it to.

    `moved` says that another tool has moved traffic since: `revision` is another one, or does not have all of it.
    """

    revision: Revision
    checked: str
    moved: bool


def revision_template(image: Image, environment: Mapping[str, str], resources: Resources) -> run_v2.RevisionTemplate:
    """A template with the given resources, and the given environment in addition to `RUNTIME_ENVIRONMENT`."""
    variables = sorted({**RUNTIME_ENVIRONMENT, **environment}.items())
    return run_v2.RevisionTemplate(
        annotations={_SOURCE_SHA256: image.source_sha256},
        containers=[
            run_v2.Container(
                image=image.address,
                env=[run_v2.EnvVar(name=name, value=value) for name, value in variables],
                resources=run_v2.ResourceRequirements(limits=asdict(resources), startup_cpu_boost=True),
            )
        ],
        scaling=run_v2.RevisionScaling(max_instance_count=4),
        # One request keeps one CPU busy. More requests at once only overlap with reading posters and slow senders.
        max_instance_request_concurrency=8,
        timeout=Duration(seconds=60),
    )


def traffic_target(revision: str, percent: int = 0, tag: str = "") -> run_v2.TrafficTarget:
    """A traffic target for a named revision."""
    kind = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
    return run_v2.TrafficTarget(type_=kind, revision=revision, percent=percent, tag=tag)


def other_tagged_targets(service: run_v2.Service) -> list[run_v2.TrafficTarget]:
    """The targets of a service that have a tag other than `candidate`; they are kept."""
    return [
        traffic_target(status.revision, tag=status.tag)
        for status in service.traffic_statuses
        if status.tag and status.tag != CANDIDATE
    ]


def serving_targets(service: run_v2.Service) -> list[run_v2.TrafficTarget]:
    """The targets of a service that have traffic, as named revisions with their percents."""
    latest = service.latest_ready_revision.rpartition("/")[2]
    return [
        traffic_target(status.revision or latest, percent=status.percent)
        for status in service.traffic_statuses
        if status.percent and (status.revision or latest)
    ]


def served_revision_name(service: run_v2.Service) -> str | None:
    """The name of the revision with most of the traffic; None if no revision has any."""
    # Other tools send traffic "to the latest revision", which may come without a name.
    served = serving_targets(service)
    return max(served, key=lambda target: target.percent).revision if served else None


def _whole(quantity: str, per_unit: int, small: str, unit: str) -> str:
    """A quantity in its larger unit, as in the settings, if it is a whole number: "1000m" CPUs are "1"."""
    number = quantity.removesuffix(small)
    if number == quantity or int(number) % per_unit:
        return quantity
    return f"{int(number) // per_unit}{unit}"


def read_revision(revision: run_v2.Revision, url: str | None) -> Revision:
    """Convert Cloud Run's message to a `Revision` with the address `url`."""
    container = revision.containers[0]
    limits = container.resources.limits
    return Revision(
        name=revision.name.rpartition("/")[2],
        image=Image(container.image, revision.annotations.get(_SOURCE_SHA256, "")),
        environment={variable.name: variable.value for variable in container.env},
        ready=any(
            condition.type_ == "Ready" and condition.state == run_v2.Condition.State.CONDITION_SUCCEEDED
            for condition in revision.conditions
        ),
        url=url,
        resources=Resources(
            _whole(limits.get("cpu", ""), 1000, "m", ""), _whole(limits.get("memory", ""), 1024, "Mi", "Gi")
        ),
        created=revision.create_time or None,
    )
