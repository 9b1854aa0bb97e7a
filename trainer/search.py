"""Search the weights of the attention loss on held-out training shards.

python -m trainer.search --data DATASET --output FOLDER --trials 20
"""

from common.errors import run_program
from common.extras import require_extra
from common.settings import load_settings
from trainer.studies.config import SearchSettings


def main(argv: list[str] | None = None) -> int:
    """Run the trials. Raises UserError."""
    settings = load_settings(SearchSettings, argv)
    require_extra("eval", "a search")
    from trainer.studies.run_search import search
    from trainer.studies.surface import save_trials

    print(save_trials(search(settings), settings.folder()))
    return 0


if __name__ == "__main__":
    run_program(main)
