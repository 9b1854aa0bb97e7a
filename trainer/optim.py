"""How weights are optimised: LARS as the SimCLR reference has it, SGD as classifiers have it; what neither decays."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.training import split_by_weight_decay
from trainer.model.heads import LinearProbe

TRUST = 0.001  # eta
MOMENTUM = 0.9
PROBE_RATE = 0.1  # of linear probes at a batch of 256, in proportion to it (the usual linear evaluation)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017) in SimCLR's form: the learning rate is inside the momentum.

    For each tensor w with gradient g:  g += weight_decay * w;  trust = 0.001 * |w| / |g| (1 where a norm is 0);
    buffer = momentum * buffer + lr * trust * g;  w -= buffer.
    `lr` is read from `param_groups` at each step. A group with `adapt: False` has neither decay nor trust.
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
        """One step. `closure`, if given, computes the loss again, and it is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if learnt := [weights for weights in group["params"] if weights.grad is not None]:
                self._update(learnt, group)
        return loss

    def _update(self, learnt: list[Tensor], group: dict[str, Any]) -> None:
        """All tensors of a group together: a GPU waits for each operation to be launched."""
        moves = [weights.grad for weights in learnt if weights.grad is not None]
        if group["adapt"]:
            moves = list(torch._foreach_add(moves, learnt, alpha=group["weight_decay"]))
            norms, slopes = (torch.stack(torch._foreach_norm(tensors)) for tensors in (learnt, moves))
            trust = torch.where((norms > 0) & (slopes > 0), TRUST * norms / slopes, 1.0)
            moves = list(torch._foreach_mul(moves, list((group["lr"] * trust).unbind())))
        else:
            moves = list(torch._foreach_mul(moves, group["lr"]))
        for weights in learnt:
            if "momentum" not in self.state[weights]:
                self.state[weights]["momentum"] = torch.zeros_like(weights)
        momenta = [self.state[weights]["momentum"] for weights in learnt]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, moves)
        torch._foreach_sub_(learnt, momenta)


def parameter_groups(model: nn.Module, weight_decay: float, probe_scale: float = 1.0) -> list[dict[str, Any]]:
    """Weights, which decay and adapt; biases and norms, which do not; and linear probes, which do not either.

    A probe's learning rate is `probe_scale` times that of the others (`scale` of the groups).
    """
    probes = [one for module in model.modules() if isinstance(module, LinearProbe) for one in module.parameters()]
    others = [one for one in model.parameters() if one.requires_grad and not any(one is probe for probe in probes)]
    decayed, undecayed = split_by_weight_decay(others)
    left_alone = {"weight_decay": 0.0, "adapt": False}
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay, "adapt": True, "scale": 1.0},
        {"params": undecayed, **left_alone, "scale": 1.0},
        {"params": probes, **left_alone, "scale": probe_scale},
    ]
    return [group for group in groups if group["params"]]


class OptimizerSpec(NamedTuple):
    """An optimiser and its usual learning rate: `peak` of a batch size; `make` from `parameter_groups` and a peak."""

    peak: Callable[[int], float]
    make: Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]


SIMCLR = OptimizerSpec(peak=lambda batch_size: 0.075 * math.sqrt(batch_size), make=LARS)
CLASSIFIER = OptimizerSpec(
    peak=lambda batch_size: 0.1 * batch_size / 256,
    make=lambda groups, peak: torch.optim.SGD(groups, peak, momentum=MOMENTUM, nesterov=True),
)
