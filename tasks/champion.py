"""The champion: the model that receives the service's traffic. The registry's alias `champion` follows the traffic."""

from dataclasses import dataclass

from infra.cloud_run import CloudRun
from infra.errors import ConfigurationError
from infra.registry import Registry
from infra.settings import MAIN_COLLECTION, Settings


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


def check_collection(settings: Settings) -> None:
    """Check that the service and the registered model belong to the collection of the settings.

    Raises:
        ConfigurationError: they serve another collection. The message names the setting that separates them.
    """
    live = CloudRun(settings).live(settings.service)
    champion = Registry(settings).champion()
    for variable, name, other in (
        ("ANIME_GENRE_SERVICE", settings.service, live.environment.get("COLLECTION", MAIN_COLLECTION) if live else ""),
        (
            "ANIME_GENRE_MODEL_NAME",
            settings.model_name,
            champion.tags.get("collection", MAIN_COLLECTION) if champion else "",
        ),
    ):
        if other and other != settings.collection:
            raise ConfigurationError(
                f"{variable}={name} has the live model of the collection {other}, and this run is about "
                f"{settings.collection}. Set {variable} to another name, or unset it."
            )
