"""Live models on later titles, with the real bucket: figures, reuse, and models that cannot be scored."""

import json
import shutil
from dataclasses import replace
from datetime import date

import pytest

from flows.parameters import RetrainParameters
from flows.summary import run_retrain
from infra.local.stack import Stack
from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from ml.evaluation.scoreboard import ENOUGH_TITLES
from serving.bundle.files import sha256_of
from tasks.catalogue.catalogue_table import fetch_catalogue
from tasks.champion import Champion, live_champion
from tasks.deployments import write_deployment
from tasks.preprocess import fetch_dataset, strong_relations
from tasks.scoreboard import score_live_models
from tasks.source_choice import source_for

pytestmark = pytest.mark.stack


def test_live_models_are_scored_on_titles_that_came_after_their_training(
    stack: Stack, parameters: RetrainParameters
) -> None:
    """The champion is a copy of the run's model, whose dataset had the first 20 titles. The predecessor is lost."""
    record, settings = run_retrain(parameters).record, read_settings()
    store, registry = Store(settings), Registry(settings)
    live = live_champion(settings, registry)
    data = fetch_dataset(store, settings.folder, record.dataset.dataset_key)
    early = "early" * 8
    rows = store.read(f"datasets/{data.key}/rows.csv").split(b"\r\n")
    store.write(f"datasets/{early}/rows.csv", b"\r\n".join([*rows[:21], b""]))
    bundle = f"bundles/{record.training.bundle_sha256}"
    manifest = json.dumps({**json.loads(store.read(f"{bundle}/manifest.json")), "dataset_key": early}).encode()
    sha256, lost = sha256_of(manifest), "0" * 64
    for key in store.keys(f"{bundle}/"):
        store.write(key.replace(bundle, f"bundles/{sha256}"), store.read(key))
    store.write(f"bundles/{sha256}/manifest.json", manifest)
    other = record.model.model_copy(update={"version": "7", "bundle_sha256": sha256})
    gone = record.model.model_copy(update={"version": "6", "bundle_sha256": lost})
    for model in (other, gone):
        write_deployment(store, None, record.dataset, record.evaluation, model)
    champion = replace(live, version="7", bundle_sha256=sha256)

    titles = fetch_catalogue(store, settings.folder, record.catalogue.key)
    related = strong_relations(titles, source_for(record.catalogue.site_url))
    today = date.fromisoformat(record.catalogue.snapshot_date)

    def scored(champion: Champion = champion) -> list:
        return score_live_models(champion, data, titles, related, today, Store(settings), registry, settings)

    try:
        first, *predecessors = scored()
        assert first.bundle_sha256 == sha256
        assert ENOUGH_TITLES <= first.scoreboard.titles <= len(data.ids) - 20
        assert f"version 7 ({sha256[:8]}): {first.scoreboard.titles} titles came after its training." in first.sentence
        sentences = {each.bundle_sha256: each.sentence for each in predecessors}
        assert "version 6 (00000000) cannot be scored on later titles" in sentences[lost]
        (itself, *_) = scored(live)
        assert itself.sentence.endswith("0 titles came after its training. 30 are needed to score it.")

        deployment = json.loads(store.read(f"deployments/{sha256}.json"))
        outcome = deployment["later"]["scoreboard"]["overall"]
        assert outcome["micro_f1"] == first.scoreboard.overall.micro_f1
        assert deployment["version"] == "7", "the rest of the record stays"

        store.delete(f"bundles/{sha256}/model.onnx")
        shutil.rmtree(settings.folder / "bundles" / sha256)
        assert scored() == [first, *predecessors], "the same titles are not predicted again"
        write_deployment(store, live.revision, record.dataset, record.evaluation, other)
        assert json.loads(store.read(f"deployments/{sha256}.json"))["later"] == deployment["later"]
    finally:
        for key in (f"deployments/{sha256}.json", f"deployments/{lost}.json", f"datasets/{early}/rows.csv"):
            store.delete(key)
