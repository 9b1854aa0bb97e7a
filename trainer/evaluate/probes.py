"""Linear classifiers on frozen features: the one that learned with the network, and one that learns afterwards."""

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

BATCH = 256
CHUNK = 8192  # rows that are classified at once
CONCURRENT, OFFLINE = "concurrent", "offline"


class Classifier(NamedTuple):
    """A linear classifier, the classes that it knows by index, and where they come from."""

    kind: str
    module: Callable[[Tensor], Tensor | None]
    classes: list[str]
    source: str

    def accuracy(self, found: FeatureSet, classes: list[str], device: torch.device) -> dict[str, float]:
        """The shares of images whose class scores highest, and among the five highest; `classes` are the labels'.

        Of classes that score alike the first comes first, as argmax has it. Raises UserError for scores that are none.
        """
        index = {name: number for number, name in enumerate(self.classes)}
        labels = torch.tensor([index[name] for name in classes])[torch.from_numpy(found.labels)]
        ranks = self._ranks(found.rows, labels, device)
        return {"top1": float((ranks < 1).double().mean()), "top5": float((ranks < 5).double().mean())}

    @torch.inference_mode()
    def _ranks(self, rows: np.ndarray, labels: Tensor, device: torch.device) -> Tensor:
        """How many classes come before the right one, [n]."""
        ranks = []
        for start in range(0, len(rows), CHUNK):
            scores = self.module(torch.from_numpy(rows[start : start + CHUNK]).to(device))
            assert scores is not None
            if not scores.isfinite().all():
                raise UserError(
                    f"the {self.kind} probe of {self.source}: expected numbers as scores, found NaN or infinity; leave "
                    "the model out"
                )
            at = labels[start : start + CHUNK, None].to(device)
            right = scores.gather(1, at)
            earlier = torch.arange(scores.shape[1], device=device) < at
            ranks.append(((scores > right) | ((scores == right) & earlier)).sum(1).cpu())
        return torch.cat(ranks)


class Probes:
    """The classifiers of models; an offline one learns when it is first asked for."""

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
        """What learned with the network; None where nothing did, or where it cannot be used and --train can.

        A plain weights file does not name its classes: as many class folders as it has classes are taken in order.
        Raises UserError where they are not as many, and an offline probe cannot learn without --train.
        """
        known = self._known(model)
        if not known:
            return None
        if unnamed := self.unnamed(model, folders):
            if self._train is not None:
                return None
            raise UserError(
                f"{model.location}: {unnamed}; expected as many, whose sorted names are its classes in order; "
                "or name what a probe of these classes can learn from with --train"
            )
        classes = folders if model.classes is None else model.classes
        return Classifier(CONCURRENT, model.scores, classes, f"{model.name}'s training")

    def unnamed(self, model: EvaluatedModel, folders: list[str]) -> str:
        """Why a model's own classifier does not fit these folders; empty where it does, or where there is none."""
        known = self._known(model)
        if not known or model.classes is not None or known == len(folders):
            return ""
        return f"knows {known:,} classes without their names, found {len(folders):,} class folders"

    def notes(self, models: Sequence[EvaluatedModel], folders: list[str]) -> list[str]:
        """Which models are measured by an offline probe alone although they have a classifier, and why."""
        reasons = [(model.name, self.unnamed(model, folders)) for model in models]
        return [f"{name} {reason}: only an offline probe is measured." for name, reason in reasons if reason]

    def _known(self, model: EvaluatedModel) -> int:
        """How many classes a model's own classifier tells apart; 0 without one."""
        probed = model.scores(torch.zeros(1, model.channels, device=self._device))
        return 0 if probed is None else probed.shape[1]

    def offline(self, model: EvaluatedModel) -> Classifier | None:
        """What learns from the features of --train; None without it."""
        if self._train is None:
            return None
        if model.name not in self._offline:
            found = self._store.get(model, self._train)
            module = fit_linear_probe(
                torch.from_numpy(found.rows),
                torch.from_numpy(found.labels),
                len(self._train.classes),
                self._epochs,
                self._seed,
                self._device,
                model.name,
            )
            self._offline[model.name] = Classifier(OFFLINE, module, self._train.classes, f"{model.name} on --train")
        return self._offline[model.name]

    def check(self, model: EvaluatedModel, folders: list[str], what: str) -> None:
        """Raises UserError where a model has no classifier, or one that knows other classes than these folders."""
        concurrent = self.concurrent(model, folders)
        if concurrent is None and self._train is None:
            raise UserError(
                f"{model.location}: has no linear probe of its own; name what one can learn from with --train"
            )
        if concurrent is not None:
            check_classes(folders, concurrent.classes, what, concurrent.source)
        if self._train is not None:
            check_classes(folders, self._train.classes, what, "--train")

    def best_known(self, model: EvaluatedModel, folders: list[str]) -> Classifier:
        """The concurrent classifier or, where there is none, the offline one."""
        found = self.concurrent(model, folders) or self.offline(model)
        assert found is not None, "check comes first"
        return found


def fit_linear_probe(
    rows: Tensor, labels: Tensor, classes: int, epochs: int, seed: int, device: torch.device, name: str = "probe"
) -> nn.Linear:
    """A linear classifier of features [n, C] float32 with labels [n], by SGD.

    Nesterov momentum 0.9, learning rate 0.1 * N / 256 at batches of N (256, or all rows where they are fewer), cosine
    to 0 over the epochs, no weight decay; it begins at 0.
    """
    generator = torch.Generator().manual_seed(seed)
    probe = nn.Linear(rows.shape[1], classes).to(device)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    batch = min(BATCH, len(rows))
    steps = len(rows) // batch
    optimizer = torch.optim.SGD(probe.parameters(), lr=probe_learning_rate(batch), momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
    )
    rows, labels = rows.to(device), labels.to(device)
    for _ in progress_bar(range(epochs), desc=f"{name}, offline probe", unit=" epochs"):
        order = torch.randperm(len(rows), generator=generator).to(device)
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            optimizer.zero_grad()
            F.cross_entropy(probe(rows[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return probe
