"""A version of the registered model as MLflow loads it, such as `models:/anime-genre@champion`.

MLflow runs a copy of this file ("models from code"), so it imports nothing of this project. Its artifacts are the
bundle, and beside them is the code of `serving.bundle` under a name that no package of a checkout has.
"""

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel


class Genre(BaseModel):
    """The prediction of one genre, as the function returns it."""

    id: int | None = None
    name: str
    probability: float
    threshold: float
    predicted: bool


class PosterPrediction(BaseModel):
    """The genres of one poster, most probable first."""

    genres: list[Genre]


class RegisteredModel(PythonModel):
    """Predicts genres from the bytes of poster files: `predict([Path("poster.jpg").read_bytes()])`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle and check its hashes."""
        code: Any = importlib.import_module("anime_genre_bundle.model")
        self._model = code.Model.load(Path(context.artifacts["bundle"]))

    # MLflow makes the model's signature of these types, and has other calls without `context`.
    def predict(self, model_input: list[bytes]) -> list[PosterPrediction]:  # type: ignore[override]
        """One dict per poster, in the form of `PosterPrediction`. An unusable image raises PosterError."""
        return [
            {"genres": sorted(map(asdict, genres), key=lambda genre: -genre["probability"])}  # type: ignore[misc]
            for genres in self._model.predict(model_input)
        ]


mlflow.models.set_model(RegisteredModel())
