"""Estimates of how large shards will be, and checks that they fit before any work is done."""

import socket
import tempfile

from common.errors import UserError
from common.manifest import Plan
from common.storage import LocalStorage, Storage

LABEL_BYTES = 40_000  # generous estimate of the map, gaze points, JSON and tar headers of one sample


def estimate_shard_bytes(images: int, source_bytes: int, include_images: bool) -> int:
    """Return a generous estimate of the size of a shard of `images` images whose files have `source_bytes` bytes."""
    return images * LABEL_BYTES + (source_bytes if include_images else 0)


def check_object_size(storage: Storage, plan: Plan) -> None:
    """Raise UserError if a shard would be larger than the largest object of the storage."""
    shard = _mean_shard_bytes(plan)
    if shard > storage.largest_object:
        raise UserError(
            f"--samples-per-shard {plan.config.samples_per_shard}: a shard would have about {shard:,} bytes, but an "
            f"object of this store holds at most {storage.largest_object:,}; choose fewer samples per shard"
        )


def check_space(storage: Storage, plan: Plan, pending: int) -> None:
    """Raise UserError if `pending` shards of the plan do not fit into the storage, or one into scratch space."""
    shard = _mean_shard_bytes(plan)
    needed, free = shard * pending, storage.free_bytes()
    if free < needed:
        raise UserError(
            f"{storage.location}: the shards need about {needed:,} bytes, {free:,} are free: free some space, or "
            "choose another --output"
        )
    scratch = storage.scratch_bytes()
    if pending and scratch < shard:
        raise UserError(explain_full_scratch_space(storage, shard, scratch))


def explain_full_scratch_space(storage: Storage, needed: int, free: int) -> str:
    """Return the error message for a shard that does not fit into this machine's scratch space."""
    is_local = isinstance(storage, LocalStorage)  # it holds its scratch files itself
    folder = storage.location if is_local else tempfile.gettempdir()
    advice = "" if is_local else ", or set TMPDIR to a folder on a larger disk"
    return (
        f"a shard needs about {needed:,} bytes of scratch space in {folder} on {socket.gethostname()}, {free:,} are "
        f"free: free some space there{advice}"
    )


def _mean_shard_bytes(plan: Plan) -> int:
    return estimate_shard_bytes(plan.images, plan.bytes, plan.config.include_images) // plan.shards
