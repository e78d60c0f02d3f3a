"""`anime-genre doctor --try`: deploys a tiny model to a throw-away service, and checks what a deployment relies on.

The service is called like the function's with "-trial", and is deleted at the end, as are the objects that the trial
wrote to the bucket. The image stays in the repository, until newer ones replace it.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from io import BytesIO

import numpy as np
import onnx
import requests
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as Picture

from infra.cloud_build import build_image
from infra.cloud_run import CloudRun
from infra.endpoint import STARTUP_SECONDS, request_prediction
from infra.errors import DeploymentError
from infra.revisions import Image, Revision, model_environment
from infra.rights import Check
from infra.settings import Settings
from infra.store import Store
from serving.bundle.errors import AnimeGenreError
from serving.bundle.files import sha256_of
from serving.bundle.model import FORMAT, INPUT, MANIFEST, MODEL, OUTPUT, RESIZE, Model
from tasks.bundles import bundle_key
from tasks.candidate_revisions import TOLERANCE
from tasks.champion import function_source, settings_environment, source_key

_POSTER = "trial/poster.png"
_SIZE = 16
_PAUSE_SECONDS = 1.0


def run_trial(settings: Settings) -> Iterator[Check]:
    """Deploy, check and delete. The first failure ends the trial; what was made is deleted in any case."""
    trial = _Trial(settings.model_copy(update={"service": f"{settings.service}-trial"}))
    log = f"gcloud run services logs read {trial.settings.service} --project {settings.google_project} "
    log += f"--region {settings.google_region}"
    steps: dict[str, Callable[[], object]] = {
        "Objects can be written and read": trial.write_objects,
        "A build ends with an image": trial.build,
        "A first revision starts once its model is loaded": trial.deploy_first,
        "It is not live before its check": trial.check_not_live,
        # Functions of the stand-in are public.
        **({} if settings.cloud_run_endpoint else {"It refuses a call without a token": trial.check_private}),
        "It predicts from a poster in the bucket": trial.check_first,
        "It goes live": trial.send_traffic,
        "A second revision gets an address of its own, and no traffic": trial.check_second,
        "The traffic goes to the second revision, and back": trial.check_rollback,
        "A revision with a broken model does not start": trial.check_broken,
    }
    try:
        for name, work in steps.items():
            check = _tried(name, work, log)
            yield check
            if check.problem:
                break
    finally:  # also if the reader of the checks has ended, such as `head`
        deleted = [
            _tried("The service is deleted", trial.delete_service, log),
            _tried("The objects are deleted", trial.delete_objects, log),
        ]
    yield from deleted


def _tried(name: str, work: Callable[[], object], log: str) -> Check:
    try:
        work()
    except AnimeGenreError as error:
        remedy = next((line for line in error.details.splitlines() if line.startswith("gcloud ")), log)
        return Check(name, error.message, remedy)
    return Check(name)


class _Trial:
    """The steps. Each raises an error of the project if its check fails."""

    image: Image
    first: Revision
    second: Revision

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._written: list[str] = []
        self._bundle = _tiny_bundle()
        self._model = Model.read(self._bundle.__getitem__)
        buffer = BytesIO()
        Picture.new("RGB", (40, 60), (200, 80, 40)).save(buffer, "PNG")
        self._poster = buffer.getvalue()
        self._source = function_source()
        key = bundle_key(self._model.sha256)
        self._objects = {
            source_key(sha256_of(self._source)): self._source,
            _POSTER: self._poster,
            **{f"{key}/{name}": data for name, data in self._bundle.items()},
        }

    @cached_property
    def _store(self) -> Store:
        return Store(self.settings)

    @cached_property
    def _cloud_run(self) -> CloudRun:
        return CloudRun(self.settings)

    def write_objects(self) -> None:
        source = source_key(sha256_of(self._source))
        for key, data in self._objects.items():
            if key == source and self._store.exists(key):  # it is the flow's
                continue
            self._written.append(key)
            self._store.write(key, data)
            if self._store.read(key) != data:
                raise DeploymentError(f"{self._store.uri(key)} has another content than was written.")

    def build(self) -> None:
        sha256 = sha256_of(self._source)
        self.image = build_image(self.settings, self._store.object_name(source_key(sha256)), sha256)

    def deploy_first(self) -> None:
        self.first = self._deploy("1", self._model.sha256)

    def _deploy(self, version: str, bundle_sha256: str) -> Revision:
        described = model_environment(
            uri=self._store.uri(bundle_key(self._model.sha256)),
            sha256=bundle_sha256,
            version=version,
            dataset_date="2026-01-01",
            collection="trial",
        )
        environment = described | settings_environment(self.settings)
        source = self._store.uri(source_key(self.image.source_sha256))
        return self._cloud_run.deploy_candidate(self.image, environment, source)

    def check_not_live(self) -> None:
        if self._cloud_run.live():
            raise DeploymentError("A revision counts as live although it was not checked.")

    def check_private(self) -> None:
        deadline = time.monotonic() + STARTUP_SECONDS
        while (response := self._response_without_token()) not in ("401", "403"):
            # Google's front end knows a new address only after a while.
            if (response.isdecimal() and response != "404") or time.monotonic() > deadline:
                raise DeploymentError(f"A call without a token is not refused. The response is {response}.")
            time.sleep(_PAUSE_SECONDS)

    def _response_without_token(self) -> str:
        """The status of the response, or the name of the error if there is none."""
        try:
            url, seconds = f"{self.first.url}/model", self.settings.service_timeout_seconds
            return str(requests.get(url, timeout=seconds).status_code)
        except requests.RequestException as error:
            return type(error).__name__

    def check_first(self) -> None:
        self._check(str(self.first.url), "1")

    def _check(self, url: str, version: str) -> None:
        """Compare the prediction of the function at `url` with the bundle's, and its version with `version`."""
        response = request_prediction(url, _POSTER, self.settings.caller_service_account)
        found = response["model"]["version"]
        if found != version:
            raise DeploymentError(f"{url} serves version {found}, not version {version}.")
        [expected] = self._model.predict([self._poster])
        if abs(response["genres"][0]["probability"] - expected[0].probability) > TOLERANCE:
            raise DeploymentError(f"The prediction of {url} differs from that of the same model here.")

    def send_traffic(self) -> None:
        self._send(self.first, "1")

    def _send(self, revision: Revision, version: str) -> None:
        live = self._cloud_run.send_traffic(revision.name)
        self._check(str(live.url), version)

    def check_second(self) -> None:
        self.second = self._deploy("2", self._model.sha256)
        self._check(str(self.second.url), "2")
        self._check(str(self._cloud_run.url()), "1")

    def check_rollback(self) -> None:
        self._send(self.second, "2")
        self._send(self.first, "1")

    def check_broken(self) -> None:
        try:
            self._deploy("3", "0" * 64)
        except DeploymentError:
            self._check(str(self._cloud_run.url()), "1")
        else:
            raise DeploymentError("A revision became ready although its model cannot be loaded.")

    def delete_service(self) -> None:
        self._cloud_run.delete()
        if self._cloud_run.url():
            raise DeploymentError(f"The service {self.settings.service} still exists.")

    def delete_objects(self) -> None:
        for key in self._written:
            self._store.delete(key)


def _tiny_bundle() -> dict[str, bytes]:
    """The files of a bundle whose only genre is the mean of the red channel."""
    constants = {"axes": np.array([2, 3]), "full": np.array(255, np.float32), "red": np.array([0])}
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gather", ["mean", "red"], ["first"], axis=1),
        helper.make_node("Div", ["first", "full"], [OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean of red",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", 3, _SIZE, _SIZE])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    network = onnx.ModelProto.SerializeToString(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    )
    manifest = {
        "format": FORMAT,
        "genres": [{"id": None, "name": "Red", "threshold": 0.5}],
        "preprocessing": {"size": _SIZE, "mean": [0] * 3, "std": [1] * 3, "resize": RESIZE, "version": 1},
        "network": {"name": "trial", "backbone": None, "weights_sha256": None, "parameters": {}},
        "dataset_key": "0" * 64,
        "served": {"file": MODEL, "precision": "fp32", "reason": "It is the only one."},
        "explains": False,
        "files": {MODEL: sha256_of(network)},
    }
    return {MODEL: network, MANIFEST: json.dumps(manifest, sort_keys=True).encode()}
