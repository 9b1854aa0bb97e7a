"""Control over which images enter the running statistics of batch norm, which evaluation uses."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of all batch norms in a module unchanged inside the `with` block.

    Batches are still normalized by their own statistics in training mode. It also works for the SyncBatchNorm that
    `convert_sync_batchnorm` puts in the place of each norm, and in code that `torch.compile` traces.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, track in zip(norms, tracked, strict=True):
            norm.track_running_stats = track
