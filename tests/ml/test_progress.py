import io
import time

from ml.progress import TerminalReporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_reporter_redraws_one_bar_per_step() -> None:
    stream = Terminal()
    reporter = TerminalReporter(stream)
    for what in ("decoding posters", "training scratch"):
        for done in range(101):
            reporter.progress(done, 100, what, "images")
    drawn = stream.getvalue()
    assert drawn.count("\n") == 2
    assert drawn.count("\r") < 20
    first, second, _ = drawn.split("\n")
    assert "decoding posters: 100%" in first
    assert "training scratch:   0%" in second
    assert second.rstrip().endswith(" images/s]")


def test_terminal_reporter_counts_the_rate_from_the_first_call() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    reporter.progress(900, 1000, "decoding posters", "images")
    time.sleep(0.1)
    reporter.progress(1000, 1000, "decoding posters", "images")
    rate = float(stream.getvalue().split("(")[1].split(" images/s")[0])
    assert 100 < rate <= 1000


def test_terminal_reporter_writes_plain_lines_to_a_file() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    for what in ("decoding posters", "training scratch"):
        for done in range(51):
            reporter.progress(done, 50, what)
    lines = stream.getvalue().splitlines()
    assert [line.split(" (")[0] for line in lines] == ["decoding posters: 50 of 50", "training scratch: 50 of 50"]
    assert lines[0].endswith(", 00:00 left)")
    assert "\r" not in stream.getvalue()


def test_terminal_reporter_completes_a_bar_whose_total_shrinks() -> None:
    stream = Terminal()
    reporter = TerminalReporter(stream)
    for done, total in ((0, 10), (5, 10), (6, 6)):
        reporter.progress(done, total, "training scratch", "images")
    assert "100%" in stream.getvalue() and "6/6" in stream.getvalue()


def test_terminal_reporter_restarts_the_bar_of_a_restarted_step() -> None:
    stream = Terminal()
    reporter = TerminalReporter(stream)
    for done in (0, 5, 0, 10):
        reporter.progress(done, 10, "decoding posters", "images")
    assert stream.getvalue().count("\n") == 2
