"""What MLflow shows about a version."""

from dataclasses import replace

import pytest
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

from flows.trial import _tiny_bundle
from serving.bundle.model import MANIFEST, GenreThreshold, Manifest
from tasks.register import _description

pytestmark = pytest.mark.stack


@pytest.mark.parametrize(("number", "listed"), [(2, "genre 000, genre 001"), (400, "genre 362, … and 37 more")])
def test_description_of_a_version_fits_into_the_database_of_mlflow(number: int, listed: str) -> None:
    genres = tuple(GenreThreshold(None, f"genre {place:03}", 0.5) for place in range(number))
    manifest = replace(Manifest.parse(_tiny_bundle()[MANIFEST]), genres=genres)
    tags = {"bundle_sha256": "b" * 64, "dataset_key": "d" * 64, "collection": "films"}
    text = _description(manifest, tags)
    assert text.splitlines()[3].endswith(listed)
    assert len(text) <= SqlModelVersion.__table__.c.description.type.length
