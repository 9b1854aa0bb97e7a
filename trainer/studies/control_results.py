"""Result files of the study of controls: one small JSON document for each run, which can be copied between machines."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from common.errors import UserError, describe_error
from common.storage import open_storage
from common.text import join_names

SUFFIX = ".json"


class SuiteMeasurement(BaseModel):
    """What a suite of trainer.evaluate measured.

    Attributes:
        of: what it was measured on, such as checksums of images; the same in all results that are compared.
        results: the model's entry in results.json.
    """

    of: dict[str, Any]
    results: dict[str, Any]


class Result(BaseModel):
    """Result of one run.

    Attributes:
        format: version of this format.
        recipe: recipe of the run, its arm of the study.
        seed: seed of the run.
        settings: settings that all runs of a study share: those that decide the weights, without recipe, seed and
            locations.
        data: checksum of the labeled data set, and numbers of samples and classes.
        measured: measurements by suite.
        checkpoint: SHA-256 of the checkpoint that was measured.
        versions: versions of the libraries, and the device, for information.
    """

    format: Literal[1] = 1
    recipe: str
    seed: int
    settings: dict[str, Any]
    data: dict[str, Any]
    measured: dict[str, SuiteMeasurement]
    checkpoint: str
    versions: dict[str, str]

    def figure(self, outcome: "Outcome") -> float | None:
        """Return an outcome; None if it was not measured."""
        found: Any = self.measured[outcome.suite].results if outcome.suite in self.measured else None
        for key in outcome.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else outcome.scale * float(found)


class Outcome(NamedTuple):
    """A figure of each run.

    Attributes:
        name: name in tables.
        title: name for people.
        suite: suite that measures it.
        path: keys that lead to it in the suite's results.
        scale: factor for display.
        digits: digits for display.
        compared: whether recipes are compared by it; the center prior is the same for all.
    """

    name: str
    title: str
    suite: str
    path: tuple[str, ...]
    scale: float = 100
    digits: int = 2
    compared: bool = True


PRIMARY = Outcome("offline_top1", "top-1, offline probe (%)", "linear", ("offline", "top1"))
OUTCOMES = (
    PRIMARY,
    Outcome("concurrent_top1", "top-1, concurrent probe (%)", "linear", ("concurrent", "top1")),
    Outcome("corrupted_top1", "top-1, corrupted, offline probe (%)", "imagenet-c", ("offline", "mean")),
    Outcome("cc", "CC with eye tracking", "alignment", ("cc",), 1, 3),
    Outcome("cc_permuted", "CC, permuted", "alignment", ("cc_permuted",), 1, 3),
    Outcome("cc_center", "CC, center prior", "alignment", ("cc_center",), 1, 3, compared=False),
    Outcome("nss", "NSS", "alignment", ("nss",), 1, 3),
    Outcome("auc_shuffled", "shuffled AUC", "alignment", ("auc_shuffled",), 1, 3),
)

Results = Mapping[str, Result]  # by file name


def result_name(recipe: str, seed: int) -> str:
    """Return the name of a run's result file."""
    return f"{recipe}-seed{seed}{SUFFIX}"


def read_results(folder: str) -> dict[str, Result]:
    """Read all result files of a folder, local or in S3, and check that they belong to one study.

    Returns the results by file name. Raises UserError if there are none, if one cannot be read, if two are of the same
    run, or if they are of different settings or data.
    """
    storage = open_storage(folder)
    names = [name for name in storage.list() if name.endswith(SUFFIX)]
    if not names:
        raise UserError(f"{folder}: expected result files of trainer.studies.controls, such as RECIPE-seed0.json")
    results = {name: _parse_result(f"{folder}/{name}", storage.read(name)) for name in names}
    runs: dict[tuple[str, int], str] = {}
    for name, result in results.items():
        other = runs.setdefault((result.recipe, result.seed), name)
        if other != name:
            raise UserError(f"{folder}: {other} and {name} are results of the same run; remove one of them")
    for name, result in results.items():  # each with all: two results may share a suite that a third one lacks
        check_same_study(folder, results, result, name)
    return results


def check_same_study(folder: str, results: Results, expected: Result, source: str) -> None:
    """Raise UserError that names result files of other settings or data than the expected, those of `source`.

    What a suite was measured on is compared if both results have the suite.
    """
    for name, result in results.items():
        differences = [
            *list_differences("", result.settings, expected.settings),
            *list_differences("data ", result.data, expected.data),
        ]
        for suite in result.measured.keys() & expected.measured.keys():
            differences += list_differences(f"{suite} ", result.measured[suite].of, expected.measured[suite].of)
        if differences:
            raise UserError(
                f"{folder}: expected results of one study, but {name} differs from {source}: "
                f"{join_names(differences)}; move the results of other settings or data to a folder of their own"
            )


def list_differences(prefix: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return how values differ from the expected ones, such as "epochs is 3, not 30"; the prefix precedes names."""
    return [
        f"{prefix}{key} is {found.get(key)!r}, not {expected.get(key)!r}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]


def _parse_result(location: str, content: bytes) -> Result:
    try:
        return Result.model_validate_json(content)
    except ValueError as error:
        raise UserError(
            f"{location}: expected a result file of trainer.studies.controls: {describe_error(error)}"
        ) from None
