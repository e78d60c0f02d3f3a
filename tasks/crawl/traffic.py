"""Counts of a crawl's requests and their outcomes, for its progress and its final table."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """The counts for one kind of item (`what`, such as "Pages"): `done` of `total` items are done.

    `outcomes` counts the results ("new", "unchanged", "missing", ...), `reasons` counts why items have no file, and
    `retries` counts why requests were repeated. `held_seconds` is how long hosts asked us to wait.
    """

    what: str
    total: int = 0
    done: int = 0
    requests: int = 0
    held_seconds: float = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def expect(self, total: int) -> None:
        """Start with this many items to request."""
        self.total, self.done, self.began = total, 0, time.monotonic()

    def settle(self, outcome: str, reason: str | None = None) -> None:
        """Count the outcome of a requested item."""
        self.done += 1
        self.note(outcome, reason)

    def note(self, outcome: str, reason: str | None = None) -> None:
        """Count only an outcome: the item needed no request, or it is done already."""
        self.outcomes[outcome] += 1
        if reason:
            self.reasons[outcome, reason] += 1

    @property
    def per_second(self) -> float:
        """Items done per second, waits included."""
        seconds = time.monotonic() - self.began
        return self.done / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The remaining time at this rate; None before the first item is done."""
        return (self.total - self.done) / self.per_second if self.done and self.per_second else None

    def sentence(self) -> str:
        """The progress in one line."""
        parts = [f"{self.per_second:.1f} per second"]
        if self.held_seconds >= 1:
            parts.append(f"asked to wait {self.held_seconds:.0f} s")
        if self.retries:
            parts.append(f"{self.retries.total()} retried")
        if self.seconds_left is not None and self.done < self.total:
            parts.append(f"{duration(self.seconds_left)} left")
        return f"{self.what}: {self.done} of {self.total} ({', '.join(parts)})"

    def rows(self) -> list[dict[str, str | int]]:
        """The final table: each outcome with its count and reason."""
        rows: list[dict[str, str | int]] = [self._row("requested", self.requests, "")]
        for outcome, count in sorted(self.outcomes.items()):
            reasons = {reason: n for (which, reason), n in self.reasons.most_common() if which == outcome}
            rows += [self._row(outcome, n, reason) for reason, n in reasons.items()]
            if without_reason := count - sum(reasons.values()):
                rows.append(self._row(outcome, without_reason, ""))
        return rows + [self._row("retried", n, reason) for reason, n in self.retries.most_common()]

    def _row(self, outcome: str, count: int, reason: str) -> dict[str, str | int]:
        return {"what": self.what, "outcome": outcome, "count": count, "reason": reason}


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
