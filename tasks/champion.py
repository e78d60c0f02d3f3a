"""The champion: the model that the service's traffic goes to. The registry's alias `champion` follows the traffic."""

from dataclasses import dataclass

from infra.cloud_run import CloudRun
from infra.registry import Registry
from infra.settings import Settings


@dataclass(frozen=True)
class Champion:
    """The live version."""

    version: str
    bundle_sha256: str


def present_champion(settings: Settings, registry: Registry) -> Champion | None:
    """The version that the service's traffic goes to, None before the first deployment.

    If a run was killed between moving the traffic and the alias, the alias names another version and is repaired.
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
