"""One optimization step: forward, loss over all ranks, backward, update; on whole batches or in pieces (GradCache)."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError, describe_error
from common.launch import Rank
from common.saliency import resize_maps
from trainer.config import TrainConfig
from trainer.data.augment import augment
from trainer.data.decoding import Batch
from trainer.data.sampler import OBJECTIVES_SEED
from trainer.model.attention import AttentionReadout
from trainer.model.batch_norm import frozen_statistics
from trainer.model.heads import LinearProbe
from trainer.objectives import Model
from trainer.objectives.base import LossTerms, ModelInputs, Outputs
from trainer.optim import Schedule, parameter_groups, probe_learning_rate
from trainer.recipes import get_recipe

KEYS_IN_A_MESSAGE = 8

Piece = tuple[Sequence[Tensor], Tensor]  # views and clean images of some rows of a batch


class NonFiniteOutput(Exception):
    """An output of the network is NaN or infinite."""


class Trainer:
    """A model in training on one rank, with everything that a checkpoint saves of it.

    Args:
        config: settings of the run.
        model: the model of the recipe; moved to the rank's device.
        schedule: learning rate over the run.
        rank: this process among those that train together.
        compiled: whether to compile the network with `torch.compile`.
    """

    def __init__(
        self, config: TrainConfig, model: Model, schedule: Schedule, rank: Rank, compiled: bool = False
    ) -> None:
        self.config, self.rank, self.schedule = config, rank, schedule
        if rank.device.type == "cuda" and rank.world_size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(rank.device).to(memory_format=torch.channels_last).train()
        probe_scale = probe_learning_rate(config.batch_size) / schedule.peak
        with_probe_rate = (LinearProbe, AttentionReadout) if config.readout_rate == "probe" else (LinearProbe,)
        groups = parameter_groups(self.model, config.weight_decay, with_probe_rate, probe_scale)
        self.optimizer = get_recipe(config.recipe).optimizer.make(groups, schedule.peak)
        self.replica: nn.Module = DistributedDataParallel(self.model) if rank.world_size > 1 else self.model
        self.network: Callable[..., Outputs] = torch.compile(self.replica) if compiled else self.replica
        self.step = 0

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Train on one batch and return its scalars by metric name, averaged over ranks.

        Raises UserError, with the keys of the samples, if the loss or a gradient is NaN or infinite; the weights are
        not updated then.
        """
        learning_rate = self.schedule.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        seed = (self.config.seed, OBJECTIVES_SEED, self.step, self.rank.index)
        inputs = prepare_inputs(batch, self.rank.device)._replace(seed=seed)
        self.optimizer.zero_grad()
        try:
            terms = self._backward(inputs)
        except NonFiniteOutput as error:
            raise self._divergence(batch, "loss", describe_error(error)) from None
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        scalars = {"loss": terms.loss, **terms.figures, "gradient_norm": nn.utils.get_total_norm(gradients)}
        means = self.rank.mean(torch.stack(list(scalars.values())).detach().float())
        figures = dict(zip(scalars, means.tolist(), strict=True))
        if wrong := next((name for name, value in figures.items() if not math.isfinite(value)), None):
            raise self._divergence(batch, wrong.replace("_", " "), f"it is {figures[wrong]}")
        self.optimizer.step()
        self.model.after_step(self.step / self.schedule.steps)
        self.step += 1
        return figures | {"learning_rate": learning_rate}

    def _divergence(self, batch: Batch, quantity: str, found: str) -> UserError:
        keys = ", ".join(batch.keys[:KEYS_IN_A_MESSAGE]) + (" ..." if len(batch.keys) > KEYS_IN_A_MESSAGE else "")
        return UserError(
            f"step {self.step + 1}: the {quantity} is not finite ({found}); the samples were {keys}. The last good "
            "checkpoint is still there; start again in another --output, with a lower --learning-rate or more "
            "--warmup-epochs"
        )

    def _backward(self, inputs: ModelInputs) -> LossTerms:
        pieces = split_pieces(inputs, self.config.micro_batch)
        if len(pieces) > 1:
            return self._backward_in_pieces(inputs, pieces)
        terms = self._loss_terms(self._forward(*pieces[0]), inputs)
        terms.loss.backward()
        return terms

    def _backward_in_pieces(self, inputs: ModelInputs, pieces: list[Piece]) -> LossTerms:
        """Compute the gradients of the whole batch in pieces that fit into memory (GradCache, Gao et al. 2021).

        The first pass computes the outputs of all pieces without a graph, and the loss and its gradient with respect to
        these outputs. The second pass computes each piece again and propagates its part of that gradient.
        """
        with torch.no_grad(), frozen_statistics(self.model):  # so that each image counts once
            outputs = [self._forward(*piece) for piece in pieces]
        joined = {name: torch.cat([piece[name] for piece in outputs]).requires_grad_() for name in outputs[0]}
        terms = self._loss_terms(joined, inputs)
        gradients = torch.autograd.grad(terms.loss, list(joined.values()), allow_unused=True, materialize_grads=True)
        split_gradients = [
            gradient.split([len(piece[name]) for piece in outputs])
            for name, gradient in zip(joined, gradients, strict=True)
        ]
        for number, (piece, piece_gradients) in enumerate(zip(pieces, zip(*split_gradients, strict=True), strict=True)):
            with contextlib.nullcontext() if number == len(pieces) - 1 else self._without_synchronization():
                again = self._forward(*piece)
                pairs = [pair for pair in zip(again.values(), piece_gradients, strict=True) if pair[0].requires_grad]
                torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        return terms

    def _loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        try:
            return self.model.loss_terms(outputs, inputs)
        except ValueError as error:  # raised by the saliency metrics, which reject NaN and infinity
            raise NonFiniteOutput(describe_error(error)) from None

    def _without_synchronization(self) -> contextlib.AbstractContextManager[None]:
        """Ranks average their gradients after the last piece only."""
        if isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return contextlib.nullcontext()

    def _forward(self, views: Sequence[Tensor], clean: Tensor) -> Outputs:
        """Run the network under autocast; the outputs are float32, since losses are computed in float32."""
        device, precision = self.rank.device.type, self.config.precision
        use_bfloat16 = device == "cuda" if precision == "auto" else precision == "bfloat16"
        with torch.autocast(device, torch.bfloat16, enabled=use_bfloat16):
            outputs: Outputs = self.network(views, clean)
        return {name: output.float() for name, output in outputs.items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs to resume as if the run had never stopped."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint's state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def prepare_inputs(batch: Batch, device: torch.device) -> ModelInputs:
    """Move a batch to the device, augment its views there, and resize the maps to the size of the clean images."""
    views = batch.views.to(device, non_blocking=True)
    parameters = batch.augmentation.to(device, non_blocking=True)
    clean = batch.clean.to(device, non_blocking=True).float() / 255
    attention = batch.attention.to(device, non_blocking=True).float() / 255
    if attention.shape[1:] != clean.shape[2:]:
        attention = resize_maps(attention, clean.shape[2:])
    augmented = tuple(augment(views[:, view], parameters[:, view]) for view in range(views.shape[1]))
    return ModelInputs(augmented, clean, attention, batch.gaze, batch.labels.to(device, non_blocking=True))


def split_pieces(inputs: ModelInputs, size: int | None) -> list[Piece]:
    """Split views and clean images into the same number of pieces, of at most `size` images each.

    Without a size there is one piece. Raises UserError if there are fewer views or clean images than pieces.
    """
    counts = len(inputs.views[0]), len(inputs.clean)
    pieces = 1 if size is None else math.ceil(max(counts) / size)
    if pieces > min(counts):
        raise UserError(
            f"--micro-batch {size}: a worker's {max(counts)} images would be split into {pieces} pieces, and each "
            f"needs at least one of {min(counts)} other images; choose {math.ceil(max(counts) / min(counts))} or more"
        )
    views = zip(*(view.tensor_split(pieces) for view in inputs.views), strict=True)
    return list(zip(views, inputs.clean.tensor_split(pieces), strict=True))
