"""The search for the weights of KLD and NSS: trials under Ray Tune, each a training run on four fifths of the shards.

Ray is imported by `_run_trials` only, so that a trial can run in a plain process.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, qmc

from common.errors import UserError, describe_error
from common.fixations import FixatedImage
from common.launch import Rank, default_device
from common.storage.run_folder import RunFolder
from common.training import save_or_check_settings
from trainer.config import ADDED_SETTINGS, TrainConfig, TrainSettings
from trainer.data.dataset import Dataset, split_shards
from trainer.job import prepare_run, run_identity
from trainer.loop import train
from trainer.objectives import Model
from trainer.recipes import build
from trainer.studies.accuracy import measure_accuracy, read_shard_images
from trainer.studies.config import SearchSettings

KLD_WEIGHT_RANGE, NSS_WEIGHT_RANGE = (0.1, 5.0), (0.01, 1.0)  # of lambda and beta, paper 4.1
HELD_OUT_SHARE = 0.2  # of the shards
HELD_OUT_ACCURACY = "held_out_accuracy"  # name of the metric that is compared
SETTINGS = "search.json"
TRIALS, TUNE = "trials", "tune"  # folders of the trials, and of the state of Ray Tune
ACCURACIES = "accuracies.json"  # in a trial's folder
REDUCTION_FACTOR = 3  # ASHA continues one in three trials at each rung

Split = tuple[Dataset, Dataset]  # training shards and held-out shards


@dataclass(frozen=True)
class Trial:
    """Result of a trial.

    Attributes:
        kld_weight: weight of KLD (lambda in the paper).
        nss_weight: weight of NSS (beta in the paper).
        accuracies: accuracy of the probe on the held-out shards after each epoch, as fractions.
        stopped: whether the trial was stopped before its last epoch.
        held_out_images: number of images that the accuracies were measured on; None if unknown.
    """

    kld_weight: float
    nss_weight: float
    accuracies: tuple[float, ...]
    stopped: bool
    held_out_images: int | None = None

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval (Wilson) of the last accuracy, as if other images had been held out.

        It does not cover the random seed of the training. None if the number of images or the accuracy is unknown.
        """
        if not (self.accuracies and self.held_out_images):
            return None
        test = binomtest(round(self.accuracies[-1] * self.held_out_images), self.held_out_images)
        low, high = test.proportion_ci(0.95, method="wilson")
        return float(low), float(high)


def run_search(settings: SearchSettings) -> list[Trial]:
    """Run all trials that are missing, and return all, the best first.

    Raises UserError for settings or data that do not fit, before anything is written, and if trials fail. Raises
    KeyboardInterrupt if the user interrupts the search.
    """
    data, human_images = _check_settings(settings)
    folder = settings.study_folder()
    search_folder = RunFolder(folder)
    settings = settings.resume(search_folder.read_json(SETTINGS))
    config = settings.train_config()
    split = _split_data(config, data)
    weights = [(round(kld, 4), round(nss, 5)) for kld, nss in sample_weights(settings.trials, config.seed)]
    search_folder.check_content("a search", (SETTINGS,), (TRIALS, TUNE))
    search_folder.check_writable()
    identity = run_identity(config, data, human_images) | {"trials": settings.trials}
    save_or_check_settings(search_folder, SETTINGS, identity, ADDED_SETTINGS)
    runs = [
        settings.run_settings(kld_weight=kld, nss_weight=nss, output=_trial_folder(folder, kld, nss))
        for kld, nss in weights
    ]
    _run_trials(runs, split, folder, config.epochs, settings.concurrent)
    trials = [_read_trial(run, config.epochs, split[1].samples) for run in runs]
    if not all(trial.accuracies for trial in trials):
        raise KeyboardInterrupt  # Ray Tune handles Ctrl-C itself, and returns as if the search had ended
    return sorted(trials, key=lambda trial: trial.accuracies[-1], reverse=True)


def sample_weights(count: int, seed: int) -> list[tuple[float, float]]:
    """Return pairs of weights of KLD and NSS: a scrambled Sobol sequence, uniform on a logarithmic scale."""
    sequence = qmc.Sobol(2, seed=np.random.default_rng(seed)).random_base2(max(count - 1, 1).bit_length())[:count]
    low, high = np.log([KLD_WEIGHT_RANGE, NSS_WEIGHT_RANGE]).T
    return [(float(kld), float(nss)) for kld, nss in np.exp(low + sequence * (high - low))]


def run_trial(
    run: TrainSettings, training: Dataset, held_out: Dataset, report: Callable[[dict[str, Any]], None]
) -> None:
    """Run a trial, or resume it from its last checkpoint.

    Args:
        run: settings of the trial.
        training: shards to train on.
        held_out: shards to measure accuracy on.
        report: called with `epoch` (from 1) and `held_out_accuracy` after each epoch, and once on resuming. It may
            raise an exception to stop the trial.

    Raises UserError for damaged samples and checkpoints, and if the training diverges.
    """
    folder = RunFolder(run.output_folder())
    device = default_device()
    config, threads = run.train_config(), run.threads_per_worker(device.type)
    cache = run.shard_cache(held_out.location)

    def measure_and_report(epoch: int, model: Model) -> dict[str, float]:
        images = read_shard_images(held_out, config.image_size, threads, config.skip_damaged, cache)
        accuracy = measure_accuracy(model, images, device)
        earlier = read_accuracies(run.output_folder())[: epoch - 1]
        folder.write_json(ACCURACIES, [*earlier, accuracy])  # before the report, which may stop the trial
        report({"epoch": epoch, HELD_OUT_ACCURACY: accuracy})
        return {HELD_OUT_ACCURACY: accuracy}

    if accuracies := read_accuracies(run.output_folder()):
        report({"epoch": len(accuracies), HELD_OUT_ACCURACY: accuracies[-1]})
    folder.path.mkdir(parents=True, exist_ok=True)
    train(run, training, run.output_folder(), Rank(0, 1, device), measure_and_report)


def read_accuracies(output: str) -> list[float]:
    """Return the held-out accuracies of a trial so far, one per epoch, from the trial's folder."""
    return list(RunFolder(output).read_json(ACCURACIES) or [])


def _check_settings(settings: SearchSettings) -> tuple[Dataset, list[FixatedImage]]:
    """Return the data set, and the photographs with fixations for recipes that use them.

    Raises UserError if the settings, or the data set, do not allow a search.
    """
    settings.reject("these are searched", "kld_weight", "nss_weight")
    settings.reject("a trial is one worker; see --concurrent", "workers")
    settings.reject("a search measures each trial on the held-out shards; leave the flag out", "monitor")
    folder = settings.study_folder()
    if "://" in folder:
        raise UserError(f"--output {folder}: a search needs a folder that all its workers can reach, not a store")
    config, data, human_images = prepare_run(settings)
    if data.classes is None or config.probe is False:
        raise UserError("a search compares the accuracy of probes: use samples with classes, without --no-probe")
    objectives = build(config.recipe, config, data.classes).objectives
    if not any(objective.guides_backbone for objective in objectives):
        raise UserError(
            f"--recipe {config.recipe}: the attention loss does not train the backbone, so its weights have no effect "
            "on the accuracy; choose a guided recipe"
        )
    return data, human_images


def _split_data(config: TrainConfig, data: Dataset) -> Split:
    """Split the data set into training and held-out shards. Raises UserError if the former are less than a batch."""
    split = split_shards(data, HELD_OUT_SHARE, config.seed)
    if split[0].samples < config.batch_size:
        raise UserError(
            f"--batch-size {config.batch_size}: a search trains on four fifths of the shards, which hold "
            f"{split[0].samples:,} of the {data.samples:,} samples; choose a smaller batch"
        )
    return split


def _run_trials(runs: list[TrainSettings], split: Split, folder: str, epochs: int, concurrent: int) -> None:
    """Run the trials under Ray Tune, which stops poor ones early (ASHA) and skips finished ones on resuming."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from common.cluster import hidden_credentials, join_ray, max_per_machine, worker_environment

    join_ray(show_workers_output=False)
    environment = worker_environment()

    def trial(parameters: dict[str, int]) -> None:
        os.environ.update(environment)
        run_trial(runs[parameters["number"]], *split, tune.report)

    if max_per_machine("CPU") < 1:
        raise UserError("a search needs a CPU for each trial, this cluster has none")
    available = ray.cluster_resources()
    # a trial runs on one machine, so its share of the cluster cannot exceed one machine
    share = {kind: min(available.get(kind, 0) / concurrent, max_per_machine(kind)) for kind in ("CPU", "GPU")}
    trainable = tune.with_resources(trial, {"cpu": max(int(share["CPU"]), 1), "gpu": min(share["GPU"], 1)})
    state_folder = Path(folder).resolve() / TUNE
    if tune.Tuner.can_restore(str(state_folder)):
        tuner = tune.Tuner.restore(str(state_folder), trainable, resume_unfinished=True, resume_errored=True)
    else:
        scheduler = ASHAScheduler(
            "epoch", max_t=epochs + 1, grace_period=max(epochs // 9, 1), reduction_factor=REDUCTION_FACTOR
        )
        tuner = tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search(list(range(len(runs))))},
            tune_config=tune.TuneConfig(
                metric=HELD_OUT_ACCURACY,
                mode="max",
                max_concurrent_trials=concurrent,
                scheduler=scheduler,
            ),
            run_config=tune.RunConfig(name=TUNE, storage_path=str(state_folder.parent), verbose=1),
        )
    with hidden_credentials():
        errors = tuner.fit().errors
    if errors:
        first = describe_error(getattr(errors[0], "cause", None) or errors[0])
        raise UserError(f"{len(errors)} of {len(runs)} trials failed; run the same command to retry them: {first}")


def _read_trial(run: TrainSettings, epochs: int, held_out_images: int) -> Trial:
    accuracies = tuple(read_accuracies(run.output_folder()))
    return Trial(run.kld_weight, run.nss_weight, accuracies, len(accuracies) < epochs, held_out_images)


def _trial_folder(folder: str, kld_weight: float, nss_weight: float) -> str:
    return f"{Path(folder).resolve()}/{TRIALS}/kld{kld_weight}-nss{nss_weight}"
