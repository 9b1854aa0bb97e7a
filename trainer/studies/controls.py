"""Run the study of controls: train and measure the runs that have no result file yet, and summarize all results.

python -m trainer.studies.controls --config trainer/studies/study.yaml --data DATASET --val VAL --output STUDY
"""

from common.errors import run_program
from common.extras import require_extra
from common.settings import load_settings
from trainer.studies.config import ControlsSettings


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, write the summary and print it. Raises UserError."""
    settings = load_settings(ControlsSettings, argv)
    require_extra("eval", "a study")
    from trainer.studies.control_report import save_summary  # import torch: not needed for --help
    from trainer.studies.control_results import read_results
    from trainer.studies.control_runs import RESULTS, run_controls

    run_controls(settings)
    print(save_summary(read_results(f"{settings.study_folder()}/{RESULTS}"), settings.study_folder()))
    return 0


if __name__ == "__main__":
    run_program(main)
