"""The model in front of users. Traffic is what is live; the registry's alias follows it, and is repaired from it."""

from dataclasses import dataclass

from infra.cloud_run import CloudRun
from infra.registry import Registry
from infra.settings import Settings


@dataclass(frozen=True)
class Champion:
    """The version that answers users now."""

    version: str
    bundle_sha256: str


def present_champion(settings: Settings, registry: Registry) -> Champion | None:
    """The bundle that the service's traffic goes to, None before the first deployment.

    Where the alias `champion` names another version (a run was killed between the two), it is set right.
    """
    live = CloudRun(settings).live(settings.service)
    if live is None:
        return None
    champion = Champion(live.environment["MODEL_VERSION"], live.environment["BUNDLE_SHA256"])
    alias = registry.champion()
    known = registry.version_of(champion.bundle_sha256)
    if known is not None and (alias is None or alias.version != known.version):
        registry.set_champion(known.version)
    return champion
