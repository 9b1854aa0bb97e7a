"""A training run of the teacher from start to end: open the data, train on all workers, save the weights."""

import sys
from pathlib import Path

import safetensors.torch

from common.errors import UserError
from common.launch import Rank, is_main_process, launch
from common.storage.files import write_atomically
from common.storage.run_folder import RunFolder
from common.text import pluralize
from common.training import save_or_check_settings
from labeler.teacher.training.batches import Batches
from labeler.teacher.training.config import TeacherTrainConfig, TeacherTrainSettings
from labeler.teacher.training.data import TrainingData, open_training_data
from labeler.teacher.training.initialize import initialize_teacher
from labeler.teacher.training.loop import BEST_WEIGHTS, train
from labeler.teacher.training.trainer import TeacherTrainer
from labeler.teacher.weights import load_teacher

CONFIG, VALIDATION_NAMES, WEIGHTS = "config.json", "validation.txt", "teacher.safetensors"


def train_teacher(settings: TeacherTrainSettings) -> None:
    """Run a training, or resume the run in `settings.output`, and save the best weights there.

    Under torchrun every process must call this function. Raises UserError.
    """
    if "://" in settings.output:
        raise UserError(f"--output {settings.output}: expected a local folder, which all workers see")
    folder, output = RunFolder(settings.output), Path(settings.output)
    config = TeacherTrainConfig(**{name: getattr(settings, name) for name in TeacherTrainConfig.model_fields})
    folder.check_writable()
    if is_main_process():
        save_or_check_settings(folder, CONFIG, config.model_dump(mode="json"))

    def train_on_rank(rank: Rank) -> None:
        data = open_training_data(config.data, config.distill, config.validation, config.seed)
        distillation_teacher = load_teacher(config.distill_teacher) if config.distill else None
        student = initialize_teacher(config.init, config.seed)
        trainer = TeacherTrainer(config, student, distillation_teacher, rank)
        batches = Batches(config, data, rank.index, rank.world_size, settings.threads)
        if rank.index == 0:
            _print_summary(data, batches.steps_per_epoch)
            names = sorted({image.name for images in data.validation.values() for image in images})
            folder.write(VALIDATION_NAMES, "".join(f"{name}\n" for name in names))
        train(trainer, batches, data.validation, output, settings.checkpoint_every)

    launch(train_on_rank, settings.workers, output)
    if is_main_process():
        path = _save_half_precision(output)
        print(f"saved the weights to {path}; evaluate them with python -m labeler.teacher.evaluate --teacher {path}")


def _print_summary(data: TrainingData, steps_per_epoch: int) -> None:
    for note in data.notes:
        print(note, file=sys.stderr)
    validation_images = sum(map(len, data.validation.values()))
    print(
        f"{pluralize(len(data.fixated), 'training image')} with fixations, "
        f"{pluralize(len(data.distillation), 'distillation image')}, "
        f"{pluralize(validation_images, 'validation image')}; {pluralize(steps_per_epoch, 'step')} per epoch"
    )


def _save_half_precision(output: Path) -> Path:
    """Save the best weights in half precision, for `labeler.run --teacher`, and return the file's path."""
    weights = safetensors.torch.load_file(output / BEST_WEIGHTS)
    path = output / WEIGHTS
    write_atomically(path, safetensors.torch.save({name: tensor.half() for name, tensor in weights.items()}))
    return path
