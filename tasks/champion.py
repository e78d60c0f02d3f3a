"""The champion: the model that receives the service's traffic. The registry's alias `champion` follows the traffic."""

from dataclasses import dataclass

from infra.cloud_run import CloudRun
from infra.registry import Registry
from infra.settings import Settings


@dataclass(frozen=True)
class Champion:
    """The live version."""

    version: str
    bundle_sha256: str


def live_champion(settings: Settings, registry: Registry) -> Champion | None:
    """The version that receives the service's traffic, None before the first deployment.

    The alias is repaired if it names another version: a run may be killed after moving the traffic, before the alias.
    """
    live = CloudRun(settings).live(settings.service)
    if live is None:
        return None
    champion = Champion(live.environment["MODEL_VERSION"], live.environment["BUNDLE_SHA256"])
    alias = registry.champion()
    registered = registry.version_of(champion.bundle_sha256)
    if registered is not None and (alias is None or alias.version != registered.version):
        registry.set_champion(registered.version)
    return champion
