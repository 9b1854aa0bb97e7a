"""The training loop: plain PyTorch, under any launcher."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError, describe_error
from common.launch import Rank
from common.training import warmup_cosine
from trainer.config import TrainConfig
from trainer.data.augment import augment
from trainer.data.decoding import Batch
from trainer.objectives.base import LossTerms, Model, ModelInputs, Outputs
from trainer.optim import PROBE_RATE, parameter_groups
from trainer.recipes import get_recipe

Piece = tuple[Sequence[Tensor], Tensor]  # views and clean images of some rows


class NotFinite(Exception):
    """An output of the network is NaN or infinite."""


class Schedule(NamedTuple):
    """The learning rate over a run: its peak, the steps of the run and those of its warm-up."""

    peak: float
    steps: int
    warmup: int

    def rate(self, step: int) -> float:
        """At a step, counted from 0."""
        return self.peak * warmup_cosine(step, self.steps, self.warmup)


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """Linear warm-up, then a cosine to 0, per step; the peak is the recipe's usual one unless given."""
    peak = config.learning_rate or get_recipe(config.recipe).optimisation.peak(config.batch_size)
    steps = config.epochs * steps_per_epoch
    return Schedule(peak, steps, min(round(config.warmup_epochs * steps_per_epoch), steps))


class Trainer:
    """A model in training on one rank, and all that a checkpoint holds."""

    def __init__(self, config: TrainConfig, model: Model, plan: Schedule, rank: Rank, compiled: bool = False) -> None:
        self.config, self.rank, self.plan = config, rank, plan
        if rank.device.type == "cuda" and rank.world_size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(rank.device).to(memory_format=torch.channels_last).train()
        probe_peak = PROBE_RATE * config.batch_size / 256
        groups = parameter_groups(self.model, config.weight_decay, probe_peak / plan.peak)
        self.optimizer = get_recipe(config.recipe).optimisation.make(groups, plan.peak)
        self.ranks: nn.Module = DistributedDataParallel(self.model) if rank.world_size > 1 else self.model
        self.network: Callable[..., Outputs] = torch.compile(self.ranks) if compiled else self.ranks
        self.step = 0

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step; the figures are means over ranks. Raises UserError where the loss or the gradient is no number."""
        rate = self.plan.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        inputs = prepare_inputs(batch, self.rank.device)
        self.optimizer.zero_grad()
        try:
            terms = self._backward(inputs)
        except NotFinite as error:
            raise self._diverged(batch, "loss", describe_error(error)) from None
        gradients = [weights.grad for weights in self.model.parameters() if weights.grad is not None]
        figures = {"loss": terms.loss, **terms.figures, "gradient_norm": nn.utils.get_total_norm(gradients)}
        values = self.rank.mean(torch.stack(list(figures.values())).detach().float())
        found = dict(zip(figures, values.tolist(), strict=True))
        if wrong := next((name for name, value in found.items() if not math.isfinite(value)), None):
            raise self._diverged(batch, wrong.replace("_", " "), f"it is {found[wrong]}")
        self.optimizer.step()
        self.step += 1
        return found | {"learning_rate": rate}

    def _diverged(self, batch: Batch, what: str, found: str) -> UserError:
        keys = ", ".join(batch.keys[:8]) + (" ..." if len(batch.keys) > 8 else "")
        return UserError(
            f"step {self.step + 1}: the {what} is no number ({found}); the samples were {keys}. The last good "
            "checkpoint is kept; begin again in another --output, with a lower --learning-rate or more --warmup-epochs"
        )

    def _backward(self, inputs: ModelInputs) -> LossTerms:
        pieces = split_pieces(inputs, self.config.micro_batch)
        if len(pieces) > 1:
            return self._backward_in_pieces(inputs, pieces)
        terms = self._terms(self._outputs(*pieces[0]), inputs)
        terms.loss.backward()
        return terms

    def _backward_in_pieces(self, inputs: ModelInputs, pieces: list[Piece]) -> LossTerms:
        """GradCache (Gao et al. 2021): outputs piece by piece, the loss over all of them, then each piece once more."""
        with torch.no_grad(), frozen_statistics(self.model):
            found = [self._outputs(*piece) for piece in pieces]
        joined = {name: torch.cat([outputs[name] for outputs in found]).requires_grad_() for name in found[0]}
        terms = self._terms(joined, inputs)
        slopes = torch.autograd.grad(terms.loss, list(joined.values()), allow_unused=True, materialize_grads=True)
        parts = [
            slope.split([len(outputs[name]) for outputs in found]) for name, slope in zip(joined, slopes, strict=True)
        ]
        for number, (piece, gradients) in enumerate(zip(pieces, zip(*parts, strict=True), strict=True)):
            with contextlib.nullcontext() if number == len(pieces) - 1 else self._unsynchronised():
                outputs = self._outputs(*piece)
                learnt = [pair for pair in zip(outputs.values(), gradients, strict=True) if pair[0].requires_grad]
                torch.autograd.backward([output for output, _ in learnt], [gradient for _, gradient in learnt])
        return terms

    def _terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        try:
            return self.model.terms(outputs, inputs)
        except ValueError as error:  # of the metrics, which refuse NaN
            raise NotFinite(describe_error(error)) from None

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        """Ranks average their gradients after the last piece only."""
        return self.ranks.no_sync() if isinstance(self.ranks, DistributedDataParallel) else contextlib.nullcontext()

    def _outputs(self, views: Sequence[Tensor], clean: Tensor) -> Outputs:
        device, precision = self.rank.device.type, self.config.precision
        low = device == "cuda" if precision == "auto" else precision == "bfloat16"
        with torch.autocast(device, torch.bfloat16, enabled=low):
            outputs: Outputs = self.network(views, clean)
        return {name: value.float() for name, value in outputs.items()}

    def state(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def prepare_inputs(batch: Batch, device: torch.device) -> ModelInputs:
    """Move a batch and augment its views; the map is resized to the clean image's size."""
    views = batch.views.to(device, non_blocking=True)
    parameters = batch.augmentation.to(device, non_blocking=True)
    clean = batch.clean.to(device, non_blocking=True).float() / 255
    attention = batch.attention.to(device, non_blocking=True).float() / 255
    if attention.shape[1:] != clean.shape[2:]:
        size = (clean.shape[2], clean.shape[3])
        attention = F.interpolate(attention[:, None], size, mode="bilinear", antialias=True)[:, 0]
    shown = tuple(augment(views[:, view], parameters[:, view]) for view in range(views.shape[1]))
    return ModelInputs(shown, clean, attention, batch.gaze, batch.labels.to(device, non_blocking=True))


def split_pieces(inputs: ModelInputs, size: int | None) -> list[Piece]:
    """Views and clean images cut into pieces of at most `size` images, as many of one as of the other.

    Raises UserError where there are too few of either.
    """
    images = len(inputs.views[0]), len(inputs.clean)
    number = 1 if size is None else math.ceil(max(images) / size)
    if number > min(images):
        raise UserError(
            f"--micro-batch {size}: a worker's {max(images)} images would be cut into {number} pieces, of which each "
            f"needs one of {min(images)} others; choose {math.ceil(max(images) / min(images))} or more"
        )
    views = zip(*(view.tensor_split(number) for view in inputs.views), strict=True)
    return list(zip(views, inputs.clean.tensor_split(number), strict=True))


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm's running statistics stay as they are: each image counts once."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def time_batches(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds that it was waited for."""
    began = time.monotonic()
    for batch in batches:
        yield batch, time.monotonic() - began
        began = time.monotonic()
