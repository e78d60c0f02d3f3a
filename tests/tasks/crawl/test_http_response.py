"""The wait in a response's Retry-After header."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from multidict import CIMultiDict

from tasks.crawl.http_response import Response

WEEK = 7 * 86_400


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("1764000000000", WEEK),
        ("Tue, 24 Nov 2099 10:00:00 GMT", WEEK),
        ("Tue, 24 Nov 2015 10:00:00 GMT", 0),
        ("Tue, 24 Nov 2099 10:00:00 -0000", None),  # without a time zone
        ("-5", None),
        ("soon", None),
    ],
)
def test_retry_after_is_in_seconds_or_a_date_and_at_most_a_week(header: str, seconds: float | None) -> None:
    headers = CIMultiDict({"retry-after": header})
    response = Response("http://a.test/", 503, "Busy", headers, b"", requested_at=0, is_conditional=False)
    assert response.retry_after_seconds == seconds


def test_retry_after_of_a_date_counts_from_now() -> None:
    headers = CIMultiDict({"retry-after": format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)})
    response = Response("http://a.test/", 503, "Busy", headers, b"", requested_at=0, is_conditional=False)
    assert response.retry_after_seconds == pytest.approx(7200, abs=300)
