"""The command line of `ml` without an orchestrator: `python -m ml train --help`, `python -m ml predict --help`."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 on success, 130 after Ctrl-C."""
    stopped = False

    def stop(signal_number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, stop)
    code = 0
    try:
        code = _run(arguments)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        # If Ctrl-C was pressed, it is its consequence: for example, an interrupted import may raise ImportError.
        if not stopped:
            code = _explain(error)
    finally:
        signal.signal(signal.SIGINT, previous)
    if stopped:
        print("Stopped.", file=sys.stderr)
        return 130
    return code


def _run(arguments: Sequence[str] | None) -> int:
    # Imported here, so that Ctrl-C during the imports prints no traceback.
    import argparse

    from ml.commands import add_compare, add_predict, add_train

    parser = argparse.ArgumentParser(prog="python -m ml", description="Predict the genres of an anime from its poster.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands.add_parser("train", help="train on a table and a folder of posters"))
    add_compare(
        commands.add_parser("compare", help="compare the networks with the standard recipe by cross-validation")
    )
    add_predict(commands.add_parser("predict", help="predict the genres of posters with a trained model"))
    options = parser.parse_args(arguments)
    return int(options.run(options))


def _explain(error: Exception) -> int:
    """Print an expected error as a sentence and return the exit code. Unexpected ones are raised again."""
    from serving.bundle.errors import AnimeGenreError

    if isinstance(error, AnimeGenreError):
        print(f"Error: {error}", file=sys.stderr)
    elif isinstance(error, OSError):  # for example a full disk or a read-only folder
        where = f" ({error.filename})" if error.filename else ""
        print(f"Error: {error.strerror or error}{where}.", file=sys.stderr)
    else:
        raise error
    return 1


if __name__ == "__main__":
    sys.exit(main())
