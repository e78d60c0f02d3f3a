"""Builds of the function's image: submitted through Cloud Run, and read as a resource of Cloud Build.

Both are plain JSON over HTTP. The clients of Google's packages are of no use here: the operation that `builds:submit`
returns contains a message of Cloud Build, which the REST transport of `google-cloud-run` cannot parse without the
package of Cloud Build, and the operation of a regional build is not found at the global address of the operations. So
the build itself is read, as `gcloud run deploy --source` does.
"""

import logging
import re
from typing import Any

from google.auth.transport.requests import AuthorizedSession

from infra.errors import DeploymentError, failure
from infra.google import call, credentials, deployment_errors, google_errors, poll
from infra.revisions import Image
from infra.settings import Settings, check_google
from infra.source_zip import BASE_IMAGE, FUNCTION_TARGET

REPOSITORY = "cloud-run-source-deploy"  # in Artifact Registry; `gcloud run deploy --source` uses the same one
TIMEOUT_SECONDS = 900.0
_RUNNING = ("PENDING", "QUEUED", "WORKING")
_DOING = "Building the function"

logger = logging.getLogger("infra")


def build_image(settings: Settings, source_object: str, source_sha256: str) -> Image:
    """Build the function's image from a source zip in the bucket, and wait for the build.

    Args:
        source_object: the name of the zip in the bucket.
        source_sha256: its sha256, of which the image's tag is made.

    Returns:
        The image by the digest that the build gave it.

    Raises:
        DeploymentError: the build is refused or fails. The message names the address of its log.
        ServiceUnavailable: Cloud Run or Cloud Build is unreachable, overloaded or too slow; a retry may help.
        ConfigurationError: credentials or a permission are missing.
    """
    parent = f"projects/{settings.google_project}/locations/{settings.google_region}"
    project = settings.google_project.replace(":", "/")  # example.com:my-project; a colon would begin an image's tag
    repository = f"{settings.google_region}-docker.pkg.dev/{project}/{REPOSITORY}/{settings.service}"
    body: dict[str, Any] = {
        "storageSource": {"bucket": settings.bucket, "object": source_object},
        "imageUri": f"{repository}:{source_sha256[:16]}",
        "buildpackBuild": {
            "functionTarget": FUNCTION_TARGET,
            "baseImage": BASE_IMAGE,
            "enableAutomaticUpdates": True,
        },
    }
    if settings.build_service_account:
        body["serviceAccount"] = build_account(settings)
    run = settings.cloud_run_endpoint or "https://run.googleapis.com"
    cloud_build = settings.cloud_run_endpoint or "https://cloudbuild.googleapis.com"
    if not settings.cloud_run_endpoint:
        check_google(settings)
    with google_errors("Opening Cloud Build"):
        session = AuthorizedSession(credentials(settings))
    with session, deployment_errors(_DOING):
        submitted = call(session, "POST", f"{run}/v2/{parent}/builds:submit", settings, body)
        try:
            name = f"{parent}/builds/{submitted['buildOperation']['metadata']['build']['id']}"
        except (KeyError, TypeError) as error:
            raise DeploymentError(f"{_DOING} failed: the response of Cloud Run names no build.") from error
        if warning := submitted.get("baseImageWarning"):
            logger.warning("Cloud Build says about the base image: %s", warning)
        build = poll(
            session,
            f"{cloud_build}/v1/{name}",
            settings,
            lambda build: build["status"] not in _RUNNING,
            TIMEOUT_SECONDS,
        )
    if build["status"] != "SUCCESS":
        reason = (
            build.get("statusDetail") or build.get("failureInfo", {}).get("detail") or f"it ended: {build['status']}"
        )
        details = ""
        if re.search("permission|access|denied|forbidden", reason, re.IGNORECASE):
            account = settings.build_service_account or "ACCOUNT"
            details = (
                f"{reason}\nIf the build's account lacks rights: gcloud projects add-iam-policy-binding "
                f"{settings.google_project} --member=serviceAccount:{account} --role=roles/run.builder"
            )
        log = f"See its log, {build.get('logUrl', name)}."
        raise failure(DeploymentError, f"{_DOING} failed", reason, log, details)
    (built,) = build["results"]["images"]
    return Image(f"{repository}@{built['digest']}", source_sha256, submitted.get("baseImageUri", ""))


def build_account(settings: Settings) -> str | None:
    """The resource name of the build's service account; None for the project's default."""
    email = settings.build_service_account
    return email and f"projects/{settings.google_project}/serviceAccounts/{email}"
