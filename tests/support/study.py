"""Result files of the study of controls, made up instead of trained."""

from pathlib import Path
from typing import Any

from trainer.studies.control_decision import read_plan
from trainer.studies.control_results import Result, SuiteMeasurement, result_name


def make_result(recipe: str, seed: int, top1: float, cc: float | None = None, **settings: Any) -> Result:
    """Return the result of a run at the planned scale, with an offline probe's accuracy (a fraction) and perhaps a CC.

    `settings` are those that differ from the plan.
    """
    planned = {name: value for name, value in read_plan().items() if name != "seeds"}
    measured = {
        "linear": SuiteMeasurement(
            of={"val": "a"}, results={"offline": {"top1": top1}, "concurrent": {"top1": top1 / 2}}
        )
    }
    if cc is not None:
        measured["alignment"] = SuiteMeasurement(of={"people": "b"}, results={"cc": cc, "nss": None})
    data = {"checksum": "c", "samples": 50_000, "classes": 100}
    return Result(
        recipe=recipe,
        seed=seed,
        settings=planned | settings,
        data=data,
        measured=measured,
        checkpoint="d",
        versions={"device": "CPU"},
    )


def write_results(folder: Path, *results: Result) -> Path:
    """Write result files, named as a study names them, to a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        (folder / result_name(result.recipe, result.seed)).write_text(result.model_dump_json())
    return folder
