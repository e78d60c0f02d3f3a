"""Asks the deployed function about a poster, and says in a sentence what is wrong where it cannot answer."""

from dataclasses import dataclass
from typing import Any

import requests

CONNECT_TIMEOUT_SECONDS = 10.0


class FunctionError(Exception):
    """The function gave no genres: an HTTP status, a code for programs, and one sentence for a person."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class GenreAnswer:
    """One genre as the function answers it; it is predicted where the probability reaches the threshold."""

    id: int | None
    name: str
    probability: float
    threshold: float
    predicted: bool


@dataclass(frozen=True)
class Answer:
    """The genres of a poster, most probable first, and the model that named them."""

    genres: list[GenreAnswer]
    version: str | None
    sha256: str
    dataset_date: str | None


def ask(function_url: str, poster: bytes, content_type: str, timeout_seconds: float) -> Answer:
    """Send a poster's bytes as they are and read the function's answer.

    A private function (https) is called with this service's own ID token.

    Raises:
        FunctionError: the function cannot be reached, is still waking, refuses the poster or this caller, or
            answers something else than genres.
    """
    headers = {"Content-Type": content_type, "Accept": "application/json"}
    if function_url.startswith("https:"):
        headers["Authorization"] = f"Bearer {_id_token(function_url)}"
    try:
        response = requests.post(
            function_url,
            data=poster,
            headers=headers,
            timeout=(CONNECT_TIMEOUT_SECONDS, timeout_seconds),
            allow_redirects=False,
        )
    except requests.Timeout as error:
        raise FunctionError(
            504,
            "timeout",
            "The function has not answered in time; it may still be waking up. Try again in a moment.",
        ) from error
    except requests.RequestException as error:
        raise FunctionError(
            503, "unreachable", "The function cannot be reached at the moment. Try again in a minute."
        ) from error
    return _read(response)


def _read(response: requests.Response) -> Answer:
    """The answer that a response holds; FunctionError where it holds none."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.status_code == 200:
        try:
            return _answer(body)
        except (TypeError, KeyError, ValueError) as error:
            raise FunctionError(
                502, "unreadable_answer", "The function answered something that is no list of genres."
            ) from error
    try:
        code, message = str(body["error"]["code"]), str(body["error"]["message"])
    except (TypeError, KeyError):
        raise _without_words(response.status_code) from None
    raise FunctionError(response.status_code, code, message)


def _answer(body: Any) -> Answer:
    genres = [
        GenreAnswer(
            id=None if genre["id"] is None else int(genre["id"]),
            name=str(genre["name"]),
            probability=float(genre["probability"]),
            threshold=float(genre["threshold"]),
            predicted=bool(genre["predicted"]),
        )
        for genre in body["genres"]
    ]
    model = body["model"]
    return Answer(
        genres=sorted(genres, key=lambda genre: -genre.probability),
        version=model["version"],
        sha256=str(model["sha256"]),
        dataset_date=model["dataset_date"],
    )


def _without_words(status: int) -> FunctionError:
    """What a status means that does not come from the function itself but from what stands before it."""
    if status == 404:
        return FunctionError(503, "no_model", "No model has been deployed yet. Come back after the first training.")
    if status in (401, 403):
        return FunctionError(
            502,
            "not_allowed",
            "The function refuses this page; its account needs the role Cloud Run Invoker.",
        )
    if status in (429, 500, 502, 503, 504):
        return FunctionError(
            503, "waking", "The function is waking up or busy, and did not answer. Try again in a moment."
        )
    return FunctionError(502, "unreadable_answer", f"The function answered with status {status} and no words.")


def _id_token(audience: str) -> str:
    """This service's ID token for a private Cloud Run function."""
    from google.auth import exceptions
    from google.auth.transport.requests import Request
    from google.oauth2 import id_token

    try:
        token: str = id_token.fetch_id_token(Request(), audience)
    except exceptions.GoogleAuthError as error:
        raise FunctionError(
            502,
            "no_identity",
            "This page has no Google identity with which it could call the private function.",
        ) from error
    return token
