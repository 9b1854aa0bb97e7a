"""Verification of the committed shards of a data set against their plans, records and index, and the shard format."""

import functools
import itertools
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from common.manifest import Plan, ShardEntry, ShardRecord, record_name, shard_name
from common.shards import SampleInfo, read_sample_members
from common.sources.listing import class_folder
from common.storage import open_storage
from common.text import pluralize
from labeler.inspection.reader import hash_file, open_for_two_passes
from labeler.planning.generations import read_plans
from labeler.planning.listing import ListingReader, PlannedImage
from labeler.verification.verify_index import IndexChecker
from labeler.verification.verify_sample import SampleRules, find_header_problems, find_sample_problems

MAX_PROBLEMS_PER_CHECK = 5  # a badly damaged shard would otherwise fill the screen


class PlannedShardChecker:
    """Checker of the shards of one data set, which reads the plans and opens the listings only once."""

    def __init__(self, dataset: str) -> None:
        self.storage = open_storage(dataset)
        self._index = IndexChecker(self.storage)

    @functools.cached_property
    def listings(self) -> list[ListingReader]:
        """Readers of the listings of all generations."""
        return [ListingReader(self.storage, plan) for plan in read_plans(self.storage)]

    def find_problems(self, shard: ShardEntry) -> list[str]:
        """Return the problems of a shard that has a record."""
        places = ((listing, number) for listing in self.listings for number in listing.plan.shard_indices)
        listing, number = next(place for place in places if shard_name(place[1]) == shard.name)
        record = ShardRecord.model_validate_json(self.storage.read(record_name(number)))
        with open_for_two_passes(self.storage, shard.name, shard.bytes) as file:
            problems = list(find_checksum_problems(file, shard, "its record"))
            file.seek(0)
            content_problems = _find_content_problems(file, listing.plan, record, listing.shard(number))
            problems += itertools.islice(content_problems, MAX_PROBLEMS_PER_CHECK)
            return problems or self._index.find_problems(shard.name, file)


def find_checksum_problems(file: BinaryIO, shard: ShardEntry, stated_in: str) -> Iterator[str]:
    """Compare size and checksum of a shard with those that `stated_in` states."""
    digest, size = hash_file(file)
    if size != shard.bytes:
        yield f"{size} bytes, {stated_in} says {shard.bytes}"
    if digest != shard.sha256:
        yield f"its checksum is not the one in {stated_in}"


def _find_content_problems(
    file: BinaryIO, plan: Plan, record: ShardRecord, images: list[PlannedImage]
) -> Iterator[str]:
    """Compare the samples of a shard with the images planned for it, except those that its record lists as failed."""
    failed = {failure.key for failure in record.failed}
    expected = [image for image in images if image.key not in failed]
    if unplanned := failed - {image.key for image in images}:
        yield f"its record lists failed images that are not planned for it, {min(unplanned)} among them"
    if record.samples != len(expected):
        yield f"its record counts {pluralize(record.samples, 'sample')}, its plan and failures leave {len(expected)}"
    count, rules = 0, SampleRules.from_plan(plan)
    try:
        for key, headers, members in read_shard_samples(file):
            yield from find_header_problems(headers)
            if count >= len(expected) or key != expected[count].key:
                planned = f"sample {expected[count].key}" if count < len(expected) else "the end of the shard"
                yield f"found sample {key} where {planned} is planned"
                return
            compare = functools.partial(_find_differences, class_index=members.get("cls"), image=expected[count])
            for problem in find_sample_problems(members, rules, compare):
                yield f"sample {key}: {problem}"
            count += 1
    except tarfile.TarError as error:
        yield f"not an intact tar file: {error}"
    if count != len(expected):
        yield f"{pluralize(count, 'sample')}, expected {len(expected)}"


def read_shard_samples(file: BinaryIO) -> Iterator[tuple[str, list[tarfile.TarInfo], dict[str, bytes]]]:
    """Yield the key of each sample of a shard, its tar headers, and its files by extension."""
    for key, sample in read_sample_members(file):
        contents = {header.name.partition(".")[2]: content for header, content in sample}
        yield key, [header for header, _ in sample], contents


def _find_differences(info: SampleInfo, class_index: bytes | None, image: PlannedImage) -> Iterator[str]:
    if (info.source, info.wnid) != (image.ref.uri, class_folder(image.ref.uri) or ""):
        yield f"made from {info.source}, planned from {image.ref.uri}"
    if class_index is not None and class_index != str(image.class_index).encode():
        yield f"class {class_index!r}, planned {image.class_index}"
