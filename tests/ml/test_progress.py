import io

from ml.progress import TerminalReporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_drawn_anew() -> None:
    stream = Terminal()
    reporter = TerminalReporter(stream)
    for done in range(1, 101):
        reporter.progress(done, 100, "decoding posters")
    drawn = stream.getvalue()
    assert drawn.count("\n") == 1
    assert drawn.endswith("100/100, 0 s left \x1b[K\n")
    assert "[" + "." * 30 + "]" in drawn
    assert drawn.count("\r") < 10


def test_a_file_gets_a_line_at_the_end_of_a_step_and_no_control_characters() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    for what in ("decoding posters", "training scratch"):
        for done in range(1, 51):
            reporter.progress(done, 50, what)
    assert stream.getvalue() == "decoding posters: 50 of 50, 0 s left\ntraining scratch: 50 of 50, 0 s left\n"
