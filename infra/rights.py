"""What a deployment needs on Google Cloud: resources, and rights on them. Nothing is changed here.

Rights are read with `testIamPermissions`, which everybody may call. It says which permissions these credentials have,
whether they come from the resource, the project or the organisation.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import requests
from google.auth import exceptions as auth_exceptions
from google.auth.transport.requests import AuthorizedSession, Request

from infra.cloud_build import REPOSITORY
from infra.errors import ConfigurationError, ServiceUnavailable
from infra.google import TEMPORARY, credentials, is_temporary
from infra.settings import Settings, environment_variable

GOOGLE = "https://{api}.googleapis.com"
_TIMEOUT_SECONDS = 10.0
_ACCOUNTS, _DEFAULT_ACCOUNT = ".iam.gserviceaccount.com", "-compute@developer.gserviceaccount.com"

READ_OBJECTS = ("storage.objects.get", "storage.objects.list")
WRITE_OBJECTS = ("storage.objects.create", "storage.objects.delete")
APIS = ("cloudresourcemanager", "run", "cloudbuild", "artifactregistry", "storage", "iam", "iamcredentials")


@dataclass(frozen=True)
class Check:
    """One thing that is needed. `problem` is empty if it is there; else one sentence, and `remedy` is a command.

    `temporary` says that it may be there if it is checked again later.
    """

    name: str
    problem: str = ""
    remedy: str = ""
    temporary: bool = False


@dataclass(frozen=True)
class Right:
    """Permissions that are needed on a resource, the role that includes them and what they are for."""

    purpose: str
    role: str
    permissions: tuple[str, ...]


BUCKET_RIGHTS = (Right("read, write and delete objects", "roles/storage.objectUser", READ_OBJECTS + WRITE_OBJECTS),)
REPOSITORY_RIGHTS = (
    Right(
        "read images",
        "roles/artifactregistry.reader",
        ("artifactregistry.repositories.get", "artifactregistry.repositories.downloadArtifacts"),
    ),
)
PROJECT_RIGHTS = (
    Right(
        "submit and read builds",
        "roles/cloudbuild.builds.editor",
        ("cloudbuild.builds.create", "cloudbuild.builds.get"),
    ),
    Right("read operations of Cloud Run", "roles/run.viewer", ("run.operations.get",)),
)
ACT_AS = Right("deploy with this account", "roles/iam.serviceAccountUser", ("iam.serviceAccounts.actAs",))
ID_TOKENS = Right(
    "draw ID tokens of this account",
    "roles/iam.serviceAccountOpenIdTokenCreator",
    ("iam.serviceAccounts.getOpenIdToken",),
)
CREATE_SERVICE = Right("create the function", "roles/run.developer", ("run.services.create",))
SERVICE_RIGHTS = (
    Right("deploy the function", "roles/run.developer", ("run.services.get", "run.services.update")),
    Right("call the function", "roles/run.invoker", ("run.routes.invoke",)),
)


TRIAL_RIGHTS = (
    Right(
        "create and delete the service of the trial",
        "roles/run.developer",
        ("run.services.create", "run.services.update", "run.services.delete"),
    ),
    Right("call the service of the trial", "roles/run.invoker", ("run.routes.invoke",)),
)
"""On the project, because the service does not exist yet. They can be revoked after the trial."""


class Refused(Exception):
    """Google refused a request. `reason` is Google's code, such as SERVICE_DISABLED; `missing` means status 404."""

    def __init__(self, response: requests.Response) -> None:
        try:
            error = response.json()["error"]
            details = [*error.get("details", []), *error.get("errors", [])]
            reasons = [detail["reason"] for detail in details if "reason" in detail]
            message = str(error["message"])
        except (ValueError, KeyError, TypeError):
            reasons, message = [], f"the status is {response.status_code}"
        super().__init__(message)
        self.reason = reasons[0] if reasons else ""
        self.missing = response.status_code == 404
        self.denied = response.status_code == 403
        self.invalid = response.status_code == 400
        self.temporary = response.status_code == 429 or response.status_code >= 500
        self.api_disabled = self.reason in ("SERVICE_DISABLED", "accessNotConfigured")


@dataclass(frozen=True)
class GoogleCloud:
    """Reads what exists, and which rights the credentials have. `address` is that of an API, by its name."""

    settings: Settings
    session: AuthorizedSession
    address: str = GOOGLE

    @property
    def parent(self) -> str:
        """The project's region, in which the function, its builds and its images are."""
        return f"projects/{self.settings.google_project}/locations/{self.settings.google_region}"

    def get(self, api: str, path: str) -> Any:
        """The decoded response to a GET request. Raises Refused, and the errors of requests and google.auth."""
        return self._send("GET", api, path)

    def granted(self, api: str, resource: str, permissions: tuple[str, ...]) -> set[str]:
        """Those of the permissions that the credentials have on a resource."""
        if api == "storage":
            query = urlencode({"permissions": permissions}, doseq=True)
            response = self.get(api, f"storage/v1/b/{resource}/iam/testPermissions?{query}")
        else:
            version = {"cloudresourcemanager": "v3", "run": "v2"}.get(api, "v1")
            body = {"permissions": list(permissions)}
            response = self._send("POST", api, f"{version}/{resource}:testIamPermissions", body)
        return set(response.get("permissions", []))

    def _send(self, method: str, api: str, path: str, body: object = None) -> Any:
        address = f"{self.address.format(api=api)}/{path}"
        response = self.session.request(method, address, json=body, timeout=_TIMEOUT_SECONDS)
        if not response.ok:
            raise Refused(response)
        return response.json()

    @property
    def member(self) -> str:
        """The credentials' account as IAM names it. Of a person, only gcloud knows the address."""
        account = getattr(self.session.credentials, "service_account_email", None)
        return f"serviceAccount:{account}" if account else 'user:"$(gcloud config get account)"'


def require_google_cloud(settings: Settings, address: str = GOOGLE) -> None:
    """Check that a deployment has everything that it needs on Google Cloud, before anything is built.

    Raises:
        ConfigurationError: something is missing. The error's details are the command that mends it.
        ServiceUnavailable: Google does not answer.
    """
    for check in check_google_cloud(settings, address):
        if check.problem and check.temporary:
            raise ServiceUnavailable(f"{check.problem} Try again later.", check.remedy)
        if check.problem:
            raise ConfigurationError(f"{check.problem} Run the command below, and anime-genre doctor.", check.remedy)


def check_google_cloud(settings: Settings, address: str = GOOGLE, trial: bool = False) -> Iterator[Check]:
    """Check everything that a deployment needs, in the order in which it is mended, and what a trial needs.

    Ends early if nothing further can be known: without settings or credentials, without a connection, or without the
    project.
    """
    for field in ("google_project", "bucket"):
        if field not in settings.model_fields_set:
            variable = environment_variable(field)
            yield Check(variable, f"{variable} is not set.", f"export {variable}=...")
            return
    login = "gcloud auth application-default login"
    try:
        # By default, a request for a token is repeated, and an unreachable Google would be named only after 40 s.
        with AuthorizedSession(credentials(settings), auth_request=Request()) as session:
            yield from _check_in_order(GoogleCloud(settings, session, address), trial)
    except auth_exceptions.DefaultCredentialsError:
        yield Check("Credentials", "There are no credentials for Google Cloud.", login)
    except (auth_exceptions.RefreshError, *TEMPORARY) as error:
        if is_temporary(error):
            host = "https://cloudresourcemanager.googleapis.com"
            yield Check("Google Cloud", "Google Cloud does not answer.", f"curl -I {host}", temporary=True)
        else:
            yield Check("Credentials", "Google refuses the credentials: they have expired or were revoked.", login)
    except Refused as error:
        project = shlex.quote(settings.google_project)
        problem = f"Google Cloud cannot be checked: {str(error).strip().rstrip('.'):.120}."
        yield Check("Google Cloud", problem, f"gcloud projects describe {project}", error.temporary)


def _check_in_order(cloud: GoogleCloud, trial: bool) -> Iterator[Check]:
    settings = cloud.settings
    disabled = set()
    for api in APIS:
        if api == "iamcredentials" and not settings.caller_service_account:
            continue  # only for ID tokens of that account
        check = _check_api(cloud, api)
        if check.problem:
            disabled.add(api)
        yield check
    if "cloudresourcemanager" in disabled:
        return
    number, check = _project_number(cloud)
    yield check
    if check.problem:
        return
    default = f"{number}{_DEFAULT_ACCOUNT}"
    accounts = dict.fromkeys([settings.build_service_account or default, settings.function_service_account or default])
    project = f"projects/{settings.google_project}"
    if "storage" not in disabled:
        yield from _check_bucket(cloud)
    if "artifactregistry" not in disabled:
        yield from _check_repository(cloud)
    for right in PROJECT_RIGHTS:
        yield _check_right(cloud, "cloudresourcemanager", project, right)
    if "iam" not in disabled:
        for account in accounts:
            yield from _check_account(cloud, account, ACT_AS)
        if settings.caller_service_account:
            yield from _check_account(cloud, settings.caller_service_account, ID_TOKENS)
    if "run" not in disabled:
        yield from _check_service(cloud)
    for right in TRIAL_RIGHTS if trial else ():
        yield _check_right(cloud, "cloudresourcemanager", project, right)


def _check_api(cloud: GoogleCloud, api: str) -> Check:
    """A call that needs an API says whether it is enabled, whatever else it says. No right is needed for that."""
    project = cloud.settings.google_project
    path = {
        "cloudresourcemanager": f"v3/projects/{project}",
        "run": f"v2/{cloud.parent}/services/{cloud.settings.service}",
        "cloudbuild": f"v1/{cloud.parent}/builds?pageSize=1",
        "artifactregistry": f"v1/{cloud.parent}/repositories/{REPOSITORY}",
        "storage": f"storage/v1/b/{cloud.settings.bucket}/iam/testPermissions?permissions={READ_OBJECTS[0]}",
        "iam": f"v1/projects/{project}/serviceAccounts?pageSize=1",
        "iamcredentials": f"v1/projects/-/serviceAccounts/nobody@{project}.iam.gserviceaccount.com/allowedLocations",
    }[api]
    name = f"API {api}.googleapis.com"
    try:
        cloud.get(api, path)
    except Refused as error:
        if error.api_disabled:
            remedy = f"gcloud services enable {api}.googleapis.com --project {project}"
            return Check(name, f"The API {api}.googleapis.com is not enabled.", remedy)
        if error.reason == "BILLING_DISABLED":
            remedy = f"gcloud billing projects link {project} --billing-account ACCOUNT"
            return Check(name, f"The project {project} has no billing account.", remedy)
    return Check(name)


def _project_number(cloud: GoogleCloud) -> tuple[str, Check]:
    project = cloud.settings.google_project
    name = f"Project {project}"
    try:
        found = cloud.get("cloudresourcemanager", f"v3/projects/{project}")
    except Refused as error:
        if not error.missing and not error.denied:
            raise
        problem = f"The project {project} does not exist, or these credentials may not see it."
        return "", Check(name, problem, "gcloud projects list")
    return str(found["name"]).rpartition("/")[2], Check(name)


def _check_bucket(cloud: GoogleCloud) -> Iterator[Check]:
    bucket = cloud.settings.bucket
    try:
        checks = [_check_right(cloud, "storage", bucket, right) for right in BUCKET_RIGHTS]
    except Refused as error:
        if not error.missing:
            raise
        remedy = (
            f"gcloud storage buckets create gs://{bucket} --project {cloud.settings.google_project} "
            f"--location {cloud.settings.google_region} --uniform-bucket-level-access --public-access-prevention"
        )
        yield Check(f"Bucket gs://{bucket}", f"The bucket gs://{bucket} does not exist.", remedy)
        return
    yield Check(f"Bucket gs://{bucket}")
    yield from checks


def _check_repository(cloud: GoogleCloud) -> Iterator[Check]:
    resource = f"{cloud.parent}/repositories/{REPOSITORY}"
    name = f"Repository {REPOSITORY}"
    if not _exists(cloud, "artifactregistry", f"v1/{resource}"):
        remedy = (
            f"gcloud artifacts repositories create {REPOSITORY} --project {cloud.settings.google_project} "
            f"--location {cloud.settings.google_region} --repository-format docker"
        )
        where = f"in {cloud.settings.google_region}"
        yield Check(name, f"The Artifact Registry repository {REPOSITORY} does not exist {where}.", remedy)
        return
    yield Check(name)
    for right in REPOSITORY_RIGHTS:
        yield _check_right(cloud, "artifactregistry", resource, right)


def _check_account(cloud: GoogleCloud, account: str, right: Right) -> Iterator[Check]:
    project = _project_of(account) or cloud.settings.google_project
    resource = f"projects/{project}/serviceAccounts/{account}"
    check = _check_right(cloud, "iam", resource, right, missing_is_denied=True)
    if not check.problem:
        yield check
        return
    name, missing = f"Account {account}", f"The service account {account} does not exist"
    try:
        cloud.get("iam", f"v1/{resource}")
    except Refused as error:
        if error.denied:
            yield Check(name, f"{missing}, or these credentials may not see it.", check.remedy)
            return
        if not error.missing:
            raise
        remedy = f"gcloud iam service-accounts create {account.partition('@')[0]} --project {project}"
        if account.endswith(_DEFAULT_ACCOUNT):  # it comes with this API
            remedy = f"gcloud services enable compute.googleapis.com --project {project}"
        yield Check(name, f"{missing}.", remedy)
        return
    yield check


def _project_of(account: str) -> str:
    """The project in the e-mail address of a service account; empty if it names none, as that of Google's default.

    With the wildcard `-` for the project, Google refuses accounts that do not exist as if they could not be seen.
    """
    domain = account.partition("@")[2]
    project, _, organisation = domain.removesuffix(_ACCOUNTS).partition(".")
    if not domain.endswith(_ACCOUNTS):
        return ""
    return f"{organisation}:{project}" if organisation else project


def _check_service(cloud: GoogleCloud) -> Iterator[Check]:
    """Without the service, the right to create one is needed; else those to change and to call it."""
    settings = cloud.settings
    resource = f"{cloud.parent}/services/{settings.service}"
    if not _exists(cloud, "run", f"v2/{resource}"):
        yield _check_right(cloud, "cloudresourcemanager", f"projects/{settings.google_project}", CREATE_SERVICE)
        return
    for right in SERVICE_RIGHTS:
        # With a caller account, that account calls the function.
        if right.role != "roles/run.invoker" or not settings.caller_service_account:
            yield _check_right(cloud, "run", resource, right)


def _exists(cloud: GoogleCloud, api: str, path: str) -> bool:
    """Whether a resource exists, as far as known: one that may not be read does."""
    try:
        cloud.get(api, path)
    except Refused as error:
        if error.missing:
            return False
        if not error.denied:
            raise
    return True


def _check_right(cloud: GoogleCloud, api: str, resource: str, right: Right, missing_is_denied: bool = False) -> Check:
    shown = f"gs://{resource}" if api == "storage" else resource.rpartition("/")[2]
    name = f"Right to {right.purpose}: {shown}"
    try:
        granted = cloud.granted(api, resource, right.permissions)
    except Refused as error:
        if error.invalid:  # the deployment itself will say whether the right is missing
            return Check(f"{name}. This could not be checked: {error}")
        if not error.denied and not (error.missing and missing_is_denied):
            raise
        granted = set()
    if lacking := [each for each in right.permissions if each not in granted]:
        problem = f"The permission {', '.join(lacking)} on {shown} is missing."
        return Check(name, problem, _grant(cloud, api, resource, right.role))
    return Check(name)


def _grant(cloud: GoogleCloud, api: str, resource: str, role: str) -> str:
    """The command that grants a role on a resource."""
    name, settings = resource.rpartition("/")[2], cloud.settings
    region, project = f"--location {settings.google_region}", f"--project {settings.google_project}"
    target = {
        "storage": f"storage buckets add-iam-policy-binding gs://{name}",
        "artifactregistry": f"artifacts repositories add-iam-policy-binding {name} {region} {project}",
        "cloudresourcemanager": f"projects add-iam-policy-binding {name}",
        "iam": f"iam service-accounts add-iam-policy-binding {name} {project}",
        "run": f"run services add-iam-policy-binding {name} --region {settings.google_region} {project}",
    }[api]
    return f"gcloud {target} --member={cloud.member} --role={role}"
