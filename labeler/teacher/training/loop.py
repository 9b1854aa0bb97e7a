"""The training loop of the teacher, in plain PyTorch, for one process or several."""

from pathlib import Path
from types import TracebackType

import safetensors.torch

from common.fixations import FixatedImage
from common.storage.files import write_atomically
from common.training import MetricLog, ProgressLine, load_checkpoint, save_checkpoint
from labeler.teacher.training.batches import Batches
from labeler.teacher.training.trainer import TeacherTrainer
from labeler.teacher.training.validation import validate

LAST_CHECKPOINT, BEST_WEIGHTS = "checkpoints/last.pt", "checkpoints/best.safetensors"


def train(
    trainer: TeacherTrainer,
    batches: Batches,
    validation: dict[str, list[FixatedImage]],
    output: Path,
    checkpoint_every: int,
) -> None:
    """Train to the end of the last epoch, starting from the last checkpoint in `output` if there is one.

    After each epoch the averaged weights are validated; those with the best CC on the first data set are saved. All
    ranks must call this function; the first one writes. Raises UserError if training diverges.

    Args:
        trainer: the network and its optimizer on this rank.
        batches: this rank's batches.
        validation: validation images by data set.
        output: folder of the run.
        checkpoint_every: steps between checkpoints; the end of each epoch is another one.
    """
    last = output / LAST_CHECKPOINT
    if last.exists():
        trainer.load_state_dict(load_checkpoint(last))
    total_steps = trainer.config.epochs * batches.steps_per_epoch
    writes = trainer.rank.index == 0

    with TrainingLog(output, trainer, total_steps) as log:
        for batch in batches.from_step(trainer.step):
            losses = trainer.train_step(batch, total_steps)
            log.log_step(losses)

            epoch, step_in_epoch = divmod(trainer.step, batches.steps_per_epoch)
            epoch_ended = step_in_epoch == 0
            if epoch_ended:
                scores = validate(trainer, validation)
                log.log_epoch(epoch, scores)
                first_data_set = next(iter(validation))
                if (score := scores[first_data_set]["cc"]) > trainer.best_cc:
                    trainer.best_cc = score
                    if writes:
                        write_atomically(output / BEST_WEIGHTS, safetensors.torch.save(trainer.averaged_weights()))

            if writes and (epoch_ended or trainer.step % checkpoint_every == 0):
                save_checkpoint(last, trainer.state_dict())


class TrainingLog:
    """Log of a run: metrics in files and a progress line. Does nothing on ranks other than the first."""

    def __init__(self, output: Path, trainer: TeacherTrainer, total_steps: int) -> None:
        self._trainer = trainer
        self._enabled = trainer.rank.index == 0
        if self._enabled:
            self._metrics = MetricLog(output, trainer.step)
            self._progress = ProgressLine(total_steps, trainer.step, trainer.config.batch_size)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            self._metrics.close()
            self._progress.close()

    def log_step(self, losses: dict[str, float]) -> None:
        """Log the losses and the learning rate of the step that the trainer has completed."""
        if self._enabled:
            self._metrics.write(self._trainer.step, **losses)
            self._progress.step(**losses)

    def log_epoch(self, epoch: int, scores: dict[str, dict[str, float]]) -> None:
        """Log the validation scores after an epoch."""
        if self._enabled:
            by_data_set = {f"validation {name}": score for name, score in scores.items()}
            self._metrics.write(self._trainer.step, epoch=epoch, **by_data_set)
            texts = [f"{name} CC {score['cc']:.3f}, NSS {score['nss']:.2f}" for name, score in scores.items()]
            self._progress.log(f"epoch {epoch}: {'; '.join(texts)}")
