"""Refit of every model's read-out, where the model has one and a labeled data set can be read."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from common.errors import UserError, describe_error
from trainer.data.decoding import Members
from trainer.evaluate.alignment.readout import FittedReadout, find_selection, fit_readout
from trainer.evaluate.alignment.teacher_maps import collect_fit_data, draw_samples
from trainer.evaluate.images.image_sets import is_labeled
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.suite import Context
from trainer.model.attention import AttentionReadout

NOTHING_TO_REFIT = "its maps do not come from a linear read-out, so there is nothing to refit"


class Refit(NamedTuple):
    """A refit read-out.

    Attributes:
        readout: the read-out, on the device of the model.
        fit: its parameters and the fit that gave them.
        data: labeled data set whose maps it was fitted on.
    """

    readout: AttentionReadout
    fit: FittedReadout
    data: str

    def to_json(self) -> dict[str, Any]:
        """Return the fit as an object of results.json."""
        return {**self.fit._asdict(), "data": self.data}


def refit_readouts(context: Context) -> tuple[dict[str, Refit], dict[str, str]]:
    """Refit the read-out of every model on frozen features, on the same images for all that share a data set.

    Returns the refits, and the reasons why some models have none, by the model's name. Raises UserError for a model
    whose features hold NaN or infinity.
    """
    settings = context.settings
    read_samples = cache(partial(draw_samples, seed=settings.seed))
    refits: dict[str, Refit] = {}
    omissions: dict[str, str] = {}
    for model in context.models:
        select = find_selection(model.network)
        if select is None:
            omissions[model.name] = NOTHING_TO_REFIT
            continue
        try:
            location, samples = _read_first(_fit_locations(settings.train, model), read_samples)
            data = collect_fit_data(context, model, select, samples)
        except UserError as error:
            omissions[model.name] = f"its read-out cannot be refit: {describe_error(error)}"
            continue
        try:
            fit = fit_readout(data)
        except ValueError as error:
            raise UserError(
                f"{model.location}: {describe_error(error)}; its weights have diverged or are damaged: evaluate "
                "without it"
            ) from None
        refits[model.name] = Refit(fit.make(select, context.device), fit, location)
    return refits, omissions


def _fit_locations(train: str | None, model: EvaluatedModel) -> list[str]:
    """Return the labeled data sets that a model's read-out may be fitted on, the preferred one first."""
    locations = [train] if train and is_labeled(train) else []
    return locations + ([model.data] if model.data else [])


def _read_first(locations: Sequence[str], read: Callable[[str], list[Members]]) -> tuple[str, list[Members]]:
    """Return the first location that can be read, and its samples. Raises UserError, with all reasons, if none can."""
    reasons = []
    for location in locations:
        try:
            return location, read(location)
        except UserError as error:
            reasons.append(describe_error(error))
    raise UserError("; ".join(reasons) or "expected a labeled data set as --train, found none")
