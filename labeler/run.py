"""Label images: plan the shards, label them, publish the data set.

python -m labeler.run --input IMAGES --output DATASET
"""

from pathlib import Path

from common.errors import run_program
from common.settings import load_settings
from labeler.config import DEMO_OUTPUTS, LabelSettings


def main(argv: list[str] | None = None) -> int:
    """Run a labeling job. Returns 0 if the data set is complete, 1 if shards or too many images failed."""
    settings = load_settings(LabelSettings, argv)
    output = settings.output_folder()
    from labeler.job import label_input  # imports torch, which --help and the check of settings do not need

    exit_code = label_input(settings, output)
    if exit_code == 0 and not settings.plan_only:
        _suggest_preview(settings.input, output)
    return exit_code


def _suggest_preview(source: str, output: str) -> None:
    """Print how to view the data set. For a local demo, write the preview page as well."""
    if source in DEMO_OUTPUTS and "://" not in output:
        from labeler.inspection.preview_page import write_preview  # not needed for --help

        page = Path(output) / "preview.html"
        write_preview(output, page)
        print(f"open {page} in a browser to view the data set")
    else:
        print(f"to view the data set: python -m labeler.preview {output} --to page.html")


if __name__ == "__main__":
    run_program(main)
