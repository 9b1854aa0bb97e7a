"""Short pieces of text that messages are made of: lists cut short, counts with their nouns."""

from collections.abc import Sequence

NAMES_IN_A_MESSAGE = 5


def join_names(names: Sequence[str], most: int = NAMES_IN_A_MESSAGE, total: int | None = None) -> str:
    """Join the first `most` names with commas, then "and N more".

    `total` is the number of all names where `names` holds only the first of them.
    """
    remaining = (len(names) if total is None else total) - min(len(names), most)
    return ", ".join(names[:most]) + (f" and {remaining:,} more" if remaining > 0 else "")


def pluralize(count: int, noun: str) -> str:
    """Format a count with its noun: "1 shard", "1,282 shards"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
