"""The loop that trains a teacher: plain PyTorch, under any launcher."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from common.errors import UserError
from common.fixations import FixatedImage
from common.launch import Rank
from common.saliency import cc, kld, nss
from common.storage.files import write_atomically
from common.training import (
    MetricLog,
    ProgressLine,
    load_checkpoint,
    save_checkpoint,
    split_by_weight_decay,
    warmup_cosine,
)
from labeler.teacher.model import INPUT_SIZE, AttentionTeacher
from labeler.teacher.training.batches import Batches, TeacherBatch
from labeler.teacher.training.config import TeacherTrainConfig
from labeler.teacher.training.examples import TARGET_SIZE, TrainingData, make_view_example
from labeler.teacher.training.views import WHOLE, adjust_colors

LAST, BEST = "checkpoints/last.pt", "checkpoints/best.safetensors"


class Losses(NamedTuple):
    """Means over a batch: what is minimised, and its terms."""

    loss: Tensor
    kld: Tensor
    nss: Tensor


def teacher_loss(maps: Tensor, targets: Tensor, points: Sequence[Any], nss_weight: float) -> Losses:
    """KLD to the targets minus weighted NSS at the fixations (paper 3.2): [B, H, W], [B, h, w], B point arrays.

    An image without fixations adds nothing to the NSS.
    """
    divergence = kld(maps, targets).mean()
    scanpath = nss(maps, points).nan_to_num(0).mean()
    return Losses(divergence - nss_weight * scanpath, divergence, scanpath)


class TeacherTrainer:
    """The network that learns, the average of its weights, and all else that a checkpoint holds."""

    def __init__(
        self, config: TeacherTrainConfig, student: AttentionTeacher, stronger: nn.Module | None, rank: Rank
    ) -> None:
        self.config, self.rank = config, rank
        self.student = student.to(rank.device).train()
        self.stronger = None if stronger is None else stronger.to(rank.device)
        self.average = AveragedModel(self.student, multi_avg_fn=_average(config.ema))
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.student, config.weight_decay), lr=config.learning_rate
        )
        self.network = DistributedDataParallel(self.student) if rank.world_size > 1 else self.student
        self.step, self.best = 0, -1.0  # steps done; the best validation CC

    def learn(self, batch: TeacherBatch, steps: int) -> dict[str, float]:
        """One step of `steps`. Raises UserError where the loss or the gradient is no number."""
        share = warmup_cosine(self.step, steps, round(self.config.warmup * steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * share
        images = batch.pixels.to(self.rank.device, non_blocking=True).float() / 255
        targets = self._targets(batch, images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
            maps = self.network(self.fitted(adjust_colors(images, batch.colours.to(images.device))))
        try:
            terms = teacher_loss(maps, targets, batch.points, self.config.nss_weight)
        except ValueError as error:
            raise self.diverged(str(error)) from None
        self.optimizer.zero_grad()
        terms.loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.student.parameters() if p.grad is not None])
        values = self.rank.mean(torch.stack([*terms, norm]).detach()).tolist()
        if not all(map(math.isfinite, values)):
            raise self.diverged("loss or gradient is no number")
        self.optimizer.step()
        self.average.update_parameters(self.student)
        self.step += 1
        return dict(zip(Losses._fields, values[:-1], strict=True)) | {
            "learning_rate": self.config.learning_rate * share
        }

    def diverged(self, found: str) -> UserError:
        """What to tell where the network gives no numbers."""
        return UserError(
            f"step {self.step + 1}: the training diverged ({found}); begin again in another --output, with a lower "
            "--learning-rate"
        )

    def fitted(self, images: Tensor) -> Tensor:
        """Images in the size at which the network trains: [B, 3, 480, 640] -> [B, 3, h, w]."""
        scale = self.config.input_scale
        if scale == 1:
            return images
        size = [round(side * scale) for side in INPUT_SIZE]
        return interpolate(images, size, mode="bilinear", antialias=True)

    def _targets(self, batch: TeacherBatch, images: Tensor) -> Tensor:
        """The human maps, and the stronger teacher's where there are none."""
        targets = batch.targets.to(images.device)
        unlabelled = (~batch.labelled).nonzero().flatten().to(images.device)
        if self.stronger is None or not len(unlabelled):
            return targets
        with torch.no_grad():
            maps = self.stronger.predict(images[unlabelled])[0]  # type: ignore[operator]
        targets[unlabelled] = interpolate(maps[:, None], TARGET_SIZE, mode="bilinear", antialias=True)[:, 0]
        return targets

    def state(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened."""
        parts = {name: getattr(self, name).state_dict() for name in ("student", "average", "optimizer")}
        return {**parts, "step": self.step, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        for name in ("student", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.best = state["step"], state["best"]

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.average.module.state_dict().items()}


def train(training: TeacherTrainer, batches: Batches, data: TrainingData, output: Path, checkpoint_every: int) -> None:
    """Train to the end, from the last checkpoint in `output` if there is one; rank 0 writes.

    After each epoch the averaged weights are validated; those with the best CC on the first data set are kept.
    """
    last = output / LAST
    if last.exists():
        training.restore(load_checkpoint(last))
    writes = training.rank.index == 0
    steps = training.config.epochs * batches.steps_per_epoch
    log = MetricLog(output, training.step) if writes else None
    line = ProgressLine(steps, training.step, training.config.batch_size) if writes else None
    for batch in batches.from_step(training.step):
        figures = training.learn(batch, steps)
        if log and line:
            log.write(training.step, **figures)
            line.step(**figures)
        ended_epoch, within = divmod(training.step, batches.steps_per_epoch)
        if not within:
            try:
                scores = validate(training, data.validation)
            except ValueError as error:
                raise training.diverged(str(error)) from None
            chosen = next(iter(scores.values()))["cc"]
            if log and line:
                log.write(training.step, epoch=ended_epoch, **{f"validation {name}": s for name, s in scores.items()})
                line.log(f"epoch {ended_epoch}: " + "; ".join(_told(name, score) for name, score in scores.items()))
                if chosen > training.best:
                    write_atomically(output / BEST, safetensors.torch.save(training.weights()))
            training.best = max(training.best, chosen)
        if writes and (not within or training.step % checkpoint_every == 0):
            save_checkpoint(last, training.state())
    if log and line:
        log.close()
        line.close()


@torch.no_grad()
def validate(training: TeacherTrainer, data: dict[str, list[FixatedImage]]) -> dict[str, dict[str, float]]:
    """CC and NSS of the averaged weights on each data set; every rank looks at a part of the photographs."""
    of_file: dict[Path, list[tuple[str, FixatedImage]]] = {}
    for name, images in data.items():
        for image in images:
            of_file.setdefault(image.path.resolve(), []).append((name, image))
    network = training.average.module.eval()
    found: list[tuple[str, float, float]] = []
    for path in sorted(of_file)[training.rank.index :: training.rank.world_size]:
        examples = [(name, make_view_example(image, WHOLE)) for name, image in of_file[path]]
        attention = network(training.fitted(examples[0][1].pixels[None].to(training.rank.device).float() / 255))
        for name, example in examples:
            similarity = cc(attention, example.target[None].to(attention)).item()
            found.append((name, similarity, nss(attention, [example.points]).item()))
    if training.rank.world_size > 1:
        parts: list[Any] = [None] * training.rank.world_size
        torch.distributed.all_gather_object(parts, found)
        found = [row for part in parts for row in part]
    scores = {}
    for name in data:
        rows = torch.tensor([row[1:] for row in found if row[0] == name], dtype=torch.float64)
        scores[name] = dict(zip(("cc", "nss"), rows.mean(0).tolist(), strict=True))
    return scores


def _told(name: str, score: dict[str, float]) -> str:
    return f"{name} CC {score['cc']:.3f}, NSS {score['nss']:.2f}"


def _average(decay: float) -> Any:
    """An exponential moving average that forgets its first steps faster."""

    @torch.no_grad()
    def update(averages: list[Tensor], currents: list[Tensor], done: Tensor | int) -> None:
        share = min(decay, (1 + int(done)) / (10 + int(done)))
        torch._foreach_lerp_(averages, currents, 1 - share)

    return update


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed, others = split_by_weight_decay(network.parameters())
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
