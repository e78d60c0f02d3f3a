"""The Cloud Run client: revisions and traffic of the function.

Cloud Functions (2nd gen) are Cloud Run services, so this module uses the Cloud Run Admin API v2, over HTTP both for
Google and for a local stand-in. Services are private: no caller is granted access here.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from google.api_core import exceptions as google_exceptions
from google.auth.transport.requests import AuthorizedSession
from google.cloud import run_v2
from google.cloud.run_v2.services.revisions.transports import RevisionsRestTransport
from google.cloud.run_v2.services.services.transports import ServicesRestTransport
from google.protobuf.field_mask_pb2 import FieldMask

from infra.cloud_build import build_account
from infra.errors import ConfigurationError, DeploymentError, InfraError, NotFound, failure
from infra.google import credentials, deployment_errors, google_errors, poll
from infra.revisions import (
    CANDIDATE,
    Image,
    Revision,
    Traffic,
    has_traffic,
    latest_target,
    merged_build_config,
    merged_template,
    other_tagged_targets,
    read_revision,
    resources,
    served_revision_name,
    serving_targets,
    traffic_target,
)
from infra.settings import Settings, check_google
from serving.bundle.files import sha256_of

CHECKED_REVISION = "checked-revision"  # annotation of a service: the last revision that passed its check
DEPLOY_TIMEOUT_SECONDS = 300.0
_MAX_NAME_AND_TAG = 46  # characters of a service's name and a traffic tag together, which are in the tag's address
KEPT_REVISIONS = 5  # without traffic, so that a rollback need not deploy

logger = logging.getLogger("infra")


def check_service_name(settings: Settings) -> None:
    """Check that Cloud Run accepts the tag of a candidate revision beside the service's name.

    The stand-in accepts longer names: collections that it already serves have them.

    Raises:
        ConfigurationError: Google Cloud is used, and the name is too long.
    """
    longest = _MAX_NAME_AND_TAG - len(CANDIDATE)
    if settings.cloud == "google" and len(settings.service) > longest:
        raise ConfigurationError(
            f"The function's name {settings.service} has {len(settings.service)} characters, and Cloud Run allows "
            f"{longest} here. Choose a shorter one with --collection or ANIME_GENRE_SERVICE."
        )


class CloudRun:
    """Revisions and traffic of the service of the settings.

    Raises:
        ServiceUnavailable: Cloud Run is unreachable, overloaded or too slow; a retry may help.
        ConfigurationError: credentials or a permission are missing.
        DeploymentError: Cloud Run refuses a request, or a revision fails.
    """

    def __init__(self, settings: Settings) -> None:
        self._service = settings.service
        self._parent = f"projects/{settings.google_project}/locations/{settings.google_region}"
        self._service_name = f"{self._parent}/services/{self._service}"
        self._settings = settings
        self._timeout = settings.service_timeout_seconds
        self._endpoint = settings.cloud_run_endpoint or "https://run.googleapis.com"
        address = urlsplit(self._endpoint)
        if not settings.cloud_run_endpoint:
            check_google(settings)
        with google_errors("Opening Cloud Run"):
            options: dict[str, Any] = {
                "host": address.netloc,
                "url_scheme": address.scheme,
                "credentials": credentials(settings),
            }
            self._session = AuthorizedSession(options["credentials"])
            self._services = run_v2.ServicesClient(transport=ServicesRestTransport(**options))
            self._revisions = run_v2.RevisionsClient(transport=RevisionsRestTransport(**options))

    def built_image(self, source_sha256: str) -> Image | None:
        """The image of a ready revision that was built from this source; None if there is none."""
        ready = (each.image for each in self.revisions() if each.ready)
        return next((image for image in ready if image.source_sha256 == source_sha256), None)

    def deploy_candidate(
        self, image: Image, environment: Mapping[str, str], source: str = "", reuse: bool = True
    ) -> Revision:
        """Deploy a candidate revision and wait until it is ready. It has an address of its own, but no traffic.

        What others have set in the service is kept (see `merged_template`). With `reuse`, a ready revision that is the
        same in everything is reused. A missing service is created. Its first revision receives all traffic, because
        Cloud Run has no service without traffic, but it counts as live only after `send_traffic`.

        Args:
            source: the gs:// address of the source zip of the image.
        """
        # Read before the revisions: if another deployment follows, the service's etag is outdated and the update fails.
        wanted = self._find_service()
        template = merged_template(
            wanted.template if wanted else None,
            image,
            environment,
            resources(self._settings),
            self._settings.function_service_account,
        )
        # The name starts with a hash of the content. A number follows, because a failed revision keeps its name.
        content = run_v2.RevisionTemplate.pb(template).SerializeToString(deterministic=True)
        prefix = f"{self._service}-{sha256_of(content)[:10]}-"
        same = [revision for revision in self.revisions() if revision.name.startswith(prefix)]
        ready = next((revision for revision in same if revision.ready and reuse), None)
        numbers = [int(each.name.removeprefix(prefix)) for each in same]
        name = ready.name if ready else f"{prefix}{max(numbers, default=0) + 1}"

        # Google reports only that the startup probe failed. The function's log has the reason.
        hint = (
            "If its log says storage_forbidden: gcloud storage buckets add-iam-policy-binding "
            f"gs://{self._settings.bucket} --member=serviceAccount:{template.service_account or 'ACCOUNT'} "
            "--role=roles/storage.objectViewer"
        )
        with deployment_errors(f"Deploying {name}", hint):
            fields = ["traffic"]
            if ready is None:
                template.revision = name
                wanted = wanted or run_v2.Service(ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_ALL)
                wanted.template = template
                wanted.build_config = merged_build_config(
                    wanted.build_config, image, source, build_account(self._settings)
                )
                fields += ["template", "build_config"]
            assert wanted is not None
            if not wanted.name:
                # Traffic by name is refused here: the revision exists only after the service.
                wanted.traffic = [latest_target()]
                wanted, fields = self._create(wanted), ["traffic"]
            wanted.traffic = [
                *(serving_targets(wanted) or [traffic_target(name, percent=100)]),
                *other_tagged_targets(wanted),
                traffic_target(name, tag=CANDIDATE),
            ]
            deployed = self._update(wanted, fields)
        url = next((status.uri for status in deployed.traffic_statuses if status.tag == CANDIDATE), None)
        return self._get_revision(name, url)

    def send_traffic(self, revision: str) -> Revision:
        """Send all traffic to a checked revision, newer or older, and remove the candidate's address.

        The same update stores the revision's name as an annotation of the service, which `traffic` reads.

        Raises:
            NotFound: the service does not exist.
        """
        wanted = self._find_service()
        if wanted is None:
            raise NotFound(f"There is no service {self._service} in {self._parent}.")
        wanted.annotations[CHECKED_REVISION] = revision
        wanted.traffic = [traffic_target(revision, percent=100), *other_tagged_targets(wanted)]
        with deployment_errors(f"Sending the traffic of {self._service} to {revision}"):
            deployed = self._update(wanted, ["traffic", "annotations"])
        return self._get_revision(revision, deployed.uri)

    def delete(self) -> None:
        """Delete the service with its revisions, and wait until it is gone. It need not exist."""
        with deployment_errors(f"Deleting {self._service}"):
            try:
                operation = self._services.delete_service(name=self._service_name, timeout=self._timeout)
            except google_exceptions.NotFound:
                return
            self._wait(operation)

    def unused_revisions(self, models: Sequence[str], were_live: Collection[str]) -> list[Revision]:
        """The revisions that can be deleted, newest first; empty if the service does not exist.

        These are revisions without traffic and tag, other than the latest one, the newest `KEPT_REVISIONS`, and the
        newest ready one of each of the last models, so many besides the live one. One that was live is kept rather than
        a newer one, which may have failed its checks.

        Args:
            models: the sha256 of bundles in the order in which they last went live.
            were_live: the names of revisions.
        """
        found = self._find_service()
        if found is None:
            return []
        used = {name.rpartition("/")[2] for name in (found.latest_created_revision, found.latest_ready_revision)}
        used |= {target.revision for target in found.traffic} | {status.revision for status in found.traffic_statuses}
        revisions = self.revisions()
        ready = [each for each in reversed(revisions) if each.ready and each.bundle_sha256]
        # Those that were live last, and the newest of them at the end: the last one of a model stays.
        ready.sort(key=lambda revision: revision.name in were_live)
        of_models = {each.bundle_sha256: each.name for each in ready}
        last = [of_models[sha256] for sha256 in models if sha256 in of_models]
        used |= set(last[-KEPT_REVISIONS - 1 :])  # that of the live model is one more
        return [each for each in revisions if each.name not in used][KEPT_REVISIONS:]

    def delete_revision(self, revision: str) -> None:
        """Delete a revision and wait until it is gone. It need not exist.

        Raises:
            DeploymentError: it can receive traffic, or is the latest one.
        """
        with deployment_errors(f"Deleting the revision {revision}"):
            try:
                name = f"{self._service_name}/revisions/{revision}"
                operation = self._revisions.delete_revision(name=name, timeout=self._timeout)
            except google_exceptions.NotFound:
                return
            self._wait(operation)

    def live(self) -> Revision | None:
        """The revision of `traffic`; None if there is none."""
        traffic = self.traffic()
        return traffic.revision if traffic else None

    def traffic(self) -> Traffic | None:
        """Where the traffic goes. The revision has the service's address.

        None if the service does not exist, if no revision has ever passed its check, or if the revision serves no
        bundle, such as a placeholder: Cloud Run gives the traffic to the first revision, whatever it serves.
        """
        found = self._find_service()
        if found is None:
            return None
        name, checked = served_revision_name(found), found.annotations.get(CHECKED_REVISION)
        if name is None or not checked:
            return None
        is_split = len({target.revision for target in serving_targets(found)}) > 1
        revision = self._get_revision(name, found.uri)
        if not revision.bundle_sha256:
            return None
        return Traffic(revision, checked, moved=is_split or name != checked)

    def url(self) -> str | None:
        """The address of the service; None if it does not exist."""
        found = self._find_service()
        return found.uri if found else None

    def revisions(self) -> list[Revision]:
        """All revisions of the service, newest first; empty if it does not exist."""
        with google_errors(f"Listing the revisions of {self._service}"):
            try:
                found = list(self._revisions.list_revisions(parent=self._service_name, timeout=self._timeout))
            except google_exceptions.NotFound:
                return []
        found.sort(key=lambda revision: revision.create_time, reverse=True)
        return [read_revision(revision, None) for revision in found]

    def _find_service(self) -> run_v2.Service | None:
        with google_errors(f"Looking up the service {self._service}"):
            try:
                return self._services.get_service(name=self._service_name, timeout=self._timeout)
            except google_exceptions.NotFound:
                return None

    def _get_revision(self, name: str, url: str | None) -> Revision:
        with google_errors(f"Looking up the revision {name}"):
            full_name = f"{self._service_name}/revisions/{name}"
            return read_revision(self._revisions.get_revision(name=full_name, timeout=self._timeout), url)

    def _create(self, wanted: run_v2.Service) -> run_v2.Service:
        """Create the service and wait until it is ready."""
        operation = self._services.create_service(
            parent=self._parent, service=wanted, service_id=self._service, timeout=self._timeout
        )
        self._wait(operation)
        return self._ready_service()

    def _update(self, wanted: run_v2.Service, fields: list[str]) -> run_v2.Service:
        """Update these fields of the service and wait until it is ready.

        An update contains the etag that was read: if two deployments run at once, one of them fails. After an error,
        the service is read again, because the traffic may have moved all the same: it does after a failed revision.
        """
        try:
            operation = self._services.update_service(
                service=wanted, update_mask=FieldMask(paths=fields), timeout=self._timeout
            )
            self._wait(operation)
            return self._ready_service()
        except Exception as error:
            with suppress(InfraError):
                found = self._find_service()
                if found and has_traffic(found, wanted.traffic):
                    logger.warning("The traffic of %s is as wanted, although Cloud Run reported: %s", found.name, error)
                    return found
            raise

    def _wait(self, started: Any) -> None:
        """Wait until an operation is done, and raise its error.

        It is read as plain JSON. Google's client fails if the operation contains a service with a field that is newer
        than the client.
        """
        address = f"{self._endpoint}/v2/{started.operation.name}"
        operation = poll(self._session, address, self._settings, lambda read: "done" in read, DEPLOY_TIMEOUT_SECONDS)
        if error := operation.get("error"):
            raise google_exceptions.from_grpc_status(error["code"], error.get("message", ""))

    def _ready_service(self) -> run_v2.Service:
        """The service as an operation left it.

        Raises:
            DeploymentError: it is not ready, or another tool has deleted it.
        """
        found = self._find_service()
        if found is None or found.terminal_condition.state == run_v2.Condition.State.CONDITION_FAILED:
            reason = found.terminal_condition.message if found else "it does not exist any more"
            what = f"The service {self._service} is not ready"
            raise failure(DeploymentError, what, reason, "See the log of its last revision.")
        return found
