"""Making the index of a published data set that lacks one, from its manifest and its shards."""

from typing import NamedTuple

from common.errors import UserError, describe_error
from common.manifest import MANIFEST, Manifest, ShardEntry, sha256
from common.parallel import in_processes
from common.shards import Sample
from common.storage import Storage, open_storage
from labeler.inspection.reader import hash_file, open_for_two_passes
from labeler.inspection.shard_statistics import read_shard_rows
from labeler.publishing.index import find_changed_shard, write_index
from labeler.publishing.index_parts import read_parts, save_part


class IndexReport(NamedTuple):
    """Result of making an index: its numbers of samples and shards, and how many of the shards had to be read."""

    samples: int
    shards: int
    shards_read: int


def make_index(dataset: str, workers: int | None = None) -> IndexReport:
    """Write the index of a data set.

    Only shards are read whose rows were not stored when they were labeled, or were stored without perceptual hashes.

    The rows of each shard that is read are stored, so that an interrupted run continues where it was.

    Args:
        dataset: a folder or s3://BUCKET/PREFIX.
        workers: number of processes, by default one per CPU core.

    Raises UserError if the data set is not published, or if a shard is missing, damaged or not the one in the manifest.
    """
    storage = open_storage(dataset)
    content = _read_manifest(storage)
    shards = Manifest.model_validate_json(content).shards
    if changed := find_changed_shard(storage, shards):
        raise UserError(f"{dataset}: {changed}. Restore the shard; python -m labeler.verify {dataset} checks all files")
    parts = zip(shards, read_parts(storage, shards), strict=True)
    missing = [shard for shard, part in parts if part is None or part.lacks_hashes]
    problems = in_processes(make_part, [dataset] * len(missing), missing, processes=workers, unit="shards")
    for shard, problem in zip(missing, problems, strict=True):
        if problem:
            raise UserError(
                f"{dataset}: {shard.name}: {problem}. Restore the shard; python -m labeler.verify {dataset} checks all "
                "files"
            )
    if write_index(storage, shards, sha256(content)):
        raise UserError(f"{dataset}: another program changed the data set just now; run the same command again")
    return IndexReport(sum(shard.samples for shard in shards), len(shards), len(missing))


def make_part(dataset: str, shard: ShardEntry) -> str | None:
    """Compute and store the rows of a shard. Returns the first problem found; then nothing is stored."""
    storage = open_storage(dataset)
    problems = list[str]()
    with open_for_two_passes(storage, shard.name, shard.bytes) as file:
        if hash_file(file)[0] != shard.sha256:
            return f"its checksum is not the one in {MANIFEST}"
        file.seek(0)
        rows = read_shard_rows(shard.name, lambda: file, shard.samples, problems.append, compute_phash)
    if problems:
        return problems[0]
    save_part(storage, rows, shard.sha256)
    return None


def compute_phash(sample: Sample) -> str | None:
    """Compute the perceptual hash of a sample's image, None if the data set does not store images."""
    if sample.jpeg is None:
        return None
    import torch  # takes seconds, and data sets without images do not need it

    from labeler.labeling.perceptual_hash import hash_jpeg

    torch.set_num_threads(1)  # as in labeling: sums depend on it
    return hash_jpeg(sample.jpeg, sample.info.exif_orientation)


def _read_manifest(storage: Storage) -> bytes:
    """Return the content of the manifest. Raises UserError if there is none, or a damaged one."""
    try:
        content = storage.read(MANIFEST)
        Manifest.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{storage.location}: expected a complete data set, found no {MANIFEST} in it. While labeling is "
            "unfinished, run the same labeling command again: it also writes the index"
        ) from None
    except ValueError as error:
        raise UserError(f"{storage.location}/{MANIFEST} is damaged: {describe_error(error)}") from None
    return content
