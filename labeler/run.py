"""Label photographs: plan, label, publish.

python -m labeler.run --input IMAGES --output DATASET
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, run_program
from common.manifest import PLAN, Plan
from common.settings import load_settings
from common.storage import Storage, open_storage
from labeler.config import DEMO_OUTPUTS, LabelSettings

if TYPE_CHECKING:  # torch and Ray are imported where they are needed, so that --help and bad settings answer at once
    from common.sources import Source
    from common.sources.listing import Listing
    from labeler.teacher.weights import TeacherSource


def main(argv: list[str] | None = None) -> int:
    """Run a labelling job. Returns 0 where the data set is complete, 1 where shards or too many images failed."""
    settings = load_settings(LabelSettings, argv)
    output = settings.output_folder()
    from labeler.job import label_and_publish, list_images
    from labeler.teacher.weights import check_positive, find_teacher

    source = _open_input(settings.input, output)
    storage = open_storage(output)
    _check_output(storage, output)
    teacher = find_teacher(settings.teacher)
    check_positive(teacher)
    listing = list_images(source, settings.input)
    plans = _plan(settings, storage, listing, teacher)
    _describe(plans, output, listing.skipped)
    if settings.plan_only:
        storage.sweep()
        return 0
    code = label_and_publish(settings, storage, plans, teacher, listing.table.num_rows)
    if code == 0:
        _point_to_preview(settings, output)
    return code


def _plan(settings: LabelSettings, storage: Storage, listing: "Listing", teacher: "TeacherSource") -> list[Plan]:
    """The plans of the data set, the new one kept. Raises UserError where the output was planned differently."""
    from labeler.job import check_object_size
    from labeler.planning.generations import (
        check_compatible,
        exclude_planned,
        read_plans,
        save_first_plan,
        save_later_plan,
    )
    from labeler.planning.plan import make_plan

    if not (settings.append and storage.exists(PLAN)):
        first, table = make_plan(listing, settings.label_config(), teacher.identity, settings.input)
        check_object_size(storage, first)
        storage.check_writable()
        save_first_plan(storage, first, table)
        return [first, *read_plans(storage)[1:]]
    plans = read_plans(storage)
    check_compatible(plans, settings.label_config(), teacher.identity)
    storage.check_writable()
    new = exclude_planned(storage, plans, listing)
    if not new.table.num_rows:
        print("nothing to append: every image of the input is planned already")
        return plans
    later, table = make_plan(new, settings.label_config(), teacher.identity, settings.input, before=plans[-1])
    check_object_size(storage, later)
    save_later_plan(storage, later, table)
    return [*plans, later]


def _open_input(location: str, output: str) -> "Source":
    """The source of images, checked to be there and not to hold its own output."""
    from common.sources import open_source

    source = open_source(location)
    if _inside(output, location):
        raise UserError(
            f"--output {output} lies inside --input {location}: the shards would become input; choose another"
        )
    return source


def _inside(output: str, location: str) -> bool:
    if "://" in output or "://" in location:
        return f"{output.rstrip('/')}/".startswith(f"{location.rstrip('/')}/")
    return Path(output).resolve().is_relative_to(Path(location).resolve())


def _check_output(storage: Storage, output: str) -> None:
    """Nobody's other files may lie where the data set goes."""
    if "://" not in output and Path(output).exists() and not Path(output).is_dir():
        raise UserError(f"--output {output}: expected a folder, found a file")
    if storage.list() and not storage.exists(PLAN):
        raise UserError(
            f"--output {output}: expected a new folder or a data set to go on with, found other files in it"
        )


def _describe(plans: list[Plan], output: str, skipped: Counter[str]) -> None:
    """What is going to happen, in a few lines."""
    for plan in plans:
        classes = f"{len(plan.classes):,} classes" if plan.classes else "no classes (images outside of class folders)"
        name = "plan" if len(plans) == 1 else f"generation {plan.generation}"
        print(f"{name}: {plan.shards:,} shards, {plan.images:,} images, {plan.bytes:,} bytes, {classes}")
    last = plans[-1]
    print(f"      teacher {last.teacher.id}, output {output}, fingerprint {last.fingerprint[:12]}")
    if skipped:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in skipped.most_common(5))
        print(f"      {skipped.total():,} other files in the input are left alone ({kinds})")


def _point_to_preview(settings: LabelSettings, output: str) -> None:
    """Say what to look at; for the demo, make it."""
    if settings.input in DEMO_OUTPUTS and "://" not in output:
        from labeler.preview import write_preview

        page = Path(output) / "preview.html"
        write_preview(output, page)
        print(f"open {page} in a browser to see it")
    else:
        print(f"look at it: python -m labeler.preview {output} --to page.html")


if __name__ == "__main__":
    run_program(main)
