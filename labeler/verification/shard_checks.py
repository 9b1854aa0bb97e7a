"""Checks of many shards in parallel: all or a random part of them, and none again that was found intact before."""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from common.errors import UserError, describe_error
from common.manifest import ShardEntry, sha256
from common.parallel import in_processes
from common.storage import ReadableStorage
from common.text import pluralize
from labeler.verification.verified_shards import VerifiedShards


class CheckSettings(NamedTuple):
    """Which shards are checked."""

    sample: float = 1.0  # fraction of the shards whose content is checked, drawn at random
    seed: int = 0  # of the draw
    verified: VerifiedShards | None = None  # shards that are not checked again


EVERYTHING = CheckSettings()


def new_report() -> dict[str, Any]:
    """Return the report of a data set of which nothing has been found yet, to be filled in."""
    return {"ok": False, "complete": False, "shards": 0, "samples": 0, "failures": 0, "problems": []}


class ShardChecker(Protocol):
    """Checks the content of the shards of one data set. Every process has its own one."""

    @property
    def storage(self) -> ReadableStorage:
        """The data set."""
        ...

    def find_problems(self, shard: ShardEntry) -> list[str]:
        """Return the problems of a shard, without its name. Raises FileNotFoundError, UserError or OSError."""
        ...


class Verdict(NamedTuple):
    """Result of checking a shard. `checksum` identifies what was found intact; None if it cannot be recognized."""

    problems: list[str]
    checksum: str | None = None
    resumed: bool = False


class Checks(NamedTuple):
    """Result of checking the shards of a data set."""

    problems: list[str]
    checked: dict[str, Any]  # how many shards and samples, which share, and how many of the shards by an earlier run
    unchecked: list[str]  # sentences

    def describe_coverage(self, unchecked: list[str]) -> dict[str, Any]:
        """Return the entries of the report that say what was checked, none if this run has checked everything.

        `unchecked` describes what was not checked apart from the shards.
        """
        sentences = self.unchecked + unchecked
        return {"checked": self.checked, "unchecked": sentences} if sentences or self.checked["resumed"] else {}


def check_shards(
    make_checker: Callable[[], ShardChecker],
    shards: Sequence[ShardEntry],
    basis: str,
    workers: int | None,
    settings: CheckSettings,
) -> Checks:
    """Check shards: the content of those that are drawn, and only the size of the others.

    Args:
        make_checker: makes the checker of a process; picklable.
        shards: the shards with the sizes and checksums that they should have.
        basis: text that changes whenever shards that were found intact have to be checked again.
        workers: number of processes, by default one per CPU core.
        settings: which shards to check.
    """
    drawn = draw_shards(len(shards), settings.sample, settings.seed)
    known = settings.verified.checksums if settings.verified else {}
    verdicts = in_processes(
        check_shard,
        shards,
        [index in drawn for index in range(len(shards))],
        [known.get(shard.name) for shard in shards],
        processes=workers,
        unit="shards",
        start=functools.partial(_initialize, make_checker, basis),
    )
    problems, resumed, verified = list[str](), 0, settings.verified
    for index, (shard, verdict) in enumerate(zip(shards, verdicts, strict=True)):
        problems += [f"{shard.name}: {problem}" for problem in verdict.problems]
        resumed += verdict.resumed
        if verified and index in drawn and verdict.checksum and not (verdict.problems or verdict.resumed):
            verified = _note(verified, shard, verdict.checksum)
    checked = {
        "shards": len(drawn),
        "samples": sum(shards[index].samples for index in drawn),
        "share": len(drawn) / len(shards) if shards else 1.0,
        "resumed": resumed,
    }
    return Checks(problems, checked, _describe_rest(len(shards), len(drawn), settings))


def draw_shards(shards: int, sample: float, seed: int) -> set[int]:
    """Draw a fraction of the shards, rounded up to a whole number, as indices. A larger fraction contains a smaller."""
    number = math.ceil(sample * shards - 1e-9)  # the tolerance is for products such as 0.07 * 100, slightly above 7
    return set(np.random.default_rng(seed).permutation(shards)[:number].tolist())


_checker: ShardChecker  # one per process
_basis: str


def _initialize(make_checker: Callable[[], ShardChecker], basis: str) -> None:
    global _checker, _basis
    _checker, _basis = make_checker(), basis


def check_shard(shard: ShardEntry, is_drawn: bool, known: str | None) -> Verdict:
    """Check a shard with this process's checker, unless its checksum of an earlier verification is still the same."""
    try:
        state = _checker.storage.stat(shard.name)
    except FileNotFoundError:
        return Verdict(["is missing"])
    except (OSError, UserError) as error:
        return Verdict([f"cannot be checked: {describe_error(error)}"])
    if not is_drawn:
        wrong = state.size != shard.bytes
        return Verdict([f"{state.size:,} bytes, expected {shard.bytes:,}"] if wrong else [])
    # the version from before the check: a shard that is replaced during it is checked again
    checksum = sha256(b"\0".join([_basis.encode(), shard.to_json(), state.version.encode()])) if state.version else None
    if checksum is not None and checksum == known:
        return Verdict([], checksum, resumed=True)
    try:
        return Verdict(_checker.find_problems(shard), checksum)
    except Exception as error:  # damaged files raise many types of exception
        return Verdict([f"cannot be checked: {describe_error(error)}"])


def _note(verified: VerifiedShards, shard: ShardEntry, checksum: str) -> VerifiedShards | None:
    """Add a shard to those that were found intact. Returns None, after a message, if the file cannot be written."""
    try:
        verified.add(shard.name, checksum)
    except OSError as error:
        print(f"this run cannot be resumed: {verified.path}: {error.strerror}; --state FILE", file=sys.stderr)
        return None
    return verified


def _describe_rest(shards: int, drawn: int, settings: CheckSettings) -> list[str]:
    """Describe what a random part of the shards leaves unchecked."""
    if drawn == shards:
        return []
    rest, fraction = pluralize(shards - drawn, "shard"), f"--sample {settings.sample:g} --seed {settings.seed}"
    return [f"the content of {rest} of {shards:,} ({fraction}), of which only presence and size were checked"]
