"""What commands print while they work."""

import logging


def log_to_terminal(*packages: str) -> None:
    """Print what these packages log, and the warnings of all others."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in packages:
        logging.getLogger(name).setLevel(logging.INFO)
