"""Search the weights of KLD and NSS in the attention loss, on held-out training shards.

python -m trainer.search --data DATASET --output FOLDER --trials 20
"""

from common.errors import run_program
from common.extras import require_extra
from common.settings import load_settings
from trainer.studies.config import SearchSettings


def main(argv: list[str] | None = None) -> int:
    """Run the trials that are missing, then write all results and print the best trial. Raises UserError."""
    settings = load_settings(SearchSettings, argv)
    require_extra("eval", "a search")
    from trainer.studies.search import run_search  # import torch: not needed for --help
    from trainer.studies.search_report import save_trials

    print(save_trials(run_search(settings), settings.study_folder()))
    return 0


if __name__ == "__main__":
    run_program(main)
