"""The function in the cloud: its source as a zip, its builds, revisions and traffic.

Cloud Functions (2nd gen) are Cloud Run services, so this speaks the Cloud Run Admin API v2. Google is spoken
to over gRPC, a local stand-in (an endpoint on 127.0.0.1) over plain HTTP, by the same clients. Services are
private: nobody is given the right to call them here.
"""

import hashlib
import io
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.api_core import exceptions as google_exceptions
from google.api_core import grpc_helpers, operations_v1
from google.api_core.future.polling import DEFAULT_POLLING
from google.auth.credentials import AnonymousCredentials
from google.cloud import run_v2
from google.cloud.run_v2.services.builds.transports import BuildsRestTransport
from google.cloud.run_v2.services.revisions.transports import RevisionsRestTransport
from google.cloud.run_v2.services.services.transports import ServicesRestTransport
from google.longrunning.operations_pb2 import Operation
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from infra.errors import DeploymentError, NotFound, ServiceUnavailable
from infra.google import google_errors
from infra.settings import Settings

FUNCTION_TARGET = "predict"
CANDIDATE = "candidate"
REPOSITORY = "cloud-run-source-deploy"  # of Artifact Registry; the one `gcloud run deploy --source` uses
SOURCE_SHA256 = "source-sha256"  # the annotation of a revision that says what its image was built from
CHECKED_REVISION = "checked-revision"  # the annotation of a service that names the revision that passed its check

RUNTIME_ENVIRONMENT = {
    # Large blocks go back when they are freed. glibc would keep ever larger ones for the thread that had them: after
    # some large posters a revision held 1.1 GB, with this 0.25.
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    # Of functions-framework; where no front end keeps slow senders away, most of them only wait.
    "THREADS": "32",
}
"""What every revision's process needs."""

BUILD_TIMEOUT_SECONDS = 900.0
DEPLOY_TIMEOUT_SECONDS = 300.0
_POLL_SECONDS = (0.25, 10.0)  # first and longest wait between two looks at an operation

_PACKAGE = "anime_genre_function"
"""The package in the zip. A name of its own: a checkout on the import path must not shadow what was deployed."""
_MAIN = f"""\
from {_PACKAGE}.function.main import {FUNCTION_TARGET}

__all__ = ["{FUNCTION_TARGET}"]
"""


@dataclass(frozen=True)
class Revision:
    """A revision of a service: what it runs, and the address it answers on, where it has one of its own."""

    name: str
    image: str
    source_sha256: str
    environment: Mapping[str, str]
    ready: bool
    url: str | None


def source_zip(folder: Path) -> bytes:
    """The function's source as Cloud Build takes it; the same bytes for the same files, wherever it is made.

    Holds main.py (imports the entry point), `anime_genre_function` with the packages bundle and function of the
    `serving` folder, and requirements.txt.
    """
    requirements = folder / "function" / "requirements.txt"
    files = {"main.py": _MAIN.encode(), "requirements.txt": requirements.read_bytes()}
    files[f"{_PACKAGE}/__init__.py"] = b""
    for package in ("bundle", "function"):
        files |= {f"{_PACKAGE}/{package}/{path.name}": path.read_bytes() for path in (folder / package).glob("*.py")}
    buffer = io.BytesIO()
    # Stored, not deflated: what deflate writes depends on the version of zlib.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


class CloudRun:
    """Builds, revisions and traffic of the services of one project and region.

    Every method raises ServiceUnavailable for what may pass, ConfigurationError for a missing permission, and
    DeploymentError where Cloud Run refuses or a build or a revision fails.
    """

    def __init__(self, settings: Settings) -> None:
        self._parent = f"projects/{settings.google_project}/locations/{settings.google_region}"
        self._registry = f"{settings.google_region}-docker.pkg.dev/{settings.google_project}/{REPOSITORY}"
        self._timeout = settings.service_timeout_seconds
        with google_errors("Opening Cloud Run"):
            if settings.cloud_run_endpoint:
                self._connect_locally(settings.cloud_run_endpoint)
            else:
                self._connect()

    def _connect(self) -> None:
        # gRPC: a build's operation carries messages of Cloud Build, which JSON cannot be read into without
        # Cloud Build's own types, while gRPC leaves them alone.
        self._services = run_v2.ServicesClient()
        self._revisions = run_v2.RevisionsClient()
        self._builds = run_v2.BuildsClient()
        scopes = ("https://www.googleapis.com/auth/cloud-platform",)
        channel = grpc_helpers.create_channel("cloudbuild.googleapis.com:443", default_scopes=scopes)
        self._build_operations: Any = operations_v1.OperationsClient(channel)

    def _connect_locally(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        place: dict[str, Any] = {"host": address.netloc, "url_scheme": address.scheme}
        place["credentials"] = AnonymousCredentials()
        self._services = run_v2.ServicesClient(transport=ServicesRestTransport(**place))
        self._revisions = run_v2.RevisionsClient(transport=RevisionsRestTransport(**place))
        self._builds = run_v2.BuildsClient(transport=BuildsRestTransport(**place))
        # This transport takes the scheme with the host only.
        operations = operations_v1.OperationsRestTransport(host=endpoint, credentials=AnonymousCredentials())
        self._build_operations = operations_v1.AbstractOperationsClient(transport=operations)

    def image_for(self, service: str, source_sha256: str) -> str:
        """The address in Artifact Registry of the image built from a source."""
        return f"{self._registry}/{service}:{source_sha256[:16]}"

    def built_image(self, service: str, source_sha256: str) -> str | None:
        """The image of a ready revision that was built from this source: no build is needed then."""
        same = (revision for revision in self.revisions(service) if revision.source_sha256 == source_sha256)
        return next((revision.image for revision in same if revision.ready), None)

    def build(self, source_bucket: str, source_object: str, image: str) -> str:
        """Build the source zip in the bucket into an image, wait for it, and return the image's address."""
        request = run_v2.SubmitBuildRequest(
            parent=self._parent,
            storage_source=run_v2.StorageSource(bucket=source_bucket, object_=source_object),
            image_uri=image,
            buildpack_build=run_v2.SubmitBuildRequest.BuildpacksBuild(function_target=FUNCTION_TARGET),
        )
        with _deployment_errors(f"Building {image}"):
            operation = self._builds.submit_build(request, timeout=self._timeout).build_operation
            operation = self._built(operation, image)
        if operation.HasField("error"):
            raise DeploymentError(f"The build of {image} failed: {operation.error.message}")
        return image

    def _built(self, operation: Operation, image: str) -> Operation:
        """Poll an operation of Cloud Build until it is done, as `gcloud run deploy --source` does."""
        deadline = time.monotonic() + BUILD_TIMEOUT_SECONDS
        wait, longest = _POLL_SECONDS
        while not operation.done:
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"The build of {image} took more than {BUILD_TIMEOUT_SECONDS:.0f} s.")
            time.sleep(wait)
            wait = min(wait * 1.5, longest)
            operation = self._build_operations.get_operation(operation.name, timeout=self._timeout)
        return operation

    def deploy_candidate(
        self,
        service: str,
        image: str,
        source_sha256: str,
        environment: Mapping[str, str],
        tag: str = CANDIDATE,
    ) -> Revision:
        """A ready revision without traffic but with an address of its own, `https://TAG---SERVICE...`.

        A service that is not there yet is made, and its first revision has all the traffic, unchecked as it is:
        Cloud Run does not know a service without. It counts as live, nonetheless, only after `send_traffic`.
        A ready revision of the same image and environment is used again.
        """
        template = _template(image, source_sha256, {**RUNTIME_ENVIRONMENT, **environment})
        content = run_v2.RevisionTemplate.pb(template).SerializeToString(deterministic=True)
        name = f"{service}-{hashlib.sha256(content).hexdigest()[:10]}"
        current = self._service(service)
        paths = ["traffic"]
        if current is None:
            current = run_v2.Service(ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_ALL)
        same = [revision for revision in self.revisions(service) if revision.name.startswith(name)]
        ready = next((revision for revision in same if revision.ready), None)
        if ready is not None:
            name = ready.name
        else:
            name = f"{name}-{len(same) + 1}"
            template.revision = name
            current.template = template
            paths.append("template")
        served = _served_name(current) or name
        targets = [_target(served, percent=100), *_tagged(current, except_tag=tag), _target(name, tag=tag)]
        current.traffic = targets
        with _deployment_errors(f"Deploying {name}"):
            deployed = self._apply(service, current, paths)
        url = next((status.uri for status in deployed.traffic_statuses if status.tag == tag), None)
        return self._revision(service, name, url)

    def send_traffic(self, service: str, revision: str) -> Revision:
        """Send all traffic to a checked revision, forward or back; the candidate's own address goes.

        The same update notes the revision's name at the service: only what was sent traffic here is `live`.
        """
        current = self._existing(service)
        current.annotations[CHECKED_REVISION] = revision
        current.traffic = [_target(revision, percent=100), *_tagged(current, except_tag=CANDIDATE)]
        with _deployment_errors(f"Sending the traffic of {service} to {revision}"):
            deployed = self._apply(service, current, ["traffic", "annotations"])
        return self._revision(service, revision, deployed.uri)

    def live(self, service: str) -> Revision | None:
        """The checked revision that has the traffic, with the service's address.

        None where there is none yet, or where the traffic goes to a revision that `send_traffic` did not send it
        to: a first one whose check failed, or one that another tool chose.
        """
        current = self._service(service)
        if current is None:
            return None
        name = _served_name(current)
        if name is None or name != current.annotations.get(CHECKED_REVISION):
            return None
        return self._revision(service, name, current.uri)

    def revisions(self, service: str) -> list[Revision]:
        """All revisions of a service, newest first; none where there is no such service."""
        with google_errors(f"Listing the revisions of {service}"):
            try:
                found = list(self._revisions.list_revisions(parent=self._name(service), timeout=self._timeout))
            except google_exceptions.NotFound:
                return []
        found.sort(key=lambda revision: revision.create_time, reverse=True)
        return [_revision(revision, None) for revision in found]

    def _name(self, service: str) -> str:
        return f"{self._parent}/services/{service}"

    def _service(self, service: str) -> run_v2.Service | None:
        with google_errors(f"Looking up the service {service}"):
            try:
                return self._services.get_service(name=self._name(service), timeout=self._timeout)
            except google_exceptions.NotFound:
                return None

    def _existing(self, service: str) -> run_v2.Service:
        found = self._service(service)
        if found is None:
            raise NotFound(f"There is no service {service} in {self._parent}.")
        return found

    def _revision(self, service: str, name: str, url: str | None) -> Revision:
        with google_errors(f"Looking up the revision {name}"):
            full_name = f"{self._name(service)}/revisions/{name}"
            return _revision(self._revisions.get_revision(name=full_name, timeout=self._timeout), url)

    def _apply(self, service: str, wanted: run_v2.Service, paths: list[str]) -> run_v2.Service:
        """Create or update a service and wait until it is as wanted.

        An update carries the etag of the service as it was read: of two deployments at once, one fails.
        """
        if wanted.name:
            operation = self._services.update_service(
                service=wanted, update_mask=FieldMask(paths=paths), timeout=self._timeout
            )
        else:
            operation = self._services.create_service(
                parent=self._parent, service=wanted, service_id=service, timeout=self._timeout
            )
        first, longest = _POLL_SECONDS
        deployed: run_v2.Service = operation.result(
            timeout=DEPLOY_TIMEOUT_SECONDS, polling=DEFAULT_POLLING.with_delay(first, longest)
        )
        condition = deployed.terminal_condition
        if condition.state == run_v2.Condition.State.CONDITION_FAILED:
            raise DeploymentError(f"The service {service} is not ready: {condition.message}")
        return deployed


@contextmanager
def _deployment_errors(doing: str) -> Iterator[None]:
    """As google_errors, and what Cloud Run refuses is a DeploymentError.

    A conflict means that another deployment came first: the next try reads what it left.
    """
    try:
        with google_errors(doing):
            yield
    except TimeoutError as error:
        raise ServiceUnavailable(f"{doing} took more than {DEPLOY_TIMEOUT_SECONDS:.0f} s.") from error
    except google_exceptions.Conflict as error:
        raise ServiceUnavailable(f"{doing} met another deployment: {error.message}") from error
    except google_exceptions.GoogleAPICallError as error:
        raise DeploymentError(f"{doing} failed: {error.message}") from error


def _template(image: str, source_sha256: str, environment: Mapping[str, str]) -> run_v2.RevisionTemplate:
    return run_v2.RevisionTemplate(
        annotations={SOURCE_SHA256: source_sha256},
        containers=[
            run_v2.Container(
                image=image,
                env=[run_v2.EnvVar(name=name, value=value) for name, value in sorted(environment.items())],
                resources=run_v2.ResourceRequirements(limits={"cpu": "1", "memory": "1Gi"}, startup_cpu_boost=True),
            )
        ],
        scaling=run_v2.RevisionScaling(max_instance_count=4),
        # A request keeps a CPU busy; more at once only hide the time it takes to read a poster, or a slow sender.
        max_instance_request_concurrency=8,
        timeout=Duration(seconds=60),
    )


def _target(revision: str, percent: int = 0, tag: str = "") -> run_v2.TrafficTarget:
    kind = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
    return run_v2.TrafficTarget(type_=kind, revision=revision, percent=percent, tag=tag)


def _tagged(service: run_v2.Service, except_tag: str) -> list[run_v2.TrafficTarget]:
    """The addresses that others gave to revisions, to be kept."""
    return [
        _target(status.revision, tag=status.tag)
        for status in service.traffic_statuses
        if status.tag and status.tag != except_tag
    ]


def _served_name(service: run_v2.Service) -> str | None:
    served = [status for status in service.traffic_statuses if status.percent]
    if not served:
        return None
    # Traffic "to the latest", as other tools set it, may come without a name.
    most = max(served, key=lambda status: status.percent)
    return most.revision or service.latest_ready_revision.rpartition("/")[2] or None


def _revision(revision: run_v2.Revision, url: str | None) -> Revision:
    container = revision.containers[0]
    return Revision(
        name=revision.name.rpartition("/")[2],
        image=container.image,
        source_sha256=revision.annotations.get(SOURCE_SHA256, ""),
        environment={variable.name: variable.value for variable in container.env},
        ready=any(
            condition.type_ == "Ready" and condition.state == run_v2.Condition.State.CONDITION_SUCCEEDED
            for condition in revision.conditions
        ),
        url=url,
    )
