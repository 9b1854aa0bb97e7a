"""Verification of a shard of a public copy against the manifest, the index and the shard format."""

import itertools
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from common.manifest import MANIFEST, Manifest, ShardEntry
from common.storage.http import HttpStorage
from common.text import pluralize
from labeler.inspection.reader import open_for_two_passes
from labeler.verification.verify_index import IndexChecker
from labeler.verification.verify_sample import SampleRules, find_header_problems, find_sample_problems
from labeler.verification.verify_shard import MAX_PROBLEMS_PER_CHECK, find_checksum_problems, read_shard_samples


class CopiedShardChecker:
    """Checker of the shards of one public copy."""

    def __init__(self, url: str, manifest: Manifest) -> None:
        self.storage = HttpStorage(url)
        self._manifest = manifest
        self._index = IndexChecker(self.storage)

    def find_problems(self, shard: ShardEntry) -> list[str]:
        """Return the problems of a shard. Its content is checked only if it has the right checksum."""
        with open_for_two_passes(self.storage, shard.name, shard.bytes) as file:
            if problems := list(find_checksum_problems(file, shard, MANIFEST)):
                return problems
            file.seek(0)
            content_problems = _find_content_problems(file, shard, self._manifest)
            problems += itertools.islice(content_problems, MAX_PROBLEMS_PER_CHECK)
            return problems or self._index.find_problems(shard.name, file)


def _find_content_problems(file: BinaryIO, shard: ShardEntry, manifest: Manifest) -> Iterator[str]:
    count, previous, rules = 0, "", SampleRules.from_manifest(manifest)
    try:
        for key, headers, members in read_shard_samples(file):
            yield from find_header_problems(headers)
            if key <= previous:
                yield f"found sample {key} after sample {previous}, expected ascending keys"
            for problem in find_sample_problems(members, rules, lambda info: ()):
                yield f"sample {key}: {problem}"
            count, previous = count + 1, key
    except tarfile.TarError as error:
        yield f"not an intact tar file: {error}"
    if count != shard.samples:
        yield f"{pluralize(count, 'sample')}, {MANIFEST} says {shard.samples:,}"
