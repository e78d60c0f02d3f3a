"""The wait in a response's Retry-After header."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from multidict import CIMultiDict

from tasks.crawl.http_response import Response

WEEK = 7 * 86_400
SOON = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("1764000000000", WEEK),
        (SOON, 7200),
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
    assert response.retry_after_seconds == (None if seconds is None else pytest.approx(seconds, abs=300))
