"""The command line of `ml` without an orchestrator: `python -m ml train --help`, `python -m ml predict --help`."""

import argparse
import sys
from collections.abc import Sequence

from ml.commands import add_compare, add_predict, add_train
from serving.bundle.errors import AnimeGenreError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m ml", description="Predict the genres of an anime from its poster.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands.add_parser("train", help="train on a table and a folder of posters"))
    add_compare(
        commands.add_parser("compare", help="compare the networks with the standard recipe by cross-validation")
    )
    add_predict(commands.add_parser("predict", help="predict the genres of posters with a trained model"))
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except AnimeGenreError as error:
        print(f"Error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except OSError as error:  # for example a full disk or a read-only folder
        where = f" ({error.filename})" if error.filename else ""
        print(f"Error: {error.strerror or error}{where}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
