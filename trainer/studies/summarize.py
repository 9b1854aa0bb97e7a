"""Summarize the result files of a study of controls, those of other machines included.

python -m trainer.studies.summarize STUDY/results
"""

from common.errors import run_program
from common.extras import require_extra
from common.settings import load_settings
from trainer.studies.config import SummarySettings


def main(argv: list[str] | None = None) -> int:
    """Write the summary and print it. Raises UserError."""
    settings = load_settings(SummarySettings, argv)
    require_extra("eval", "a study")
    from trainer.studies.control_report import save_summary  # imports scipy: not needed for --help
    from trainer.studies.control_results import read_results

    print(save_summary(read_results(settings.results), settings.output or settings.results))
    return 0


if __name__ == "__main__":
    run_program(main)
