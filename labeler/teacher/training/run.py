"""A training run of the teacher, from its settings to the weights in its folder."""

import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from common.errors import UserError
from common.launch import Rank, is_main_process, launch
from common.storage.files import write_atomically
from common.storage.run_folder import RunFolder
from common.training import save_or_check_settings
from labeler.teacher.model import AttentionTeacher, SaliencyBranch
from labeler.teacher.training.batches import Batches
from labeler.teacher.training.config import TeacherTrainConfig, TeacherTrainSettings
from labeler.teacher.training.examples import open_training_data
from labeler.teacher.training.loop import BEST, TeacherTrainer, train
from labeler.teacher.weights import find_teacher, load_teacher

FAINT = -1.0  # a branch's logit before it has learnt anything; there are four


def train_teacher(settings: TeacherTrainSettings) -> None:
    """Train as the settings say."""
    if "://" in settings.output:
        raise UserError(f"--output {settings.output}: expected a local folder, which all workers see")
    folder, output = RunFolder(settings.output), Path(settings.output)
    config = TeacherTrainConfig(**{name: getattr(settings, name) for name in TeacherTrainConfig.model_fields})
    folder.check_writable()
    if is_main_process():
        save_or_check_settings(folder, "config.json", config.model_dump(mode="json"))

    def work(rank: Rank) -> None:
        data = open_training_data(config.data, config.distill, config.validation, config.seed)
        stronger = load_teacher(config.distill_teacher) if config.distill else None
        training = TeacherTrainer(config, initial_teacher(config.init, config.seed), stronger, rank)
        batches = Batches(config, data, rank.index, rank.world_size, settings.threads)
        if rank.index == 0:
            for note in data.notes:
                print(note, file=sys.stderr)
            print(
                f"{len(data.human):,} training images with fixations, {len(data.unlabelled):,} without; "
                f"{sum(map(len, data.validation.values())):,} to validate; {batches.steps_per_epoch:,} steps an epoch"
            )
            names = sorted({image.name for images in data.validation.values() for image in images})
            folder.write("validation.txt", "".join(f"{name}\n" for name in names))
        train(training, batches, data, output, settings.checkpoint_every)

    launch(work, settings.workers, output)
    if is_main_process():
        print(f"the weights are {_export(output)}; score them with python -m labeler.teacher.evaluate")


def initial_teacher(init: str, seed: int) -> AttentionTeacher:
    """A network with random weights, or with those of a named teacher. Raises UserError."""
    if init == "random":
        return initialize_randomly(seed)
    teacher = find_teacher(init).build()
    if not isinstance(teacher, AttentionTeacher):
        raise UserError(f"--init {init}: expected weights of this teacher's network")
    return teacher


def initialize_randomly(seed: int) -> AttentionTeacher:
    """Convolutions as He et al. (2015) draw them; the maps begin faint and flat, where the sigmoid has its slope."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = AttentionTeacher()
        for module in teacher.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in teacher.modules():
            if isinstance(module, SaliencyBranch):
                nn.init.kaiming_normal_(module.detect.weight)
                nn.init.normal_(module.combine.weight, std=0.1)
                nn.init.constant_(module.combine.bias, FAINT)  # type: ignore[arg-type]
    return teacher


def _export(output: Path) -> Path:
    """Write the best weights as half floats: what --teacher takes."""
    weights = safetensors.torch.load_file(output / BEST)
    halves = {name: tensor.half() for name, tensor in weights.items()}
    path = output / "teacher.safetensors"
    write_atomically(path, safetensors.torch.save(halves))
    return path
