"""What a crawl has asked and got so far, as counts; progress and the table at its end are made of them."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """One kind of thing (`what`, such as "Season pages") that is asked for: so many of `total` are `done`.

    `outcomes` counts what came of them ("new", "unchanged", "missing", ...), `reasons` why there is nothing of
    some, `retries` why requests were made once more. `held_seconds` is how long hosts asked to be left alone.
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
        """Begin with so many to ask for; what needs no request is not counted among them."""
        self.total, self.done, self.began = total, 0, time.monotonic()

    def settle(self, outcome: str, reason: str | None = None) -> None:
        """One of them is done."""
        self.done += 1
        self.note(outcome, reason)

    def note(self, outcome: str, reason: str | None = None) -> None:
        """Count an outcome for which nothing was asked."""
        self.outcomes[outcome] += 1
        if reason:
            self.reasons[outcome, reason] += 1

    @property
    def per_second(self) -> float:
        """Things done a second, waits included."""
        seconds = time.monotonic() - self.began
        return self.done / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None before there is one."""
        return (self.total - self.done) / self.per_second if self.done and self.per_second else None

    def sentence(self) -> str:
        """How far it is."""
        parts = [f"{self.per_second:.1f} a second"]
        if self.held_seconds >= 1:
            parts.append(f"asked to wait {self.held_seconds:.0f} s")
        if self.retries:
            parts.append(f"{self.retries.total()} tried again")
        if self.seconds_left is not None and self.done < self.total:
            parts.append(f"{_duration(self.seconds_left)} left")
        return f"{self.what}: {self.done} of {self.total} ({', '.join(parts)})"

    def rows(self) -> list[dict[str, str | int]]:
        """The table at the end: what, how many, and why."""
        rows: list[dict[str, str | int]] = [self._row("requested", self.requests, "")]
        for outcome, count in sorted(self.outcomes.items()):
            reasons = {reason: n for (which, reason), n in self.reasons.most_common() if which == outcome}
            rows += [self._row(outcome, n, reason) for reason, n in reasons.items()]
            if without_reason := count - sum(reasons.values()):
                rows.append(self._row(outcome, without_reason, ""))
        return rows + [self._row("tried again", n, reason) for reason, n in self.retries.most_common()]

    def _row(self, outcome: str, count: int, reason: str) -> dict[str, str | int]:
        return {"what": self.what, "outcome": outcome, "count": count, "reason": reason}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
