"""Numbers in sentences."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: `1 poster`, `2 posters`. The default plural ends in s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
