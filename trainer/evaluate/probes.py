"""Linear classifiers on frozen features: trained with the network (concurrent), or afterwards (offline)."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.progress import progress_bar
from trainer.evaluate.features import FeatureSet, FeatureStore
from trainer.evaluate.images.image_sets import ImageSet, check_classes
from trainer.evaluate.models import EvaluatedModel
from trainer.optim import probe_learning_rate

PROBE_BATCH_SIZE = 256
VECTORS_PER_CHUNK = 8192  # classified at once
CONCURRENT, OFFLINE = "concurrent", "offline"


class Classifier(NamedTuple):
    """A linear classifier of features.

    Attributes:
        kind: "concurrent" or "offline".
        logits: function from features [n, channels] to class scores [n, classes].
        classes: class names by index.
        source: where the classes come from, for error messages.
    """

    kind: str
    logits: Callable[[Tensor], Tensor | None]
    classes: list[str]
    source: str

    def accuracy(self, features: FeatureSet, classes: list[str], device: torch.device) -> dict[str, float]:
        """Compute top-1 and top-5 accuracy, as fractions.

        `classes` are the names of the classes that the labels of the features refer to. Of classes with equal scores
        the first wins, as with argmax. Raises UserError if scores are not finite.
        """
        index = {name: number for number, name in enumerate(self.classes)}
        labels = torch.tensor([index[name] for name in classes])[torch.from_numpy(features.labels)]
        ranks = self._ranks(features.vectors, labels, device)
        return {"top1": float((ranks < 1).double().mean()), "top5": float((ranks < 5).double().mean())}

    @torch.inference_mode()
    def _ranks(self, vectors: np.ndarray, labels: Tensor, device: torch.device) -> Tensor:
        """Return the rank of each image's class, counted from 0, [n]."""
        ranks = []
        for start in range(0, len(vectors), VECTORS_PER_CHUNK):
            scores = self.logits(torch.from_numpy(vectors[start : start + VECTORS_PER_CHUNK]).to(device))
            assert scores is not None, "a classifier always has scores"
            if not scores.isfinite().all():
                raise UserError(
                    f"the {self.kind} probe of {self.source}: expected finite numbers as scores, found NaN or "
                    "infinity; evaluate without this model"
                )
            label_column = labels[start : start + VECTORS_PER_CHUNK, None].to(device)
            label_scores = scores.gather(1, label_column)
            is_earlier = torch.arange(scores.shape[1], device=device) < label_column
            ranks.append(((scores > label_scores) | ((scores == label_scores) & is_earlier)).sum(1).cpu())
        return torch.cat(ranks)


class Probes:
    """The classifiers of models; an offline probe is trained when it is first needed.

    Class folders are always given by their names in sorted order.

    Args:
        store: features of the training images.
        open_train: function that opens the images of --train; None without it.
        epochs: epochs of offline probes.
        seed: random seed of offline probes.
        device: where probes are trained and applied.
    """

    def __init__(
        self,
        store: FeatureStore,
        open_train: Callable[[], ImageSet | None],
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._store, self._open_train, self._epochs = store, open_train, epochs
        self._seed, self._device = seed, device
        self._offline: dict[str, Classifier] = {}

    @cached_property
    def _train(self) -> ImageSet | None:
        return self._open_train()

    def concurrent(self, model: EvaluatedModel, folders: list[str]) -> Classifier | None:
        """Return the classifier that was trained with the network.

        Returns None if there is none, or if it does not fit the class folders and --train allows an offline probe. A
        plain weights file does not name its classes: equally many class folders are assigned to them in order.

        Raises UserError if the classifier does not fit and there is no --train.
        """
        if not self._class_count(model):
            return None
        if mismatch := self._mismatch(model, folders):
            if self._train is not None:
                return None
            raise UserError(
                f"{model.location}: {mismatch}; expected as many, whose sorted names are its classes in order; or name "
                "images of these classes with --train, to train an offline probe"
            )
        classes = folders if model.classes is None else model.classes
        return Classifier(CONCURRENT, model.logits_of, classes, f"{model.name}'s training")

    def offline(self, model: EvaluatedModel) -> Classifier | None:
        """Return a classifier trained on the features of --train; None without --train."""
        if self._train is None:
            return None
        if model.name not in self._offline:
            features = self._store.get(model, self._train)
            linear = fit_linear_probe(
                torch.from_numpy(features.vectors),
                torch.from_numpy(features.labels),
                len(self._train.classes),
                self._epochs,
                self._seed,
                self._device,
                model.name,
            )
            self._offline[model.name] = Classifier(OFFLINE, linear, self._train.classes, f"{model.name} on --train")
        return self._offline[model.name]

    def concurrent_or_offline(self, model: EvaluatedModel, folders: list[str]) -> Classifier:
        """Return the concurrent classifier or, if there is none, the offline one. `check` must have passed."""
        classifier = self.concurrent(model, folders) or self.offline(model)
        assert classifier is not None, "check raises UserError for a model without a classifier"
        return classifier

    def check(self, model: EvaluatedModel, folders: list[str], what: str) -> None:
        """Raise UserError if a model has no classifier, or one whose classes are not those of the class folders.

        `what` names the images for the message, such as "--val".
        """
        concurrent = self.concurrent(model, folders)
        if concurrent is None and self._train is None:
            raise UserError(
                f"{model.location}: has no linear probe of its own; name images with --train, to train an offline probe"
            )
        if concurrent is not None:
            check_classes(folders, concurrent.classes, what, concurrent.source)
        if self._train is not None:
            check_classes(folders, self._train.classes, what, "--train")

    def notes(self, models: Sequence[EvaluatedModel], folders: list[str]) -> list[str]:
        """Describe which models are measured with an offline probe only although they have a classifier, and why."""
        mismatches = [(model.name, self._mismatch(model, folders)) for model in models]
        return [f"{name} {mismatch}: only an offline probe is measured." for name, mismatch in mismatches if mismatch]

    def _mismatch(self, model: EvaluatedModel, folders: list[str]) -> str:
        """Describe why a classifier without class names does not fit the folders; empty if it does, or has names."""
        count = self._class_count(model)
        if not count or model.classes is not None or count == len(folders):
            return ""
        return f"knows {count:,} classes without their names, found {len(folders):,} class folders"

    def _class_count(self, model: EvaluatedModel) -> int:
        """Return the number of classes of a model's own classifier; 0 without one."""
        scores = model.logits_of(torch.zeros(1, model.channels, device=self._device))
        return 0 if scores is None else scores.shape[1]


def fit_linear_probe(
    vectors: Tensor, labels: Tensor, classes: int, epochs: int, seed: int, device: torch.device, name: str = "probe"
) -> nn.Linear:
    """Train a linear classifier by SGD, from weights of 0.

    Nesterov momentum 0.9, no weight decay, batches of N = 256 (or all images if there are fewer), learning rate
    0.1 * N / 256 with a cosine schedule to 0.

    Args:
        vectors: features, float32 [n, channels].
        labels: class indices, int64 [n].
        classes: number of classes.
        epochs: number of epochs.
        seed: random seed of the order of the images.
        device: where the classifier is trained.
        name: name for the progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    probe = nn.Linear(vectors.shape[1], classes).to(device)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    batch_size = min(PROBE_BATCH_SIZE, len(vectors))
    steps_per_epoch = len(vectors) // batch_size
    optimizer = torch.optim.SGD(probe.parameters(), lr=probe_learning_rate(batch_size), momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_per_epoch)))
    )
    vectors, labels = vectors.to(device), labels.to(device)
    for _ in progress_bar(range(epochs), desc=f"{name}, offline probe", unit=" epochs"):
        order = torch.randperm(len(vectors), generator=generator).to(device)
        for step in range(steps_per_epoch):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            optimizer.zero_grad()
            F.cross_entropy(probe(vectors[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return probe
