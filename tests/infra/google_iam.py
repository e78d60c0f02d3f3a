"""Google's APIs on loopback, as far as they tell what exists and which permissions a caller has. Strict by allowlist.

A request that is not listed here is answered with the status 400 and kept in `GoogleIam.unexpected`, and so is a
permission that an API does not know for a resource. The rules are those of the APIs' references:

- https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/testIamPermissions
- https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/get (with the wildcard `-` for the
  project, the status of an account that does not exist is 403)
- https://cloud.google.com/storage/docs/json_api/v1/buckets/testIamPermissions
- https://cloud.google.com/resource-manager/reference/rest/v3/projects/testIamPermissions
- https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.services/testIamPermissions
- https://cloud.google.com/artifact-registry/docs/reference/rest/v1/projects.locations.repositories/testIamPermissions
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT, NUMBER, REGION = "my-project-1", "123456789012", "europe-west1"
BUCKET, REPOSITORY, SERVICE = "my-bucket-1", "cloud-run-source-deploy", "anime-genre"
LOCATION = f"projects/{PROJECT}/locations/{REGION}"
TOKEN = "access-token"

_OBJECTS = {f"storage.objects.{each}" for each in ("get", "list", "create", "delete", "update")}
_SERVICE = {f"run.services.{each}" for each in ("get", "update", "delete")} | {"run.routes.invoke"}
_ACCOUNT = {f"iam.serviceAccounts.{each}" for each in ("get", "actAs", "getOpenIdToken")}
_REPOSITORY = {f"artifactregistry.repositories.{each}" for each in ("get", "downloadArtifacts", "uploadArtifacts")}
_PROJECT = {f"run.services.{each}" for each in ("create", "update", "delete")} | {"run.routes.invoke"}
_PROJECT |= {"run.operations.get", "resourcemanager.projects.get"}
_PROJECT |= {f"cloudbuild.builds.{each}" for each in ("create", "get", "list")}
# Per API: its resources as patterns, the permissions that exist on them, and the permission for reading them.
_RESOURCES = {
    "storage": [(rf"b/{BUCKET}", _OBJECTS, "")],
    "run": [(rf"v2/{LOCATION}/services/[a-z-]+", _SERVICE, "run.services.get")],
    "artifactregistry": [
        (rf"v1/{LOCATION}/repositories/[a-z-]+", _REPOSITORY, "artifactregistry.repositories.get"),
    ],
    "cloudresourcemanager": [(r"v3/projects/[a-z0-9-]+", _PROJECT, "resourcemanager.projects.get")],
    "iam": [(r"v1/projects/[a-z0-9:.-]+/serviceAccounts/[^/:]+@[^/:]+", _ACCOUNT, "iam.serviceAccounts.get")],
}
_ONLY_GET = {
    "cloudbuild": rf"v1/{LOCATION}/builds\?pageSize=1",
    "iam": rf"v1/projects/{PROJECT}/serviceAccounts\?pageSize=1",
    "iamcredentials": r"v1/projects/-/serviceAccounts/[^/:]+@[^/:]+/allowedLocations",
}


@dataclass
class GoogleIam:
    """What exists, and what the caller may do. By default everything that a deployment needs."""

    url: str = ""
    disabled: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    """Permissions, or "PERMISSION on RESOURCE'S LAST PART"."""
    expired: bool = False
    busy: bool = False
    untestable: set[str] = field(default_factory=set)
    """Permissions that an API does not know, although this file lists them."""
    without_billing: bool = False
    unexpected: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address of an API, with its name in braces."""
        return f"{self.url}/{{api}}"

    def respond(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """The status and the JSON of the response to a request."""
        if (method, path) == ("POST", "/token"):
            return self._token(parse_qs(body.decode()))
        if token != f"Bearer {TOKEN}":
            return _error(401, "Request had invalid authentication credentials.", "ACCESS_TOKEN_EXPIRED")
        if self.busy:
            return _error(429, "Quota exceeded for quota metric 'Read requests'.", "RATE_LIMIT_EXCEEDED")
        api, _, rest = path.removeprefix("/").partition("/")
        if api in self.disabled:
            return _error(403, f"{api} API has not been used in project {NUMBER} before.", "SERVICE_DISABLED")
        if self.without_billing and api in ("run", "cloudbuild", "artifactregistry"):
            return _error(403, f"This API method requires billing: project {PROJECT}.", "BILLING_DISABLED")
        if method == "GET" and api in _ONLY_GET and re.fullmatch(_ONLY_GET[api], rest):
            return (200, {}) if api != "iamcredentials" else _error(404, "Account not found.")
        if api == "storage":
            parts = urlsplit(rest)
            asked = parse_qs(parts.query).get("permissions", [])
            match = re.fullmatch(r"storage/v1/(b/[a-z0-9-]+)/iam/testPermissions", parts.path)
            if method == "GET" and match:
                return self._test(api, match[1], asked)
        elif method == "POST" and rest.endswith(":testIamPermissions") and list(json.loads(body)) == ["permissions"]:
            return self._test(api, rest.removesuffix(":testIamPermissions"), json.loads(body)["permissions"])
        elif method == "GET":
            return self._get(api, rest)
        return self._unexpected(f"{method} {path}")

    def _token(self, form: dict[str, list[str]]) -> tuple[int, Any]:
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"] or "assertion" not in form:
            return self._unexpected("a request for a token")
        if self.expired:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        return 200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}

    def _rules(self, api: str, resource: str) -> tuple[set[str], str] | None:
        found = [rules for pattern, *rules in _RESOURCES.get(api, []) if re.fullmatch(pattern, resource)]
        return (found[0][0], found[0][1]) if found else None

    def _get(self, api: str, resource: str) -> tuple[int, Any]:
        rules = self._rules(api, resource)
        if rules is None:
            return self._unexpected(f"GET {api}/{resource}")
        if not self._has(rules[1], resource):
            return _error(403, f"Permission '{rules[1]}' denied on resource (or it may not exist).")
        if resource.rpartition("/")[2] in self.missing:
            return _error(_status_of_missing(api, resource), f"Resource '{resource}' was not found.")
        name = f"projects/{NUMBER}" if api == "cloudresourcemanager" else resource
        return 200, {"name": name}

    def _test(self, api: str, resource: str, permissions: list[str]) -> tuple[int, Any]:
        rules = self._rules(api, resource)
        if self.untestable & set(permissions):
            return _error(400, "Permission is not valid for this resource.")
        if rules is None or not permissions or not set(permissions) <= rules[0]:
            return self._unexpected(f"{permissions} on {api}/{resource}")
        if resource.rpartition("/")[2] in self.missing:
            # Most APIs answer with no permissions for a resource that does not exist.
            return _error(_status_of_missing(api, resource), "Not found.") if api in ("storage", "iam") else (200, {})
        granted = [each for each in permissions if self._has(each, resource)]
        return 200, {"permissions": granted} if granted else {}

    def _has(self, permission: str, resource: str) -> bool:
        return not {permission, f"{permission} on {resource.rpartition('/')[2]}"} & self.denied

    def _unexpected(self, what: str) -> tuple[int, Any]:
        self.unexpected.append(what)
        return _error(400, f"Request contains an invalid argument: {what}.")


def _status_of_missing(api: str, resource: str) -> int:
    """Resource Manager does not tell strangers which projects exist, and IAM not in which project an account is."""
    return 403 if api == "cloudresourcemanager" or resource.startswith("v1/projects/-/") else 404


def _error(status: int, message: str, reason: str = "") -> tuple[int, Any]:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
    return status, {"error": {"code": status, "message": message, "details": [info] if reason else []}}


@contextmanager
def google_iam() -> Iterator[GoogleIam]:
    """Run the APIs on a free port."""
    google = GoogleIam()

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = google.respond(self.command, self.path, body, self.headers.get("Authorization", ""))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _respond

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        google.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield google
        finally:
            server.shutdown()
            thread.join()
