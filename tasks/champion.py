"""The champion: the model that receives the service's traffic. The registry's alias `champion` follows the traffic."""

import logging
from dataclasses import dataclass
from pathlib import Path

import serving
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.errors import ConfigurationError, DamagedBundleError, FunctionDown, InfraError, NotFound
from infra.registry import Registry
from infra.revisions import RUNTIME_ENVIRONMENT, Revision, resources
from infra.settings import MAIN_COLLECTION, Settings
from infra.source_zip import source_zip
from infra.store import Store
from ml.data.decoding import PREPROCESSING_VERSION
from serving.bundle.files import sha256_of
from serving.bundle.model import Model
from tasks.bundles import fetch_bundle, upload_bundle
from tasks.records import TrainingRecord

logger = logging.getLogger("tasks")


@dataclass(frozen=True)
class Champion:
    """The live version.

    `moved` says that another tool moved the traffic here. `withdrawn_sha256` is then the bundle that it moved it away
    from, None if that is unknown.
    """

    version: str
    bundle_sha256: str
    revision: Revision
    moved: bool = False
    withdrawn_sha256: str | None = None

    @property
    def name(self) -> str:
        """Version and bundle: versions are numbered again if somebody deletes the registered model."""
        return version_name(self.version, self.bundle_sha256)


@dataclass(frozen=True)
class ChampionState:
    """What a run finds out about the champion.

    `model` is None if its bundle has no intact copy anywhere. `damaged` says that the function cannot load the bundle,
    `silent` why it does not answer for another reason, and `down` that this is no refusal: nothing runs there.
    """

    model: Model | None
    damaged: bool
    silent: str | None
    down: bool = False


def version_name(version: str, bundle_sha256: str) -> str:
    """A version with the beginning of its bundle's sha256, such as "version 2 (5f1a2623)"."""
    return f"version {version or 'unknown'} ({bundle_sha256[:8] or 'no bundle'})"


def live_champion(settings: Settings, registry: Registry) -> Champion | None:
    """The version that receives the service's traffic, None before the first deployment.

    The alias is repaired if it names another version: a run may be killed after moving the traffic, before the alias.
    It is removed if nothing is live: somebody may have deleted the service.
    """
    cloud_run = CloudRun(settings)
    traffic = cloud_run.traffic()
    if traffic is None:
        if registry.remove_champion():
            logger.warning("The alias champion is removed from %s, because no model is live.", settings.model_name)
        return None
    live, withdrawn = traffic.revision, None
    if traffic.moved and traffic.checked != live.name:
        checked = (each for each in cloud_run.revisions() if each.name == traffic.checked)
        withdrawn = next((each.bundle_sha256 or None for each in checked), None)
    champion = Champion(live.version, live.bundle_sha256, live, traffic.moved, withdrawn)
    alias = registry.champion()
    registered = registry.version_of(champion.bundle_sha256)
    if registered is not None and (alias is None or alias.version != registered.version):
        registry.set_champion(registered.version)
    return champion


def examine(
    champion: Champion, poster_name: str, store: Store, registry: Registry, settings: Settings
) -> ChampionState:
    """Fetch the champion's bundle, put back what the bucket lacks of it, and ask the function for a prediction."""
    sha256 = champion.bundle_sha256
    damaged, silent, down = False, None, False
    try:
        request_prediction(str(champion.revision.url), poster_name, settings.caller_service_account)
    except DamagedBundleError as error:
        damaged = True
        logger.warning("The champion, %s, is damaged: %s", champion.name, error)
    except InfraError as error:
        silent, down = error.message, isinstance(error, FunctionDown)
        logger.warning("The champion, %s, does not answer: %s", champion.name, error)
    try:
        bundle = fetch_bundle(store, registry, settings.folder, sha256, training_run(sha256, store, registry))
    except NotFound as error:
        logger.warning("The champion, %s, is lost: %s", champion.name, error)
        return ChampionState(None, damaged, silent, down)
    uploaded = upload_bundle(store, bundle, sha256, replace=damaged or down)
    if uploaded:
        logger.warning("%s of the champion's bundle are in the bucket again.", ", ".join(uploaded))
    return ChampionState(Model.load(bundle), damaged, silent, down)


def has_other_decoder(model: Model) -> bool:
    """Whether a model was trained on posters that another version of the decoder read."""
    return model.manifest.preprocessing.version != PREPROCESSING_VERSION


def training_run(sha256: str, store: Store, registry: Registry) -> str | None:
    """The MLflow run that trained a bundle; None if it is unknown."""
    registered = registry.version_of(sha256)
    if registered is not None:
        return registered.run_id
    trainings = (store.read_parsed(key, TrainingRecord.model_validate_json) for key in store.keys("trainings/"))
    return next((training.run_id for training in trainings if training and training.bundle_sha256 == sha256), None)


def function_source() -> bytes:
    """The source of the function, as it is deployed."""
    return source_zip(Path(serving.__file__).parent)


def source_key(sha256: str) -> str:
    """The object key of a source of the function."""
    return f"functions/{sha256}.zip"


def settings_environment(settings: Settings) -> dict[str, str]:
    """The environment variables of a revision that come from the settings. For its model see `model_environment`."""
    return {
        "POSTER_HOSTS": settings.poster_hosts,
        "POSTER_BUCKETS": settings.poster_buckets,
        "CORS_ORIGINS": settings.cors_origins,
        "GOOGLE_CLOUD_PROJECT": settings.google_project,  # used in the trace names of its log entries
    }


def reason_to_redeploy(champion: Champion, state: ChampionState, settings: Settings) -> str | None:
    """Why the champion needs a new revision, None if it needs none.

    A revision keeps its traffic if the function refuses the call, if another tool chose it, or if the present decoder
    would give the model other pixels than it was trained on.
    """
    if state.model is None or (state.silent and not state.down):
        return None
    changed = _changes(champion.revision, settings)
    if state.damaged:
        reason = "its bundle was damaged in the bucket and is restored"
    elif state.down:
        reason = "its revision does not run any more"
    elif changed:
        reason = f"{' and '.join(changed)} changed"
    else:
        return None
    if has_other_decoder(state.model):
        version = state.model.manifest.preprocessing.version
        kept = f"its model was trained on posters of decoder version {version}, and today's is {PREPROCESSING_VERSION}"
    elif champion.moved and not (state.damaged or state.down):
        kept = "another tool chose it"
    else:
        return reason
    logger.warning("Revision %s stays, although %s: %s.", champion.revision.name, reason, kept)
    return None


def _changes(live: Revision, settings: Settings) -> list[str]:
    """What differs between the live revision and a new one, apart from the model."""
    changes = []
    if live.image.source_sha256 != sha256_of(function_source()):
        changes.append("the function's source")
    wanted = {**RUNTIME_ENVIRONMENT, **settings_environment(settings)}
    changes += [name for name, value in sorted(wanted.items()) if live.environment.get(name, "") != value]
    if live.resources != resources(settings):
        changes.append("CPUs or memory")
    return changes


def check_collection(settings: Settings) -> None:
    """Check that the service and the registered model belong to the collection of the settings.

    Raises:
        ConfigurationError: they serve another collection. The message names the setting that separates them.
    """
    live = CloudRun(settings).live()
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
