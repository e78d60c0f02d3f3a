"""Credentials are removed from messages and log entries."""

import logging

import pytest

from serving.bundle.errors import AnimeGenreError
from serving.bundle.redaction import redact_logs, redacted


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://user:pa@ss@host:5000/a@2x.jpg", "http://host:5000/a@2x.jpg"),
        ("see https://token@host, please", "see https://host, please"),
        ("postgresql://u:p@db/mlflow", "postgresql://db/mlflow"),
        (
            "GET /t.csv?a=1&X-Goog-Signature=abc&X-Amz-Credential=abc%2F1 failed",
            "GET /t.csv?a=1&X-Goog-Signature=***&X-Amz-Credential=*** failed",
        ),
        ("https://h/t.csv?sig=a&amp;token=b#c", "https://h/t.csv?sig=***&amp;token=***#c"),
        ("me@example.org wrote https://h/?q=a@b; monkey=1", "me@example.org wrote https://h/?q=a@b; monkey=1"),
    ],
)
def test_credentials_of_addresses_are_removed(text: str, clean: str) -> None:
    assert redacted(text) == clean
    error = AnimeGenreError(f"It failed: {text}.", details=text)
    assert (str(error), error.message) == (f"It failed: {clean}.\n{clean}", f"It failed: {clean}.")


def test_log_entries_and_their_tracebacks_have_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    try:
        redact_logs()
        once = logging.getLogRecordFactory()
        redact_logs()
        assert logging.getLogRecordFactory() is once
        logger = logging.getLogger("redaction")
        logger.warning("%s is slow", "http://user:hidden@host")
        try:
            raise ValueError("https://h/?token=hidden")
        except ValueError:
            logger.exception("It failed at %d %%", 50)
    finally:
        logging.setLogRecordFactory(before)
    assert "http://host is slow" in caplog.text and "ValueError: https://h/?token=***" in caplog.text
    assert "It failed at 50 %" in caplog.text and "hidden" not in caplog.text
