"""Train a teacher on photographs with fixations.

python -m labeler.teacher.train --data salicon:PATH --output RUN
"""

from common.errors import run_program
from common.settings import load_settings
from common.torchrun import report_to_torchrun
from labeler.teacher.training.config import TeacherTrainSettings


def main(argv: list[str] | None = None) -> int:
    """Train with the settings of the command line and return exit code 0. Raises UserError."""
    settings = load_settings(TeacherTrainSettings, argv)
    from labeler.teacher.training.run import train_teacher  # imports torch, which --help does not need

    train_teacher(settings)
    return 0


if __name__ == "__main__":
    run_program(report_to_torchrun(main))
