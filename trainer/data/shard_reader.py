"""Reading of whole shards of a data set, from its storage or from a cache on a local disk."""

import io
import sys

from webdataset.tariterators import group_by_keys, tar_file_expander

from common.errors import UserError, describe_error
from common.storage import Storage, open_storage
from common.text import pluralize
from trainer.data.dataset import Dataset
from trainer.data.decoding import Members
from trainer.data.shard_cache import ShardCache


class ShardReader:
    """Reads the samples of a data set's shards, not decoded.

    Args:
        data: the data set.
        skip_damaged: whether to return the samples before the damage of a damaged shard, instead of raising.
        cache: keeps shards on a local disk; None reads them from the data set each time.
    """

    def __init__(self, data: Dataset, skip_damaged: bool = False, cache: ShardCache | None = None) -> None:
        self._data, self._skip_damaged, self._cache = data, skip_damaged, cache
        self._storage: Storage = open_storage(data.location)

    def read(self, shard: int) -> list[Members]:
        """Read all samples of the shard with this index.

        Raises UserError if the storage fails or, unless that is skipped, the shard is damaged.
        """
        name, expected = self._data.shards[shard], self._data.sizes[shard]
        samples: list[Members] = []
        problem = ""
        try:
            content = io.BytesIO(self.read_bytes(shard))
            samples.extend(group_by_keys(tar_file_expander([{"url": name, "stream": content}])))
        except UserError:  # the storage fails, not the shard
            raise
        except OSError as error:
            problem = error.strerror or describe_error(error)
        except Exception as error:  # tarfile and webdataset raise many types for damaged bytes
            problem = _describe_tar_error(error)
        if len(samples) != expected:
            problem = problem or ("it ends early" if len(samples) < expected else "it has more samples than expected")
        if problem and not self._skip_damaged:
            where = f"after sample {samples[-1]['__key__']!s}" if samples else "at its first sample"
            raise UserError(
                f"{self._data.location}/{name}: damaged {where}: expected {pluralize(expected, 'sample')}, found "
                f"{len(samples):,} ({problem}); check the data set with python -m labeler.verify, or resume with "
                "--skip-damaged"
            )
        if problem:
            print(f"{name}: {len(samples)} of {expected} samples can be read ({problem})", file=sys.stderr)
        return samples

    def read_bytes(self, shard: int) -> bytes:
        """Return the content of the shard with this index. Raises OSError."""
        name = self._data.shards[shard]
        if self._cache is None:
            return self._storage.read(name)
        return self._cache.read(self._data.checksums[shard], lambda: self._storage.read(name))


def _describe_tar_error(error: Exception) -> str:
    """Describe an error without webdataset's additions: two arguments, and " @ " with the stream in the message."""
    return describe_error(error) if len(error.args) < 2 else str(error.args[0]).partition(" @ ")[0]
