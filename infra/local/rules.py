"""What the Cloud Run stand-in accepts: the fields that this project sets, each with Google's rule for it.

A request with any other field is refused, unless the field is sent back exactly as it was read. So a request that is
accepted here contains nothing whose rules this project does not know. `infra/README.md` lists what is not checked.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_API = "https://cloud.google.com/run/docs/reference/rest/v2/"
_SERVICES = f"{_API}projects.locations.services"
_CONTAINER = f"{_API}Container"
_RUN = "https://cloud.google.com/run/docs/"


@dataclass(frozen=True)
class Rule:
    """The rule for a field: what `allows` accepts, in words and at the address of its documentation."""

    allows: Callable[[Any], bool]
    words: str
    documentation: str = _SERVICES


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _between(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and least <= value <= most


def _seconds(most: int) -> Callable[[Any], bool]:
    return lambda value: 0 < float(value.removesuffix("s")) <= most


_EMAIL = r"[^@\s]+@[^@\s]+\.gserviceaccount\.com"
_ANY = Rule(lambda value: True, "")
# Names with these endings are Google's own (https://cloud.google.com/run/docs/reference/rest/v2/RevisionTemplate).
_OWN_NAME = r"(?!(.*\.)?(run\.googleapis\.com|cloud\.googleapis\.com|serving\.knative\.dev|autoscaling\.knative\.dev)/)"
_ANNOTATION = Rule(
    _matches(_OWN_NAME + r"([-a-z0-9.]{1,253}/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"),
    "an annotation has a name of up to 63 characters, which is not one of Google's",
)
_VARIABLE = Rule(
    _matches(r"(?!(PORT|K_SERVICE|K_REVISION|K_CONFIGURATION)$|X_GOOGLE_)[^=]{1,32768}"),
    "a variable's name contains no = and is not reserved",
    f"{_RUN}container-contract#env-vars",
)

FIELDS: Mapping[str, Rule] = {
    "name": _ANY,  # immutable; compared with the address
    "etag": _ANY,  # compared with the service's
    "annotations": _ANNOTATION,
    "ingress": Rule(_matches("INGRESS_TRAFFIC_ALL"), "this project lets requests in from everywhere"),
    "buildConfig.functionTarget": Rule(_matches("[A-Za-z_][A-Za-z0-9_]*"), "a function's name"),
    "buildConfig.baseImage": Rule(
        _matches("[a-z]+[0-9]+"), "a runtime", f"{_RUN}configuring/services/runtime-base-images"
    ),
    "buildConfig.enableAutomaticUpdates": _ANY,
    "buildConfig.sourceLocation": Rule(_matches(r"gs://[^/]+/.+"), "an address in Cloud Storage"),
    "buildConfig.serviceAccount": Rule(
        _matches(f"projects/[^/]+/serviceAccounts/{_EMAIL}"), "a service account's name"
    ),
    "template.revision": Rule(
        _matches("[a-z]([-a-z0-9]{0,61}[a-z0-9])?"),
        "up to 63 lower-case letters, digits and hyphens",
        f"{_API}RevisionTemplate",
    ),
    "template.annotations": _ANNOTATION,
    "template.serviceAccount": Rule(_matches(_EMAIL), "an e-mail address of a service account"),
    "template.scaling.maxInstanceCount": Rule(_between(1, 1000), "1 to 1000", f"{_RUN}configuring/max-instances"),
    "template.timeout": Rule(_seconds(3600), "at most an hour", f"{_RUN}configuring/request-timeout"),
    "template.maxInstanceRequestConcurrency": Rule(_between(1, 1000), "1 to 1000", f"{_RUN}about-concurrency"),
    "template.containers.image": Rule(_matches(r"\S+"), "an image", _CONTAINER),
    "template.containers.baseImageUri": Rule(
        _matches(r"[a-z0-9-]+-docker\.pkg\.dev/serverless-runtimes/\S+"), "an image of a runtime", _CONTAINER
    ),
    "template.containers.env.name": _VARIABLE,
    "template.containers.env.value": Rule(lambda text: len(text.encode()) <= 32768, "up to 32 KiB", _CONTAINER),
    "template.containers.resources.limits.cpu": Rule(
        _matches("[1248]"), "1, 2, 4 or 8", f"{_RUN}configuring/services/cpu"
    ),
    "template.containers.resources.limits.memory": Rule(
        _matches("[1-9][0-9]*(Mi|Gi)"), "a whole number of Mi or Gi", f"{_RUN}configuring/services/memory-limits"
    ),
    "template.containers.resources.cpuIdle": _ANY,
    "template.containers.resources.startupCpuBoost": _ANY,
    "template.containers.startupProbe.httpGet.path": Rule(_matches("/.*"), "a path", f"{_RUN}configuring/healthchecks"),
    "template.containers.startupProbe.periodSeconds": Rule(
        _between(1, 240), "1 to 240", f"{_RUN}configuring/healthchecks"
    ),
    "template.containers.startupProbe.timeoutSeconds": Rule(
        _between(1, 240), "1 to 240", f"{_RUN}configuring/healthchecks"
    ),
    "template.containers.startupProbe.failureThreshold": Rule(
        _between(1, 240), "at least 1", f"{_RUN}configuring/healthchecks"
    ),
    "traffic.type": _ANY,
    "traffic.revision": _ANY,  # compared with the service's revisions
    "traffic.percent": Rule(_between(0, 100), "0 to 100", f"{_RUN}rollouts-rollbacks-traffic-migration"),
    "traffic.tag": Rule(
        _matches("[a-z]([-a-z0-9]{0,44}[a-z0-9])?"),
        "lower-case letters, digits and hyphens",
        f"{_RUN}rollouts-rollbacks-traffic-migration",
    ),
}
"""The fields of a service that this project sets, by their JSON names. A name covers what is below it."""

MASK = ("annotations", "build_config", "template", "traffic")
"""The paths of an update mask that this project sends (projects.locations.services.patch)."""

_BUILD = f"{_API}projects.locations.builds/submit"
BUILD_FIELDS: Mapping[str, Rule] = {
    "storageSource.bucket": Rule(_matches(r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]"), "a bucket", _BUILD),
    "storageSource.object": Rule(_matches(r".+\.(zip|tar\.gz)"), "a zip or tar.gz archive", _BUILD),
    "imageUri": Rule(
        # A project of an organisation, example.com:my-project, is example.com/my-project in an address.
        _matches(
            r"[a-z0-9-]+-docker\.pkg\.dev/([-a-z0-9]+(\.[-a-z0-9]+)+/)?[-a-z0-9]+/[-a-z0-9]+/[-_.a-z0-9]+"
            r"(:[-_.A-Za-z0-9]{1,128})?"
        ),
        "an address in Artifact Registry",
        _BUILD,
    ),
    "buildpackBuild.functionTarget": FIELDS["buildConfig.functionTarget"],
    "buildpackBuild.baseImage": FIELDS["buildConfig.baseImage"],
    "buildpackBuild.enableAutomaticUpdates": _ANY,
    "serviceAccount": FIELDS["buildConfig.serviceAccount"],
}
"""The fields of SubmitBuildRequest that this project sets."""

_MEMORY_OF_CPUS = {"4": 2, "8": 4}  # at least, in Gi
_CPUS_OF_MEMORY = ((24, 8), (16, 6), (8, 4), (4, 2))  # more than these Gi need at least these CPUs


def violation(
    sent: Mapping[str, Any], read: Mapping[str, Any] | None = None, fields: Mapping[str, Rule] = FIELDS
) -> str | None:
    """The first rule that a message breaks, in words; None if it breaks none.

    Args:
        sent: the JSON of the message.
        read: that of the present message, None for a new one. What is the same in both is allowed.
        fields: the rules.
    """
    present = dict(_leaves(read or {}))
    for path, value in _leaves(sent):
        if path in present and present[path] == value:
            continue
        plain = re.sub(r"\[[^]]*\]", "", path)
        name = next((each for each in fields if plain == each or plain.startswith(f"{each}.")), None)
        if name is None:
            return f"Field '{path}' is not one that this project sets, so the stand-in does not know its rules."
        rule = fields[name]
        checked = plain.removeprefix(f"{name}.") if rule is _ANNOTATION else value
        if not rule.allows(checked):
            return f"Invalid value {checked!r:.60} of '{path}': {rule.words} ({rule.documentation})."
    return _resources_violation(sent)


def _resources_violation(service: Mapping[str, Any]) -> str | None:
    """See https://cloud.google.com/run/docs/configuring/services/memory-limits and the probe's documentation."""
    for container in service.get("template", {}).get("containers", ()):
        limits = container.get("resources", {}).get("limits", {})
        cpu, memory = limits.get("cpu", "1"), limits.get("memory", "1Gi")
        if re.fullmatch("[1-8]", cpu) and re.fullmatch("[0-9]+(Mi|Gi)", memory):
            gibibytes = int(memory[:-2]) / (1024 if memory.endswith("Mi") else 1)
            if gibibytes < max(0.125, _MEMORY_OF_CPUS.get(cpu, 0)) or gibibytes > 32:
                return f"Memory {memory} does not go with {cpu} CPUs ({_RUN}configuring/services/cpu)."
            if any(gibibytes > most and int(cpu) < least for most, least in _CPUS_OF_MEMORY):
                return f"Memory {memory} needs more than {cpu} CPUs ({_RUN}configuring/services/memory-limits)."
        probe = container.get("startupProbe", {})
        if probe.get("timeoutSeconds", 1) > probe.get("periodSeconds", 10):
            return f"A probe's timeout is at most its period ({_RUN}configuring/healthchecks)."
    return None


def _leaves(message: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a JSON message with their paths. A part of a list is named by its name, otherwise its number."""
    if isinstance(message, dict):
        for name, value in message.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(message, list):
        for number, value in enumerate(message):
            name = value.get("name", number) if isinstance(value, dict) else number
            yield from _leaves(value, f"{path}[{name}]")
    else:
        yield path, message
