"""Measure checkpoints: python -m trainer.evaluate CHECKPOINT [CHECKPOINT ...] --val FOLDER --output REPORT."""

from common.errors import run_program
from common.settings import load_settings
from trainer.evaluate.config import EvaluateSettings


def main(argv: list[str] | None = None) -> int:
    """Run the suites and write the report. Raises UserError."""
    settings = load_settings(EvaluateSettings, argv)
    settings.check()
    from trainer.evaluate.job import run_evaluation

    print(f"the report is {run_evaluation(settings)}")
    return 0


if __name__ == "__main__":
    run_program(main)
