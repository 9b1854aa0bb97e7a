"""The classifiers of models: probes trained with the network (concurrent) or afterwards (offline), and neighbors."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.text import join_names
from trainer.evaluate.config import BOTH, CONCURRENT, OFFLINE, ProbeKind
from trainer.evaluate.features import FeatureSet, FeatureStore
from trainer.evaluate.images.image_sets import ImageSet, check_classes
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.neighbors import NEIGHBORS, vote
from trainer.evaluate.offline_probe import choose_weight_decay, fit_linear_probe

VECTORS_PER_CHUNK = 8192  # classified at once


class Classifier(NamedTuple):
    """A classifier of features.

    Attributes:
        kind: "concurrent", "offline", or "knn_K" for the vote of K neighbors.
        logits: function from features [n, channels] to class scores [n, classes].
        classes: class names by index.
        source: where the classes come from, for error messages.
        details: how it was trained, for results.json.
        notes: remarks for the reader of the results.
        is_vote: whether scores are votes, so that a class with a score of 0 is not among the first five.
    """

    kind: str
    logits: Callable[[Tensor], Tensor | None]
    classes: list[str]
    source: str
    details: Mapping[str, Any] = MappingProxyType({})
    notes: Sequence[str] = ()
    is_vote: bool = False

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
        """Return the rank of each image's class, counted from 0, [n]; infinity if the class has no vote."""
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
            rank = ((scores > label_scores) | ((scores == label_scores) & is_earlier)).sum(1).double()
            if self.is_vote:
                rank[label_scores[:, 0] == 0] = torch.inf
            ranks.append(rank.cpu())
        return torch.cat(ranks)


class Probes:
    """The classifiers of models; an offline probe is trained when it is first needed.

    The weight decay of an offline probe is chosen on a held-out fifth of the training images; the probe is then trained
    on all of them.

    Class folders are always given by their names in sorted order.

    Args:
        store: features of the training images.
        open_train: function that opens the images of --train; None without it.
        epochs: epochs of offline probes.
        seed: random seed of offline probes.
        device: where probes are trained and applied.
        kind: which probes `selected` returns.
    """

    def __init__(
        self,
        store: FeatureStore,
        open_train: Callable[[], ImageSet | None],
        epochs: int,
        seed: int,
        device: torch.device,
        kind: ProbeKind = BOTH,
    ) -> None:
        self._store, self._open_train, self._epochs = store, open_train, epochs
        self._seed, self._device, self._kind = seed, device, kind
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
            self._offline[model.name] = self._fit(model, self._train)
        return self._offline[model.name]

    def _fit(self, model: EvaluatedModel, train: ImageSet) -> Classifier:
        features = self._store.get(model, train)
        vectors = torch.from_numpy(features.vectors).to(self._device)
        arguments = (vectors, torch.from_numpy(features.labels), len(train.classes), self._epochs, self._seed)
        choice = choose_weight_decay(*arguments, self._device, model.name)
        linear = fit_linear_probe(*arguments, self._device, model.name, choice.weight_decay)
        notes = []
        if not choice.held_out:
            notes.append(
                f"{model.name}: every class of --train has a single image, so none was held out to choose the weight "
                f"decay of the offline probe: it is {choice.weight_decay:g}."
            )
        if not linear.weight.any():  # weights of constant channels stay 0
            notes.append(
                f"{model.name}: the features of all images of --train are the same, so the offline probe can only "
                "predict the most frequent class."
            )
        details = {
            "weight_decay": choice.weight_decay,
            "held_out": {f"{value:g}": score._asdict() for value, score in choice.held_out.items()},
        }
        return Classifier(OFFLINE, linear, train.classes, f"{model.name} on --train", details, notes)

    def nearest_neighbors(self, model: EvaluatedModel) -> list[Classifier]:
        """Return the votes of the 20 and the 200 nearest images of --train; an empty list without --train."""
        if self._train is None:
            return []
        features, classes = self._store.get(model, self._train), self._train.classes
        bank = F.normalize(torch.from_numpy(features.vectors).to(self._device))
        labels = torch.from_numpy(features.labels).to(self._device)

        def logits(k: int, vectors: Tensor) -> Tensor:
            return vote(vectors, bank, labels, len(classes), [k])[k]

        source = f"{model.name} on --train"
        return [Classifier(f"knn_{k}", partial(logits, k), classes, source, is_vote=True) for k in NEIGHBORS]

    def selected(self, model: EvaluatedModel, folders: list[str]) -> list[Classifier]:
        """Return the probes of the selected kinds that a model has, the primary one first.

        The concurrent probe, which is the paper's, is the primary one of a model that has both.
        """
        concurrent = None if self._kind == OFFLINE else self.concurrent(model, folders)
        offline = None if self._kind == CONCURRENT else self.offline(model)
        return [probe for probe in (concurrent, offline) if probe]

    def check(self, models: Sequence[EvaluatedModel], folders: list[str], what: str) -> None:
        """Raise UserError if models cannot be measured on class folders, before anything is.

        That is if there is only one class, if a probe's classes are not those of the folders, if a model has no probe
        and there is no --train, or if no model has a concurrent probe and only these are selected.

        `what` names the images for the message, such as "--val".
        """
        probes = {} if self._kind == OFFLINE else {model.name: self.concurrent(model, folders) for model in models}
        for model in models:
            if self._train is None and probes.get(model.name) is None and self._kind == BOTH:
                raise UserError(
                    f"{model.location}: has no linear probe of its own; name images with --train, to train an offline "
                    "probe"
                )
        if self._kind == CONCURRENT and not any(probes.values()):
            raise UserError(
                f"--probe-kind concurrent: expected a model with a linear probe of its own, found none in "
                f"{join_names([model.location for model in models])}; name images with --train and use --probe-kind "
                "offline"
            )
        if len(folders) < 2:
            raise UserError(
                f"{what}: expected images of at least two classes, found only {', '.join(folders) or 'none'}, which "
                "any classifier gets right; name a folder with more class folders"
            )
        for probe in filter(None, probes.values()):
            check_classes(folders, probe.classes, what, probe.source)
        if self._train is not None:
            check_classes(folders, self._train.classes, what, "--train")

    def notes(self, models: Sequence[EvaluatedModel], folders: list[str]) -> list[str]:
        """Describe which models are measured without a concurrent probe and why, and what offline probes lack."""
        notes = []
        for model in models:
            mismatch = self._mismatch(model, folders)
            if self._kind == CONCURRENT and self.concurrent(model, folders) is None:
                notes.append(f"{model.name} {mismatch or 'has no concurrent probe'}: it is not measured.")
            elif self._kind == BOTH and mismatch:
                notes.append(f"{model.name} {mismatch}: only an offline probe is measured.")
            if model.name in self._offline:
                notes += self._offline[model.name].notes
        return notes

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
