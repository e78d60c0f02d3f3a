"""The messages of the project's errors and log: records them, and finds those that are too long for a person."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MAX_CHARACTERS = 300
MAX_SENTENCES = 2

_LOGGERS = {"flows", "tasks", "ml", "infra", "serving"}
_QUOTED = re.compile(r"""(?<!\w)(["'`])(?:(?!\1(?!\w)).)*\1(?!\w)""")  # not the apostrophes of "page's" and "pages'"
_ABBREVIATION = r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bDr)(?<!\bNo)"
# Dots in file names, versions, numbers and addresses are not followed by a blank.
_SENTENCE_END = re.compile(_ABBREVIATION + r"[.?!]+[)\]]*(?=\s|$)")


@contextmanager
def record_messages(*classes: type[Exception]) -> Iterator[list[tuple[str, str]]]:
    """Record the class name and the message of each error of these classes that is created in the block."""
    messages: list[tuple[str, str]] = []
    originals = {each: each.__init__ for each in classes}

    def recording(original: Any) -> Any:
        def __init__(self: Exception, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            messages.append((type(self).__name__, self.args[0]))

        return __init__

    for each, original in originals.items():
        each.__init__ = recording(original)  # type: ignore[method-assign]
    try:
        yield messages
    finally:
        for each, original in originals.items():
            each.__init__ = original  # type: ignore[method-assign]


def faults_of_message(message: str) -> list[str]:
    """What makes a message unsuitable for a person, an empty list if nothing does."""
    faults = []
    if len(message) > MAX_CHARACTERS:
        faults.append(f"has {len(message)} characters")
    if (sentences := count_sentences(message)) > MAX_SENTENCES:
        faults.append(f"has {sentences} sentences")
    if "\n" in message:
        faults.append("has several lines")
    if not re.search(r"[.?!][)\]]*$", message):
        faults.append("does not end like a sentence")
    return faults


def count_sentences(text: str) -> int:
    """The number of sentences in a text. Quoted text is part of the sentence around it."""
    return len(_SENTENCE_END.findall(_QUOTED.sub("quoted", text)))


def project_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the project logged in this test.

    Libraries with threads, such as Dask's client, also log what the tests before it left to them.
    """
    return [record.getMessage() for record in caplog.records if record.name.partition(".")[0] in _LOGGERS]
