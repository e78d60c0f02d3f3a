"""Google's predefined roles, and the permission that each request of a run needs.

The stand-ins let their token do everything. A `Caller` in front of them (`tests.faults`) may do what its roles include,
so that a run shows whether the roles that the project grants are enough. Google's references:

- https://cloud.google.com/iam/docs/roles-permissions lists the permissions of roles (here those of three APIs);
- https://cloud.google.com/storage/docs/access-control/iam-json, https://cloud.google.com/run/docs/reference/iam/permissions
  and https://cloud.google.com/build/docs/iam-roles-permissions list those that requests need.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Literal

Resource = Literal["bucket", "project", "service"]

ROLES = {
    "roles/storage.objectUser": {f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list", "update")},
    "roles/cloudbuild.builds.editor": {f"cloudbuild.builds.{verb}" for verb in ("create", "get", "list", "update")},
    "roles/run.viewer": {
        *("run.operations.get", "run.revisions.get", "run.revisions.list", "run.services.get", "run.services.list"),
    },
    "roles/run.developer": {
        *(f"run.services.{verb}" for verb in ("create", "delete", "get", "list", "update")),
        *("run.operations.get", "run.revisions.delete", "run.revisions.get", "run.revisions.list", "run.routes.invoke"),
    },
    "roles/run.invoker": {"run.routes.invoke"},
}
_BUCKET, _OBJECT = "/storage/v1/b/[^/?]+", "/storage/v1/b/[^/?]+/o/[^?]+"
_LOCATION = "/v2/projects/[^/]+/locations/[^/]+"
_SERVICE = f"{_LOCATION}/services/[^/?]+"
# The request line, the resource whose policy decides, and the permissions. Policies of the project hold for it, too.
_NEEDED: list[tuple[str, Resource, set[str]]] = [
    (rf"GET {_BUCKET}/o\b(?!/).*", "bucket", {"storage.objects.list"}),
    (rf"GET (/download)?{_OBJECT}.*", "bucket", {"storage.objects.get"}),
    # An object that exists is deleted before it is written.
    (
        rf"(POST|PUT) /(resumable/)?upload{_BUCKET}/o\b(?!/).*",
        "bucket",
        {"storage.objects.create", "storage.objects.delete"},
    ),
    (rf"PATCH {_OBJECT}.*", "bucket", {"storage.objects.update"}),
    (rf"DELETE {_OBJECT}.*", "bucket", {"storage.objects.delete"}),
    (rf"GET {_BUCKET}(\?.*)?", "bucket", {"storage.buckets.get"}),
    (rf"GET {_LOCATION}/services(\?.*)?", "project", {"run.services.list"}),
    (rf"POST {_LOCATION}/services\?.*", "project", {"run.services.create"}),
    (rf"GET {_SERVICE}(\?.*)?", "service", {"run.services.get"}),
    (rf"PATCH {_SERVICE}\?.*", "service", {"run.services.update"}),
    (rf"DELETE {_SERVICE}(\?.*)?", "service", {"run.services.delete"}),
    (rf"GET {_SERVICE}/revisions(\?.*)?", "service", {"run.revisions.list"}),
    (rf"GET {_SERVICE}/revisions/[^/?]+(\?.*)?", "service", {"run.revisions.get"}),
    (rf"DELETE {_SERVICE}/revisions/[^/?]+(\?.*)?", "service", {"run.revisions.delete"}),
    (rf"POST {_LOCATION}/builds:submit(\?.*)?", "project", {"cloudbuild.builds.create"}),
    (r"GET /v1/projects/[^/]+/locations/[^/]+/builds/[^/?]+", "project", {"cloudbuild.builds.get"}),
    (rf"GET {_LOCATION}/operations/[^/?]+(\?.*)?", "project", {"run.operations.get"}),
]


@dataclass
class Caller:
    """Who sends requests, with the roles that were granted on each resource. `refused` collects what it may not do."""

    roles: set[tuple[Resource, str]]
    refused: list[str] = field(default_factory=list)

    def refusal(self, request_line: str) -> bytes | None:
        """Google's response, of status 403, to a request that the caller may not send; else None."""
        rules = (rule[1:] for rule in _NEEDED if re.fullmatch(rule[0], request_line))
        resource, needed = next(rules, ("project", {"a permission that is unknown here"}))
        granted = {each for on, role in self.roles if on in (resource, "project") for each in ROLES[role]}
        missing = sorted(needed - granted)
        if not missing:
            return None
        self.refused.append(f"{request_line}: {missing[0]}")
        return _error(f"Permission '{missing[0]}' denied on resource (or it may not exist).")


def _error(message: str) -> bytes:
    details = [{"message": message, "domain": "global", "reason": "forbidden"}]
    error = {"code": 403, "message": message, "status": "PERMISSION_DENIED", "errors": details}
    return json.dumps({"error": error}).encode()
