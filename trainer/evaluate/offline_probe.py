"""The offline linear probe: softmax regression on features of a trained network, with a chosen L2 penalty."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.progress import progress_bar
from trainer.optim import probe_learning_rate

WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
DEFAULT_WEIGHT_DECAY = 1e-2  # where none can be chosen: every class has a single image
HELD_OUT_SHARE = 0.2
BATCH_SIZE = 256
ROWS_PER_CHUNK = 8192
MIN_RELATIVE_STD = 1e-5  # channels that vary less, relative to their mean, hold rounding errors only


class HeldOutScore(NamedTuple):
    """Top-1 accuracy, as a fraction, and mean cross-entropy on held-out images."""

    top1: float
    loss: float


class WeightDecayChoice(NamedTuple):
    """The weight decay with the lowest cross-entropy on held-out images.

    Attributes:
        weight_decay: the chosen value.
        held_out: scores by weight decay; empty if every class has a single image, so that none can be held out, and
            the default is used.
    """

    weight_decay: float
    held_out: dict[float, HeldOutScore]


class _Standardization(NamedTuple):
    """Mean and inverse standard deviation of channels, float32 [channels]; the latter is 0 for constant channels."""

    mean: Tensor
    inverse_std: Tensor

    def apply(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) * self.inverse_std

    def fold(self, weight: Tensor, bias: Tensor) -> nn.Linear:
        """Return the linear layer of raw features that equals one of standardized features."""
        linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        with torch.no_grad():
            linear.weight.copy_(weight * self.inverse_std)
            linear.bias.copy_(bias - linear.weight @ self.mean)
        return linear


def fit_linear_probe(
    vectors: Tensor,
    labels: Tensor,
    classes: int,
    epochs: int,
    seed: int,
    device: torch.device,
    name: str = "probe",
    weight_decay: float = DEFAULT_WEIGHT_DECAY,
) -> nn.Linear:
    """Train a linear classifier by SGD on standardized features, and return it as a layer of the raw features.

    Each channel is standardized with its mean and standard deviation over the images; a constant channel becomes 0.
    Weights start at 0. Nesterov momentum 0.9, batches of N = 256 (or all images if there are fewer), learning rate
    0.1 * N / 256 with a cosine schedule to 0. The scale of the features does not matter.

    Args:
        vectors: features, float32 [n, channels].
        labels: class indices, int64 [n].
        classes: number of classes.
        epochs: number of epochs.
        seed: random seed of the order of the images.
        device: where the classifier is trained.
        name: name for the progress bar.
        weight_decay: factor of the L2 penalty on the weights of standardized features, not on the bias.

    Raises UserError if features are not finite.
    """
    vectors, labels = vectors.to(device), labels.to(device)
    rows = torch.arange(len(vectors), device=device)
    return _train(vectors, labels, rows, classes, epochs, seed, f"{name}, offline probe", [weight_decay])[0]


def choose_weight_decay(
    vectors: Tensor,
    labels: Tensor,
    classes: int,
    epochs: int,
    seed: int,
    device: torch.device,
    name: str = "probe",
) -> WeightDecayChoice:
    """Choose the weight decay of `WEIGHT_DECAYS` with the lowest cross-entropy on a held-out fifth of the images.

    The cross-entropy varies less between draws of the held-out images than the accuracy, so it finds the most accurate
    probe more reliably. The learning rate is not searched: with the best weight decay it hardly matters.

    The probes of all values are trained on the other images, as by `fit_linear_probe`, for as many epochs, and
    standardized by their statistics. They are trained together, as one linear layer with outputs [candidates, classes]:
    the features are read once, and the time is far less than that of separate runs.

    Args and errors are those of `fit_linear_probe`.
    """
    vectors, labels = vectors.to(device), labels.to(device)
    held_out = draw_held_out(labels.cpu(), seed).to(device)
    if not len(held_out):
        return WeightDecayChoice(DEFAULT_WEIGHT_DECAY, {})
    is_training = torch.ones(len(labels), dtype=torch.bool, device=device)
    is_training[held_out] = False
    rows = is_training.nonzero()[:, 0]
    probes = _train(
        vectors, labels, rows, classes, epochs, seed, f"{name}, weight decay of the offline probe", WEIGHT_DECAYS
    )
    scores = {
        weight_decay: _score(probe, vectors, labels, held_out)
        for weight_decay, probe in zip(WEIGHT_DECAYS, probes, strict=True)
    }
    return WeightDecayChoice(min(scores, key=lambda weight_decay: scores[weight_decay].loss), scores)


def draw_held_out(labels: Tensor, seed: int) -> Tensor:
    """Draw a fifth of the images, at least one, in proportion to the sizes of the classes.

    Every class keeps at least one image, so the result is empty if no class has two.

    Args:
        labels: class indices, int64 [n].
        seed: random seed.

    Returns:
        Row numbers, int64 [held out], in ascending order.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within each
    is_first_of_class = F.pad(labels[order].diff() != 0, (1, 0), value=True)
    candidates = order[~is_first_of_class]
    count = min(max(round(HELD_OUT_SHARE * len(labels)), 1), len(candidates))
    evenly_spaced = torch.arange(count) * len(candidates) // max(count, 1)
    return candidates[evenly_spaced].sort().values


def _train(
    vectors: Tensor,
    labels: Tensor,
    rows: Tensor,
    classes: int,
    epochs: int,
    seed: int,
    description: str,
    weight_decays: Sequence[float],
) -> list[nn.Linear]:
    """Train a probe for each weight decay, all on the same batches of the given rows of the features."""
    generator = torch.Generator().manual_seed(seed)
    standardization = _measure_channels(vectors, rows)
    weight = torch.zeros(len(weight_decays), classes, vectors.shape[1], device=vectors.device, requires_grad=True)
    bias = torch.zeros(len(weight_decays), classes, device=vectors.device, requires_grad=True)
    decays = torch.tensor(weight_decays, device=vectors.device)
    batch_size = min(BATCH_SIZE, len(rows))
    steps_per_epoch = len(rows) // batch_size
    optimizer = torch.optim.SGD([weight, bias], lr=probe_learning_rate(batch_size), momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_per_epoch)))
    )
    for _ in progress_bar(range(epochs), desc=description, unit=" epochs"):
        order = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
        for batch in order.split(batch_size)[:steps_per_epoch]:
            inputs = standardization.apply(vectors[batch])
            scores = F.linear(inputs, weight.flatten(0, 1), bias.flatten()).view(-1, classes)
            targets = labels[batch].repeat_interleave(len(weight_decays))
            losses = F.cross_entropy(scores, targets, reduction="sum") / batch_size
            penalties = (decays * weight.square().sum((1, 2))).sum() / 2  # the gradient is that of SGD's weight decay
            optimizer.zero_grad()
            (losses + penalties).backward()
            optimizer.step()
            schedule.step()
    return [standardization.fold(*parameters) for parameters in zip(weight, bias, strict=True)]


def _measure_channels(vectors: Tensor, rows: Tensor) -> _Standardization:
    """Measure mean and standard deviation of each channel over the given rows, in float64.

    Raises UserError if features are not finite.
    """
    chunks = rows.split(ROWS_PER_CHUNK)
    mean = torch.stack([vectors[chunk].double().sum(0) for chunk in chunks]).sum(0) / len(rows)
    if not mean.isfinite().all():
        raise UserError("linear probe: expected finite numbers as features, found NaN or infinity; exclude this model")
    squares = torch.stack([(vectors[chunk].double() - mean).square().sum(0) for chunk in chunks]).sum(0)
    std = (squares / len(rows)).sqrt()
    varies = std > MIN_RELATIVE_STD * mean.abs()
    return _Standardization(mean.float(), torch.where(varies, 1 / std, 0).float())


@torch.inference_mode()
def _score(probe: nn.Linear, vectors: Tensor, labels: Tensor, rows: Tensor) -> HeldOutScore:
    """Score a probe on the given rows of the features."""
    correct, loss = 0, 0.0
    for chunk in rows.split(ROWS_PER_CHUNK):
        logits = probe(vectors[chunk])
        correct += int((logits.argmax(1) == labels[chunk]).sum())
        loss += float(F.cross_entropy(logits, labels[chunk], reduction="sum"))
    return HeldOutScore(correct / len(rows), loss / len(rows))
