"""The search for lambda and beta: trials under Ray Tune, each a training run on four fifths of the shards."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, describe_error
from common.launch import Rank, default_device
from common.storage.run_folder import RunFolder
from common.training import save_or_check_settings
from trainer.config import TrainSettings
from trainer.data.dataset import Dataset, split_shards
from trainer.job import prepare_run
from trainer.loop import train
from trainer.objectives import Model
from trainer.recipes import build
from trainer.studies.config import SearchSettings
from trainer.studies.held_out import measure_accuracy, read_shard_images

KLD_WEIGHTS, NSS_WEIGHTS = (0.1, 5.0), (0.01, 1.0)  # paper 4.1
HELD_OUT = 0.2  # of the shards
HELD_OUT_ACCURACY = "held_out_accuracy"
SETTINGS, ACCURACIES, TUNE = "search.json", "accuracies.json", "tune"
REDUCTION = 3  # one trial in so many goes on from a rung


@dataclass(frozen=True)
class Trial:
    """A pair of weights, how often the probe was right on held-out shards after each epoch, and if it was stopped."""

    kld_weight: float
    nss_weight: float
    accuracies: tuple[float, ...]
    stopped: bool


def search(settings: SearchSettings) -> list[Trial]:
    """Run all trials, or those that are left; best first. Raises UserError."""
    settings.refuse("these are searched", "kld_weight", "nss_weight")
    settings.refuse("a trial is one worker; see --concurrent", "workers")
    folder = settings.folder()
    if "://" in folder:
        raise UserError(f"--output {folder}: a search needs a folder that all its workers see, not a store")
    config, data, _ = prepare_run(settings)
    if data.classes is None or config.probe is False:
        raise UserError("a search compares probes: use samples with classes, without --no-probe")
    if not any(part.guides_backbone for part in build(config.recipe, config, data.classes).objectives):
        raise UserError(
            f"--recipe {config.recipe}: no attention loss reaches the network, lambda and beta decide nothing"
        )
    parts = split_shards(data, HELD_OUT, config.seed)
    if parts[0].samples < config.batch_size:
        raise UserError(
            f"--batch-size {config.batch_size}: a search learns from four fifths of the shards, which hold "
            f"{parts[0].samples:,} of the {data.samples:,} samples; choose fewer"
        )
    points = [(round(kld, 4), round(nss, 5)) for kld, nss in sample_weights(settings.trials, config.seed)]
    search_folder = RunFolder(folder)
    search_folder.check_writable()
    identity = config.model_dump(mode="json") | {"dataset": data.checksum, "trials": settings.trials}
    save_or_check_settings(search_folder, SETTINGS, identity)
    runs = [settings.run(kld_weight=kld, nss_weight=nss, output=_trial_folder(folder, kld, nss)) for kld, nss in points]
    _run_all(runs, parts, folder, config.epochs, settings.concurrent)
    trials = [_trial(run, config.epochs) for run in runs]
    if not all(trial.accuracies for trial in trials):
        raise KeyboardInterrupt  # Ray Tune ends quietly where the user stops it
    return sorted(trials, key=lambda trial: trial.accuracies[-1] if trial.accuracies else -1.0, reverse=True)


def sample_weights(number: int, seed: int) -> list[tuple[float, float]]:
    """Pairs of lambda and beta, log-uniform, spread evenly over the square (a scrambled Sobol sequence)."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(2, seed=np.random.default_rng(seed)).random_base2(max(number - 1, 1).bit_length())[:number]
    low, high = np.log([KLD_WEIGHTS, NSS_WEIGHTS]).T
    return [(float(kld), float(nss)) for kld, nss in np.exp(low + sequence * (high - low))]


def run_trial(run: TrainSettings, training: Dataset, held_out: Dataset, report: Any) -> None:
    """One trial, from where it was stopped; `report` is told each epoch's figures. Raises UserError."""
    device = default_device()
    size, threads = run.train_config().image_size, run.threads_per_worker(device.type)

    def after_epoch(epoch: int, model: Model) -> dict[str, float]:
        found = {HELD_OUT_ACCURACY: measure_accuracy(model, read_shard_images(held_out, size, threads), device)}
        before = read_accuracies(run.output_folder())[: epoch - 1]
        folder.write_json(ACCURACIES, [*before, found[HELD_OUT_ACCURACY]])  # first: a report may be a trial's end
        report({"epoch": epoch, **found})
        return found

    folder = RunFolder(run.output_folder())
    if known := read_accuracies(run.output_folder()):
        report({"epoch": len(known), HELD_OUT_ACCURACY: known[-1]})
    folder.path.mkdir(parents=True, exist_ok=True)
    train(run, training, run.output_folder(), Rank(0, 1, device), after_epoch)


def read_accuracies(output: str) -> list[float]:
    """On the held-out shards, after each epoch that a trial has done."""
    return list(RunFolder(output).read_json(ACCURACIES) or [])


def _run_all(
    runs: list[TrainSettings], parts: tuple[Dataset, Dataset], folder: str, epochs: int, concurrent: int
) -> None:
    """All trials under Ray Tune, which stops poor ones (ASHA) and knows after an interruption which are left."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from common.cluster import join_ray, max_per_machine, worker_environment

    join_ray(show_workers_output=False)
    environment = worker_environment()

    def trial(parameters: dict[str, int]) -> None:
        os.environ.update(environment)
        run_trial(runs[parameters["number"]], *parts, tune.report)

    available = ray.cluster_resources()
    # a trial lies on one machine
    share = {kind: min(available.get(kind, 0) / concurrent, max_per_machine(kind)) for kind in ("CPU", "GPU")}
    if max_per_machine("CPU") < 1:
        raise UserError("a search needs a CPU for each trial, this cluster has none")
    needs = {"cpu": max(int(share["CPU"]), 1), "gpu": min(share["GPU"], 1)}
    trainable, place = tune.with_resources(trial, needs), Path(folder).resolve() / TUNE
    scheduler = ASHAScheduler("epoch", max_t=epochs + 1, grace_period=max(epochs // 9, 1), reduction_factor=REDUCTION)
    if tune.Tuner.can_restore(str(place)):
        tuner = tune.Tuner.restore(str(place), trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search(list(range(len(runs))))},
            tune_config=tune.TuneConfig(
                metric=HELD_OUT_ACCURACY,
                mode="max",
                max_concurrent_trials=concurrent,
                scheduler=scheduler,
            ),
            run_config=tune.RunConfig(name=TUNE, storage_path=str(place.parent), verbose=1),
        )
    if errors := tuner.fit().errors:
        first = describe_error(getattr(errors[0], "cause", None) or errors[0])
        raise UserError(f"{len(errors)} of {len(runs)} trials failed; the same command tries them again: {first}")


def _trial(run: TrainSettings, epochs: int) -> Trial:
    found = tuple(read_accuracies(run.output_folder()))
    return Trial(run.kld_weight, run.nss_weight, found, len(found) < epochs)


def _trial_folder(folder: str, kld_weight: float, nss_weight: float) -> str:
    return f"{Path(folder).resolve()}/trials/kld{kld_weight}-nss{nss_weight}"
