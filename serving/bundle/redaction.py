"""Removes credentials from texts that people or files get: messages, log entries, links and artifacts."""

import logging
import re
from typing import Any

_USER = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")
_SECRET = re.compile(
    r"(?i)([?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid|signature|sig|"
    r"(?:access[_-]?|auth[_-]?)?token|(?:api[_-]?)?key|(?:client[_-]?)?secret|password|pwd|passwd)=)[^&\s#\"'<>]+"
)


def redacted(text: str) -> str:
    """The text without the credentials of addresses: "user:password@", and the signatures and tokens of queries."""
    if "://" not in text and "=" not in text:
        return text
    return _SECRET.sub(r"\1***", _USER.sub("", text))


def redact_logs() -> None:
    """Remove credentials from all later log entries of this process, and from the tracebacks in them."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments do not fit the message; logging reports that
            return record
        if (clean := redacted(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)
