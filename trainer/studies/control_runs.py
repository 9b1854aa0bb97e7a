"""The runs of the study of controls: each is trained, measured by the suites of trainer.evaluate, and recorded."""

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.fixations import open_fixations
from common.launch import default_device
from common.storage.run_folder import RunFolder
from common.text import join_names
from trainer.config import TrainSettings
from trainer.data.fixation_stream import fixations_checksum
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.images.corruptions import ALEXNET_ERRORS
from trainer.evaluate.images.image_sets import FolderImages, text_checksum
from trainer.evaluate.job import RESULTS as REPORT_RESULTS
from trainer.evaluate.job import run_evaluation
from trainer.job import prepare_run
from trainer.run_log import LAST
from trainer.run_log import RESULT as RUN_RESULT
from trainer.studies.config import ControlsSettings
from trainer.studies.control_results import (
    Result,
    SuiteMeasurement,
    check_same_study,
    list_differences,
    read_results,
    result_name,
)
from trainer.studies.table import RUNS, check_runs, list_runs, train_if_missing

RESULTS, EVALUATIONS = "results", "evaluations"  # folders of the result files, and of the reports of single runs
SUMMARY_FILES = ("study.md", "study.csv", "study.html")
# settings that may differ between the runs of a study: what its arms are, and locations
RUN_SETTINGS = {"recipe", "seed", "data", "unfinished", "skip_damaged", "human_data", "human_batch_size"}
PACKAGES = ("imagenet-attn", "torch", "torchvision", "numpy")


def run_controls(settings: ControlsSettings) -> None:
    """Train and measure the runs without a complete result file, seed after seed, and write their result files.

    Raises UserError for settings or data that do not fit, before any run is trained.
    """
    folder = settings.study_folder()
    if "://" in folder:
        raise UserError(f"--output {folder}: a study needs a local folder; copy its results to share them")
    if settings.val is None:
        raise UserError("--val is needed: class folders of images that probes are measured on")
    by_recipe = list_runs(settings, settings.first_seed)
    runs = [run for same_seed in zip(*by_recipe.values(), strict=True) for run in same_seed]
    check_runs(settings, runs)
    RunFolder(folder).check_content("a study", SUMMARY_FILES[:1], (*SUMMARY_FILES, RUNS, EVALUATIONS, RESULTS))
    planned = _plan_results(settings, runs)
    _check_same_settings(planned)
    results = Path(folder) / RESULTS
    saved = read_results(str(results)) if any(results.glob("*.json")) else {}
    check_same_study(str(results), saved, planned[0], "the settings of this command")
    for run, result in zip(runs, planned, strict=True):
        _complete(settings, run, result, saved.get(result_name(result.recipe, result.seed)))


def _plan_results(settings: ControlsSettings, runs: Sequence[TrainSettings]) -> list[Result]:
    """Return the results of all runs without figures: only what they will be measured on. Raises UserError."""
    measured = {
        suite: SuiteMeasurement(of=_describe_suite(suite, settings), results={}) for suite in settings.wanted_suites()
    }
    planned = []
    for run in runs:
        config, data, _ = prepare_run(run)
        planned.append(
            Result(
                recipe=config.recipe,
                seed=config.seed,
                settings=config.model_dump(mode="json", exclude=RUN_SETTINGS),
                data={"checksum": data.checksum, "samples": data.samples, "classes": data.classes},
                measured=measured,
                checkpoint="",
                versions={},
            )
        )
    return planned


def _check_same_settings(planned: Sequence[Result]) -> None:
    """Raise UserError that names recipes whose settings differ, by other defaults than those of the first one."""
    first, *others = planned
    for other in others:
        if differences := list_differences("", other.settings, first.settings):
            raise UserError(
                f"--recipes: expected arms with equal settings, but those of {other.recipe} differ from those of "
                f"{first.recipe}: {join_names(differences)}; give these settings as flags, or leave out {other.recipe}"
            )


def _describe_suite(suite: str, settings: ControlsSettings) -> dict[str, Any]:
    """Return what identifies the data of a suite on every machine: no locations."""
    if suite == "alignment":
        assert settings.people is not None, "the suite is wanted only with --people"
        images = open_fixations(settings.people, "--people").images
        return {"people": fixations_checksum(images), "photographs": len(images)}
    assert settings.val is not None, "run_controls requires --val"
    val = FolderImages("--val", settings.val, "val")
    described = {"val": text_checksum(*val.names), "images": len(val.names)}
    if suite == "imagenet-c":
        described |= {"corrupted": settings.corrupted_images, "severities": sorted(set(settings.severities))}
    return described


def _complete(settings: ControlsSettings, run: TrainSettings, planned: Result, saved: Result | None) -> None:
    """Train a run and measure its missing suites, and write its result file; do nothing if it is complete."""
    before = {} if saved is None else saved.measured
    missing = [suite for suite in planned.measured if suite not in before]
    if not missing:
        return
    name = result_name(planned.recipe, planned.seed)
    if saved is not None and RunFolder(run.output_folder()).read_json(RUN_RESULT) is None:
        raise UserError(
            f"{run.output_folder()}: expected the run that {RESULTS}/{name} was measured on, to measure "
            f"{', '.join(missing)} too; copy its folder here, or leave these suites out (--suites)"
        )
    print(f"{planned.recipe}, seed {planned.seed}: {', '.join(missing)} to measure", flush=True)
    train_if_missing(run)
    checkpoint, found = _evaluate(settings, run, missing)
    measured = {suite: SuiteMeasurement(of=planned.measured[suite].of, results=found[suite]) for suite in missing}
    if saved is not None and saved.checkpoint != checkpoint:
        raise UserError(
            f"{run.output_folder()}/{LAST}: not the checkpoint that {RESULTS}/{name} was measured on; restore that "
            "one, or remove the result file to measure the run anew"
        )
    changes = {"measured": before | measured, "checkpoint": checkpoint, "versions": _describe_versions()}
    folder = RunFolder(f"{settings.study_folder()}/{RESULTS}")
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json(name, planned.model_copy(update=changes).model_dump(mode="json"))


def _evaluate(settings: ControlsSettings, run: TrainSettings, suites: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Evaluate a trained run; return the checksum of its checkpoint and its results by suite."""
    output = Path(settings.study_folder()) / EVALUATIONS / Path(run.output_folder()).name / "-".join(suites)
    values: dict[str, Any] = {
        "checkpoints": [f"{run.output_folder()}/{LAST}"],
        "suite": list(suites),
        "train": settings.data if {"linear", "imagenet-c"} & set(suites) else None,  # for offline probes
        "val": settings.val,
        "human_data": [settings.people] if "alignment" in suites else [],
        "corruptions": list(ALEXNET_ERRORS),  # the 15 of the mean
        "images": settings.corrupted_images,
        "severities": settings.severities,
        "output": str(output),
    }
    evaluation = EvaluateSettings(**values)
    evaluation.check()
    run_evaluation(evaluation)
    [(model, results)] = json.loads((output / REPORT_RESULTS).read_text()).items()
    shutil.rmtree(output / "features", ignore_errors=True)  # 4 bytes per channel, image and set: too much for many runs
    found = {suite: results[suite][model] if suite == "alignment" else results[suite] for suite in suites}
    return results["checkpoint"]["sha256"], found


def _describe_versions() -> dict[str, str]:
    device = default_device()
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    }
