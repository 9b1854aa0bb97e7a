"""The read-out of attention maps, refit on frozen features, so that models are compared by their features alone.

How far the four parameters of a read-out are trained depends on the learning rate of the whole network, and a saturated
sigmoid hides what the features know. The refit is the same for every model: it starts from zero weights and minimizes
the attention loss with the paper's weights, on the same images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from trainer.evaluate.models import PlainResNet
from trainer.losses import attention_loss
from trainer.model.attention import STAGES, AttentionReadout, Selection
from trainer.objectives import AttentionObjective, Model

KLD_WEIGHT, NSS_WEIGHT = 1.0, 0.1  # the paper's, whatever weights a model was trained with


class FitData(NamedTuple):
    """Inputs and targets of a fit of n images.

    Attributes:
        stage_maps: one map per stage, as `stack_stage_maps` returns them, float32 [n, 3, h, w].
        attention: maps of the teacher, float32 [n, h, w], on the same device.
        gaze: gaze points of the teacher, n arrays [k, 2 or more] of x and y in [0, 1].
    """

    stage_maps: Tensor
    attention: Tensor
    gaze: Sequence[np.ndarray]


class FittedReadout(NamedTuple):
    """Parameters of a read-out, and the fit that gave them.

    Attributes:
        weights: of the maps of the three stages.
        bias: added to their weighted sum.
        loss: attention loss that was reached.
        images: number of images.
    """

    weights: tuple[float, ...]
    bias: float
    loss: float
    images: int

    def make(self, select: Selection, device: torch.device) -> AttentionReadout:
        """Return a read-out with these parameters."""
        readout = AttentionReadout(select)
        with torch.no_grad():
            readout.combine.weight.copy_(torch.tensor(self.weights).view(1, STAGES, 1, 1))
            assert readout.combine.bias is not None
            readout.combine.bias.fill_(self.bias)
        return readout.to(device)


def find_selection(network: Model | PlainResNet) -> Selection | None:
    """Return how a network's linear read-out selects a map of each stage; None if its maps have another source.

    Plain weights, which have no read-out, get one that selects as the paper does.
    """
    if isinstance(network, PlainResNet):
        return "gap_argmax"
    objective = network.objective(AttentionObjective)
    readout = None if objective is None else objective.readout
    return readout.select if isinstance(readout, AttentionReadout) else None


def fit_readout(data: FitData) -> FittedReadout:
    """Fit a read-out's four parameters by minimizing the attention loss over all images (L-BFGS).

    The maps of each stage are standardized meanwhile, so that the result does not depend on the scale of features. A
    stage whose maps are constant gets a weight of 0. Raises ValueError if a map contains NaN or infinity.
    """
    if not data.stage_maps.isfinite().all():
        raise ValueError("expected finite numbers as features, found NaN or infinity")
    deviation, mean = torch.std_mean(data.stage_maps.double(), (0, 2, 3), correction=0)
    constant = deviation <= 1e-6 * mean.abs()
    scale = torch.where(constant, 1, deviation)
    standardized = ((data.stage_maps - mean.view(-1, 1, 1)) / scale.view(-1, 1, 1)).float()
    standardized[:, constant] = 0

    @torch.enable_grad()
    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.tensor(values, device=standardized.device, requires_grad=True)
        weights, bias = parameters[:STAGES].float(), parameters[STAGES].float()
        prediction = (torch.einsum("s,nshw->nhw", weights, standardized) + bias).sigmoid()
        loss = attention_loss(prediction, data.attention, data.gaze, KLD_WEIGHT, NSS_WEIGHT).loss
        [gradient] = torch.autograd.grad(loss, parameters)
        return loss.item(), gradient.cpu().numpy()

    fit = minimize(loss_and_gradient, np.zeros(STAGES + 1), jac=True, method="L-BFGS-B")
    weights = torch.from_numpy(fit.x[:STAGES]) / scale.cpu()
    bias = fit.x[STAGES] - (weights * mean.cpu()).sum().item()
    return FittedReadout(tuple(weights.tolist()), float(bias), float(fit.fun), len(data.stage_maps))
