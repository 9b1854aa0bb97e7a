"""Optimizers and learning rates: LARS as in the SimCLR reference, SGD for classifiers, warm-up and cosine schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.training import split_by_weight_decay, warmup_cosine

TRUST_COEFFICIENT = 0.001  # eta of the LARS paper
MOMENTUM = 0.9


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017) in SimCLR's form: the learning rate is inside the momentum.

    For each tensor w with gradient g::

        g += weight_decay * w
        trust = 0.001 * |w| / |g|              # 1 where either norm is 0
        buffer = momentum * buffer + lr * trust * g
        w -= buffer

    `lr` is read from `param_groups` at each step. Groups with `adapt: False` use neither weight decay nor trust.

    Args:
        params: tensors or parameter groups.
        lr: learning rate.
        momentum: momentum factor.
        weight_decay: L2 penalty, added to the gradient before the trust ratio is computed.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = MOMENTUM,
        weight_decay: float = 0,
    ) -> None:
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError(f"expected nothing below 0, found lr {lr}, momentum {momentum}, decay {weight_decay}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        `closure`, if given, recomputes the loss with gradients enabled; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update all tensors of a group together, since each kernel launch costs time on a GPU."""
        updates = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if group["adapt"]:
            updates = list(torch._foreach_add(updates, parameters, alpha=group["weight_decay"]))
            norms, gradient_norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (parameters, updates))
            both_positive = (norms > 0) & (gradient_norms > 0)
            trust = torch.where(both_positive, TRUST_COEFFICIENT * norms / gradient_norms, 1.0)
            updates = list(torch._foreach_mul(updates, list((group["lr"] * trust).unbind())))
        else:
            updates = list(torch._foreach_mul(updates, group["lr"]))
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_sub_(parameters, buffers)


def parameter_groups(
    model: nn.Module, weight_decay: float, probe_types: tuple[type[nn.Module], ...] = (), probe_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Divide a model's parameters into groups for LARS or SGD.

    The groups are: weights, with weight decay and trust; biases and norms, without; modules of `probe_types`, without,
    and with a learning rate of `probe_scale` times that of the others. `scale` of a group holds this factor. Empty
    groups are omitted.
    """
    probes = [
        parameter for module in model.modules() if isinstance(module, probe_types) for parameter in module.parameters()
    ]
    probe_ids = {id(parameter) for parameter in probes}
    others = [
        parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in probe_ids
    ]
    decayed, undecayed = split_by_weight_decay(others)
    plain = {"weight_decay": 0.0, "adapt": False}
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay, "adapt": True, "scale": 1.0},
        {"params": undecayed, **plain, "scale": 1.0},
        {"params": probes, **plain, "scale": probe_scale},
    ]
    return [group for group in groups if group["params"]]


class OptimizerSpec(NamedTuple):
    """An optimizer and the rule for its learning rate.

    Attributes:
        peak_learning_rate: default peak of the learning rate for a batch size.
        make: function from parameter groups and the peak learning rate to the optimizer.
    """

    peak_learning_rate: Callable[[int], float]
    make: Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]


def probe_learning_rate(batch_size: int) -> float:
    """Return the learning rate of probes, read-outs and classifiers: 0.1 * batch size / 256."""
    return 0.1 * batch_size / 256


SIMCLR = OptimizerSpec(peak_learning_rate=lambda batch_size: 0.075 * math.sqrt(batch_size), make=LARS)
LINEAR_LARS = OptimizerSpec(peak_learning_rate=lambda batch_size: 0.2 * batch_size / 256, make=LARS)  # VICReg, BYOL
CLASSIFIER = OptimizerSpec(
    peak_learning_rate=probe_learning_rate,
    make=lambda groups, peak: torch.optim.SGD(groups, peak, momentum=MOMENTUM, nesterov=True),
)


class Schedule(NamedTuple):
    """Learning rate over a run: linear warm-up to a peak, then a cosine to 0, updated at each step.

    Attributes:
        peak: highest learning rate.
        steps: number of steps of the run.
        warmup_steps: number of steps of the warm-up.
    """

    peak: float
    steps: int
    warmup_steps: int

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.peak * warmup_cosine(step, self.steps, self.warmup_steps)
