"""The Cloud Run client: builds, revisions and traffic of the function.

Cloud Functions (2nd gen) are Cloud Run services, so this module uses the Cloud Run Admin API v2: over gRPC for Google,
over plain HTTP for a local stand-in. Services are private: no caller is granted access here.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from google.api_core import exceptions as google_exceptions
from google.api_core import grpc_helpers, operations_v1
from google.api_core.future.polling import DEFAULT_POLLING
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError
from google.cloud import run_v2
from google.cloud.run_v2.services.builds.transports import BuildsRestTransport
from google.cloud.run_v2.services.revisions.transports import RevisionsRestTransport
from google.cloud.run_v2.services.services.transports import ServicesRestTransport
from google.longrunning.operations_pb2 import Operation
from google.protobuf.field_mask_pb2 import FieldMask

from infra.errors import DeploymentError, NotFound, ServiceUnavailable, failure
from infra.google import google_errors, reason_of
from infra.revisions import (
    CANDIDATE,
    DEFAULT_RESOURCES,
    Resources,
    Revision,
    Traffic,
    other_tagged_targets,
    read_revision,
    revision_template,
    served_revision_name,
    serving_targets,
    traffic_target,
)
from infra.settings import Settings, environment_variable
from infra.source_zip import FUNCTION_TARGET

REPOSITORY = "cloud-run-source-deploy"  # in Artifact Registry; `gcloud run deploy --source` uses the same one
CHECKED_REVISION = "checked-revision"  # annotation of a service: the last revision that passed its check
BUILD_TIMEOUT_SECONDS = 900.0
DEPLOY_TIMEOUT_SECONDS = 300.0
_POLL_SECONDS = (0.25, 10.0)  # the first and the longest pause between two polls of an operation


class _StandInCredentials(Credentials):
    """The token of the stand-in, which a client sends as it sends Google's access tokens."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.token = settings.cloud_run_token.get_secret_value() if settings.cloud_run_token else None

    def refresh(self, request: object) -> None:
        """Called if there is no token or it is refused."""
        raise RefreshError(f"{environment_variable('cloud_run_token')} is not the token of the running stack")


class CloudRun:
    """Builds, revisions and traffic of the services of one project and region.

    Raises:
        ServiceUnavailable: Cloud Run is unreachable, overloaded or too slow; a retry may help.
        ConfigurationError: credentials or a permission are missing.
        DeploymentError: Cloud Run refuses a request, or a build or a revision fails.
    """

    def __init__(self, settings: Settings) -> None:
        self._parent = f"projects/{settings.google_project}/locations/{settings.google_region}"
        self._registry = f"{settings.google_region}-docker.pkg.dev/{settings.google_project}/{REPOSITORY}"
        self._timeout = settings.service_timeout_seconds
        with google_errors("Opening Cloud Run"):
            if settings.cloud_run_endpoint:
                self._connect_to_stand_in(settings.cloud_run_endpoint, _StandInCredentials(settings))
            else:
                self._connect_to_google()

    def _connect_to_google(self) -> None:
        # Over gRPC, because a build's operation contains messages of Cloud Build: JSON could not be parsed without the
        # types of Cloud Build, gRPC leaves such messages undecoded.
        self._services = run_v2.ServicesClient()
        self._revisions = run_v2.RevisionsClient()
        self._builds = run_v2.BuildsClient()
        scopes = ("https://www.googleapis.com/auth/cloud-platform",)
        channel = grpc_helpers.create_channel("cloudbuild.googleapis.com:443", default_scopes=scopes)
        self._build_operations: Any = operations_v1.OperationsClient(channel)

    def _connect_to_stand_in(self, endpoint: str, credentials: Credentials) -> None:
        address = urlsplit(endpoint)
        options: dict[str, Any] = {"host": address.netloc, "url_scheme": address.scheme, "credentials": credentials}
        self._services = run_v2.ServicesClient(transport=ServicesRestTransport(**options))
        self._revisions = run_v2.RevisionsClient(transport=RevisionsRestTransport(**options))
        self._builds = run_v2.BuildsClient(transport=BuildsRestTransport(**options))
        # Unlike the others, this transport expects the scheme as a part of the host.
        operations = operations_v1.OperationsRestTransport(host=endpoint, credentials=credentials)
        self._build_operations = operations_v1.AbstractOperationsClient(transport=operations)

    def image_for(self, service: str, source_sha256: str) -> str:
        """The Artifact Registry address of the image of a source."""
        return f"{self._registry}/{service}:{source_sha256[:16]}"

    def built_image(self, service: str, source_sha256: str) -> str | None:
        """The image of a ready revision that was built from this source; None if there is none."""
        revisions = self.revisions(service)
        return next((each.image for each in revisions if each.source_sha256 == source_sha256 and each.ready), None)

    def build(self, source_bucket: str, source_object: str, image: str) -> str:
        """Build an image from a source zip in the bucket, wait for the build and return the image's address."""
        request = run_v2.SubmitBuildRequest(
            parent=self._parent,
            storage_source=run_v2.StorageSource(bucket=source_bucket, object_=source_object),
            image_uri=image,
            buildpack_build=run_v2.SubmitBuildRequest.BuildpacksBuild(function_target=FUNCTION_TARGET),
        )
        with _deployment_errors(f"Building {image}"):
            operation = self._builds.submit_build(request, timeout=self._timeout).build_operation
            operation = self._wait_for_build(operation, image)
        if operation.HasField("error"):
            what, reason = f"The build of {image} failed", operation.error.message
            raise failure(DeploymentError, what, reason, "See the log of Cloud Build.")
        return image

    def _wait_for_build(self, operation: Operation, image: str) -> Operation:
        """Poll an operation of Cloud Build until it is done, as `gcloud run deploy --source` does."""
        deadline = time.monotonic() + BUILD_TIMEOUT_SECONDS
        wait, longest = _POLL_SECONDS
        while not operation.done:
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"The build of {image} took more than {BUILD_TIMEOUT_SECONDS:.0f} s. Start the run again."
                )
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
        resources: Resources = DEFAULT_RESOURCES,
        reuse: bool = True,
    ) -> Revision:
        """Deploy a candidate revision and wait until it is ready. It has an address of its own, but no traffic.

        With `reuse`, a ready revision with the same image, environment and resources is reused. A missing service is
        created. Its first revision receives all traffic, because Cloud Run has no service without traffic, but it
        counts as live only after `send_traffic`.
        """
        # Read before the revisions: if another deployment follows, the service's etag is outdated and the update fails.
        wanted = self._find_service(service) or run_v2.Service(ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_ALL)
        template = revision_template(image, source_sha256, environment, resources)
        # The name starts with a hash of the content. A number follows, because a failed revision keeps its name.
        content = run_v2.RevisionTemplate.pb(template).SerializeToString(deterministic=True)
        prefix = f"{service}-{hashlib.sha256(content).hexdigest()[:10]}"
        same = [revision for revision in self.revisions(service) if revision.name.startswith(prefix)]
        ready = next((revision for revision in same if revision.ready and reuse), None)
        name = ready.name if ready else f"{prefix}-{len(same) + 1}"

        fields = ["traffic"]
        if ready is None:
            template.revision = name
            wanted.template = template
            fields.append("template")
        wanted.traffic = [
            *(serving_targets(wanted) or [traffic_target(name, percent=100)]),
            *other_tagged_targets(wanted),
            traffic_target(name, tag=CANDIDATE),
        ]
        with _deployment_errors(f"Deploying {name}"):
            deployed = self._create_or_update(service, wanted, fields)
        url = next((status.uri for status in deployed.traffic_statuses if status.tag == CANDIDATE), None)
        return self._get_revision(service, name, url)

    def send_traffic(self, service: str, revision: str) -> Revision:
        """Send all traffic to a checked revision, newer or older, and remove the candidate's address.

        The same update stores the revision's name as an annotation of the service, which `traffic` reads.

        Raises:
            NotFound: there is no such service.
        """
        wanted = self._find_service(service)
        if wanted is None:
            raise NotFound(f"There is no service {service} in {self._parent}.")
        wanted.annotations[CHECKED_REVISION] = revision
        wanted.traffic = [traffic_target(revision, percent=100), *other_tagged_targets(wanted)]
        with _deployment_errors(f"Sending the traffic of {service} to {revision}"):
            deployed = self._create_or_update(service, wanted, ["traffic", "annotations"])
        return self._get_revision(service, revision, deployed.uri)

    def live(self, service: str) -> Revision | None:
        """The revision of `traffic`; None if there is none."""
        traffic = self.traffic(service)
        return traffic.revision if traffic else None

    def traffic(self, service: str) -> Traffic | None:
        """Where the traffic goes. The revision has the service's address.

        None if there is no service, or if no revision has ever passed its check: Cloud Run gives the traffic to the
        first revision, whatever it serves.
        """
        found = self._find_service(service)
        if found is None:
            return None
        name, checked = served_revision_name(found), found.annotations.get(CHECKED_REVISION)
        if name is None or not checked:
            return None
        is_split = len({target.revision for target in serving_targets(found)}) > 1
        return Traffic(self._get_revision(service, name, found.uri), checked, moved=is_split or name != checked)

    def revisions(self, service: str) -> list[Revision]:
        """All revisions of a service, newest first; empty if there is no such service."""
        with google_errors(f"Listing the revisions of {service}"):
            try:
                found = list(self._revisions.list_revisions(parent=self._service_name(service), timeout=self._timeout))
            except google_exceptions.NotFound:
                return []
        found.sort(key=lambda revision: revision.create_time, reverse=True)
        return [read_revision(revision, None) for revision in found]

    def _service_name(self, service: str) -> str:
        return f"{self._parent}/services/{service}"

    def _find_service(self, service: str) -> run_v2.Service | None:
        with google_errors(f"Looking up the service {service}"):
            try:
                return self._services.get_service(name=self._service_name(service), timeout=self._timeout)
            except google_exceptions.NotFound:
                return None

    def _get_revision(self, service: str, name: str, url: str | None) -> Revision:
        with google_errors(f"Looking up the revision {name}"):
            full_name = f"{self._service_name(service)}/revisions/{name}"
            return read_revision(self._revisions.get_revision(name=full_name, timeout=self._timeout), url)

    def _create_or_update(self, service: str, wanted: run_v2.Service, fields: list[str]) -> run_v2.Service:
        """Create a service, or update these fields of an existing one, and wait until it is ready.

        An update contains the etag that was read: if two deployments run at once, one of them fails.
        """
        if wanted.name:
            operation = self._services.update_service(
                service=wanted, update_mask=FieldMask(paths=fields), timeout=self._timeout
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
            what = f"The service {service} is not ready"
            raise failure(DeploymentError, what, condition.message, "See the log of its last revision.")
        return deployed


@contextmanager
def _deployment_errors(doing: str) -> Iterator[None]:
    """Like `google_errors`; other errors of Cloud Run become DeploymentError.

    A conflict means that another deployment came first. A retry reads its result.
    """
    try:
        with google_errors(doing):
            yield
    except TimeoutError as error:
        raise ServiceUnavailable(
            f"{doing} took more than {DEPLOY_TIMEOUT_SECONDS:.0f} s. Start the run again."
        ) from error
    except google_exceptions.Conflict as error:
        what = f"{doing} conflicts with another deployment"
        raise failure(ServiceUnavailable, what, reason_of(error), "Start the run again.") from error
    except google_exceptions.GoogleAPICallError as error:
        raise failure(DeploymentError, f"{doing} failed", reason_of(error)) from error
