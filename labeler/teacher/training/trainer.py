"""One training step of the teacher, and the state that a checkpoint holds."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from common.errors import UserError
from common.launch import Rank
from common.saliency import kld, nss
from common.training import split_by_weight_decay, warmup_cosine
from labeler.teacher.model import INPUT_SIZE, AttentionTeacher, TeacherModel
from labeler.teacher.training.batches import TeacherBatch
from labeler.teacher.training.config import TeacherTrainConfig
from labeler.teacher.training.examples import TARGET_SIZE
from labeler.teacher.training.views import adjust_colors

Tensors = tuple[Tensor, ...] | list[Tensor]
MODULES_IN_CHECKPOINT = ("student", "average", "optimizer")  # attributes of TeacherTrainer, and keys of a checkpoint


class Losses(NamedTuple):
    """The loss that is minimized, and its terms before weighting; scalar means over a batch."""

    loss: Tensor
    kld: Tensor
    nss: Tensor


def teacher_loss(maps: Tensor, targets: Tensor, fixations: Sequence[np.ndarray], nss_weight: float) -> Losses:
    """Return KLD - nss_weight * NSS, averaged over the batch.

    The paper names no loss for the teacher; this is the attention loss of its students (eq. 3).

    Args:
        maps: predicted maps [B, H, W].
        targets: target maps [B, h, w].
        fixations: B arrays [n, 2] of x, y in [0, 1]. The NSS of an image without fixations counts as 0.
        nss_weight: weight of NSS.
    """
    mean_kld = kld(maps, targets).mean()
    mean_nss = nss(maps, fixations).nan_to_num(0).mean()
    return Losses(mean_kld - nss_weight * mean_nss, mean_kld, mean_nss)


class TeacherTrainer:
    """The network in training on one rank, the moving average of its weights, and its optimizer.

    Args:
        config: settings of the run.
        student: the network to train.
        distillation_teacher: predicts targets for images without fixations; None if all images have fixations.
        rank: this process and its device.
    """

    def __init__(
        self,
        config: TeacherTrainConfig,
        student: AttentionTeacher,
        distillation_teacher: TeacherModel | None,
        rank: Rank,
    ) -> None:
        self.config, self.rank = config, rank
        self.student = student.to(rank.device).train()
        self.distillation_teacher = None if distillation_teacher is None else distillation_teacher.to(rank.device)
        self.average = AveragedModel(self.student, multi_avg_fn=moving_average(config.ema))
        decayed, not_decayed = split_by_weight_decay(self.student.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": not_decayed, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self.network = DistributedDataParallel(self.student) if rank.world_size > 1 else self.student
        self.step = 0  # number of completed steps
        self.best_cc = -1.0  # best validation CC so far

    def train_step(self, batch: TeacherBatch, total_steps: int) -> dict[str, float]:
        """Update the weights with one batch, and return losses (means over all ranks) and learning rate by log key.

        `total_steps` is the length of the whole run, which determines the learning rate. Raises UserError, before the
        weights are changed, if the loss or the gradient is not finite.
        """
        warmup_steps = round(self.config.warmup * total_steps)
        learning_rate = self.config.learning_rate * warmup_cosine(self.step, total_steps, warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

        images = batch.pixels.to(self.rank.device, non_blocking=True).float() / 255
        targets = self._complete_targets(batch, images)
        augmented = self.resize_images(adjust_colors(images, batch.color_factors.to(images.device)))
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
            maps = self.network(augmented)
        try:
            losses = teacher_loss(maps, targets, batch.fixations, self.config.nss_weight)
        except ValueError as error:
            raise self.divergence_error(str(error)) from None

        self.optimizer.zero_grad()
        losses.loss.backward()
        gradients = [parameter.grad for parameter in self.student.parameters() if parameter.grad is not None]
        gradient_norm = nn.utils.get_total_norm(gradients)
        values = self.rank.mean(torch.stack([*losses, gradient_norm]).detach()).tolist()
        if not all(map(math.isfinite, values)):
            raise self.divergence_error("loss or gradient is not finite")
        self.optimizer.step()
        self.average.update_parameters(self.student)
        self.step += 1
        return dict(zip(Losses._fields, values[:-1], strict=True)) | {"learning_rate": learning_rate}

    def resize_images(self, images: Tensor) -> Tensor:
        """Resize images to the network's size in this run: [B, 3, 480, 640] -> [B, 3, h, w]."""
        scale = self.config.input_scale
        if scale == 1:
            return images
        size = [round(side * scale) for side in INPUT_SIZE]
        return interpolate(images, size, mode="bilinear", antialias=True)

    def divergence_error(self, reason: str) -> UserError:
        """Return the error to raise if the network yields NaN or infinity."""
        return UserError(
            f"step {self.step + 1}: training diverged ({reason}); start again with another --output and a lower "
            "--learning-rate"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint must hold to resume with the same results."""
        state = {name: getattr(self, name).state_dict() for name in MODULES_IN_CHECKPOINT}
        return {**state, "step": self.step, "best": self.best_cc}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        for name in MODULES_IN_CHECKPOINT:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.best_cc = state["step"], state["best"]

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the state dict of the averaged network, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.average.module.state_dict().items()}

    def _complete_targets(self, batch: TeacherBatch, images: Tensor) -> Tensor:
        """Return the batch's targets, with maps of the distillation teacher for images without fixations."""
        targets = batch.targets.to(images.device)
        without_fixations = (~batch.has_fixations).nonzero().flatten().to(images.device)
        if self.distillation_teacher is None or not len(without_fixations):
            return targets
        with torch.no_grad():
            maps = self.distillation_teacher.predict(images[without_fixations])[0]
        targets[without_fixations] = interpolate(maps[:, None], TARGET_SIZE, mode="bilinear", antialias=True)[:, 0]
        return targets


def moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the update rule of an exponential moving average, for AveragedModel's `multi_avg_fn`.

    The decay rises from 0.1 to `decay` over the first steps, so that the average soon forgets the initial weights.
    """

    @torch.no_grad()
    def update(averages: Tensors, currents: Tensors, averaged_steps: Tensor | int) -> None:
        steps = int(averaged_steps)
        torch._foreach_lerp_(averages, currents, 1 - min(decay, (1 + steps) / (10 + steps)))

    return update
