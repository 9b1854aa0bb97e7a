"""The part of labeling that depends on the hardware: from the bytes of an image to its label."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.images import StoredImage
from common.manifest import LabelConfig
from labeler.labeling.label import Label
from labeler.labeling.timing import PhaseTimer
from labeler.teacher.model import TeacherModel


class LoadedImage(NamedTuple):
    """An image that a backend has loaded.

    `stored` is the JPEG that goes into the shard. `pixels` are upright, uint8 [3, H, W], and None if the backend
    decodes the JPEG in `predict`.
    """

    stored: StoredImage
    pixels: Tensor | None


class Backend(ABC):
    """A way to decode images and to run the teacher. `load` is called in threads, `predict` in one thread.

    `predict` takes `batch_size` images, or fewer at the end of a shard or if some of them have failed.
    """

    warning = ""  # for the user, about this machine

    def __init__(self, teacher: TeacherModel, config: LabelConfig, device: torch.device, batch_size: int) -> None:
        """Prepare the teacher on a device; `config` is that of the plan."""
        self.teacher = teacher.to(device)
        self.config = config
        self.device = device
        self.batch_size = batch_size

    @abstractmethod
    def load(self, content: bytes) -> LoadedImage:
        """Check and decode the content of an image file, or prepare it for `predict`. Raises ImageFailure."""

    @abstractmethod
    def predict(self, images: Sequence[LoadedImage], timer: PhaseTimer) -> list[Callable[[], Label]]:
        """Run the teacher on a batch. Returns a function for each image that returns its label or raises ImageFailure.

        These functions may be called in any thread.
        """
