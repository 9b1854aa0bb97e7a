"""Comparison of the samples that one shard has in common with another labeling, in a process of its own."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from common.errors import UserError, describe_error
from common.parallel import in_order
from common.shards import Sample
from labeler.comparison.figures import FIGURES, score_pairs
from labeler.comparison.labeling import LabelingFiles
from labeler.comparison.sample_reader import SampleReader

REMOTE_READ_THREADS = 8  # a request to S3 takes longer than decoding a map; local files are faster with one thread
READ_AHEAD = 32  # pairs
PAIRS_PER_BATCH = 4  # larger batches do not fit into the processor's cache and take twice the time per pair

Problem = tuple[str, str]  # path of a shard, and what is wrong with it


class UnreadablePair(NamedTuple):
    """A pair of which a sample cannot be read."""

    problem: Problem


class PairReader:
    """Reader of pairs of samples. Threads may share it."""

    def __init__(self, a: LabelingFiles, b: LabelingFiles) -> None:
        self._readers = SampleReader(a), SampleReader(b)
        self.threads = REMOTE_READ_THREADS if "://" in a.location + b.location else 1

    def read(self, rows: tuple[np.void, np.void], with_image: bool = False) -> tuple[Sample, Sample] | UnreadablePair:
        """Read the samples of two rows."""
        samples = []
        for reader, row in zip(self._readers, rows, strict=True):
            try:
                samples.append(reader.read(row, with_image))
            except (OSError, ValueError, UserError) as error:
                shard = f"{reader.files.location.rstrip('/')}/{reader.files.shards[row['shard']]}"
                return UnreadablePair((shard, describe_error(error)))
        return samples[0], samples[1]


class ShardComparison(NamedTuple):
    """The `FIGURES` of pairs, float64 [pairs, figures], NaN for pairs that cannot be read; and their problems."""

    figures: np.ndarray
    problems: list[Problem]


_reader: PairReader  # one per process


def initialize(a: LabelingFiles, b: LabelingFiles) -> None:
    """Create the reader of this process."""
    global _reader
    _reader = PairReader(a, b)


def compare_rows(a: np.ndarray, b: np.ndarray) -> ShardComparison:
    """Compare the samples of rows of A with those of the same number of rows of B. Only one batch is in memory."""
    figures, problems = np.full((len(a), len(FIGURES)), np.nan), list[Problem]()
    with ThreadPoolExecutor(_reader.threads) as pool:
        pairs = enumerate(in_order(pool, _reader.read, zip(a, b, strict=True), READ_AHEAD))
        while batch := list(itertools.islice(pairs, PAIRS_PER_BATCH)):
            problems += [pair.problem for _, pair in batch if isinstance(pair, UnreadablePair)]
            readable = [(index, pair) for index, pair in batch if not isinstance(pair, UnreadablePair)]
            if readable:
                figures[[index for index, _ in readable]] = score_pairs([pair for _, pair in readable])
    return ShardComparison(figures, problems)
