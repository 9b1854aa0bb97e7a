"""The section of the statistics about near-duplicates, and the files that go with it."""

import sys
from pathlib import Path
from typing import Any

from common.text import pluralize
from labeler.near_duplicates.dataset import HashedDataset, open_hashed_dataset
from labeler.near_duplicates.find import MatchedGroup, NearDuplicates, find_near_duplicates
from labeler.near_duplicates.groups_csv import write_groups
from labeler.near_duplicates.page import write_near_duplicates_page

MAX_LISTED_GROUPS = 1000


def report_near_duplicates(
    dataset: str, against: str | None, threads: int | None = None, page: Path | None = None, csv: Path | None = None
) -> dict[str, Any]:
    """Find near-duplicates in a data set, or those of its images in another one; write a page and a CSV file of them.

    Images that are not compared are counted in sentences on standard error. Returns JSON values. Raises UserError if a
    data set has no index with hashes that belongs to its shards, or if a file cannot be written.
    """
    first = open_hashed_dataset(dataset)
    second = None if against is None else open_hashed_dataset(against)
    for each in filter(None, (first, second)):
        _report_missing_hashes(each)
    found = find_near_duplicates(first, second, threads)
    if csv:
        write_groups(found, csv)
    elif len(found.groups) > MAX_LISTED_GROUPS:
        print(f"--csv FILE lists all groups of near-duplicates; only {MAX_LISTED_GROUPS:,} follow", file=sys.stderr)
    if page:
        write_near_duplicates_page(found, page)
    return summarize_near_duplicates(found) | {"page": page and str(page), "csv": csv and str(csv)}


def summarize_near_duplicates(found: NearDuplicates) -> dict[str, Any]:
    """Summarize near-duplicates, with the sources of the first `MAX_LISTED_GROUPS` groups, as JSON values."""
    dataset, *others = found.datasets
    return {
        "against": others[0].location if others else None,
        "compared": len(dataset.hashes),
        "compared_with": len(others[0].hashes) if others else None,
        "without_hash": sum(each.samples - len(each.hashes) for each in found.datasets),
        "max_distance": found.max_distance,
        "candidates": found.candidates,
        "confirmed_by_pixels": found.confirmed_by_pixels,
        "groups": len(found.groups),
        "images": sum(len(group.samples) for group in found.groups),
        "groups_across_classes": sum(map(_has_several_classes, found.groups)),
        "listed": [_list_sources(group, found) for group in found.groups[:MAX_LISTED_GROUPS]],
    }


def _report_missing_hashes(dataset: HashedDataset) -> None:
    if missing := dataset.samples - len(dataset.hashes):
        print(
            f"{dataset.location}: {pluralize(missing, 'image')} without a perceptual hash not compared: almost uniform "
            f"ones, and those labeled by an earlier version; python -m labeler.index {dataset.location} computes the "
            "latter if images are stored",
            file=sys.stderr,
        )
    if unpublished := dataset.find_unpublished_shards():
        print(
            f"{dataset.location}: {pluralize(len(unpublished), 'shard')} not compared, because the manifest does not "
            "have them yet; run the same labeling command again to publish them",
            file=sys.stderr,
        )


def _has_several_classes(group: MatchedGroup) -> bool:
    return len({sample.row["wnid"] for sample in group.samples}) > 1


def _list_sources(group: MatchedGroup, found: NearDuplicates) -> dict[str, list[str]]:
    """Return the sources of a group under `sources`, and those in the other data set under `against`."""
    names = ("sources", "against")[: len(found.datasets)]
    return {
        name: [sample.row["source"] for sample in group.samples if sample.dataset is dataset]
        for name, dataset in zip(names, found.datasets, strict=True)
    }
