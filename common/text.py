"""Building blocks of messages: shortened lists of names, counts with their nouns, durations; sizes that users write."""

import re
from collections.abc import Sequence

MAX_NAMES = 5  # default number of names that a message lists
SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)B?", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def join_names(names: Sequence[str], most: int = MAX_NAMES, total: int | None = None) -> str:
    """Join the first `most` names with commas, followed by "and N more" if there are others.

    `total` is the number of all names, for callers whose `names` holds only the first ones.
    """
    remaining = (len(names) if total is None else total) - min(len(names), most)
    return ", ".join(names[:most]) + (f" and {remaining:,} more" if remaining > 0 else "")


def pluralize(count: int, noun: str) -> str:
    """Format a count with its noun: "1 shard", "1,282 shards"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def format_bytes(number: int) -> str:
    """Format a number of bytes: "7 bytes", "1.5 MB", "140 GB"."""
    unit = next((unit for unit in reversed(UNITS) if number >= UNITS[unit]), "")
    return f"{number / UNITS[unit]:.3g} {unit}B" if unit else pluralize(number, "byte")


def format_duration(seconds: float) -> str:
    """Format a duration with its largest unit, and hours and days with the next one: "40 s", "12 min", "3 h 20 min"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 24 else f"{hours // 24:,} d {hours % 24} h"


def parse_bytes(text: str) -> int:
    """Parse a number of bytes such as "200GB", "1.5 TB" or "1000". Raises ValueError."""
    if not (match := SIZE.fullmatch(text.strip())):
        raise ValueError("expected a size such as 200GB")
    return int(float(match["number"]) * UNITS[match["unit"].upper()])
