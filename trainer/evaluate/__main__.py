"""Command `python -m trainer.evaluate CHECKPOINT [CHECKPOINT ...] --val FOLDER --output REPORT`."""

from common.errors import run_program
from common.extras import require_extra
from common.settings import load_settings
from trainer.evaluate.config import EvaluateSettings


def main(argv: list[str] | None = None) -> int:
    """Evaluate checkpoints and print the location of the report. Raises UserError."""
    settings = load_settings(EvaluateSettings, argv)
    require_extra("eval", "an evaluation")
    settings.check()
    from trainer.evaluate.job import run_evaluation

    print(f"the report is {run_evaluation(settings)}")
    return 0


if __name__ == "__main__":
    run_program(main)
