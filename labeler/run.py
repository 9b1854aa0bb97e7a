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
    from labeler.publish import Outcome
    from labeler.teacher.weights import TeacherSource

LABEL_BYTES = 40_000  # the map, points and tar headers beside each image, generously


def main(argv: list[str] | None = None) -> int:
    """Run a labelling job. Returns 0 where the data set is complete, 1 where shards or too many images failed."""
    settings = load_settings(LabelSettings, argv)
    output = settings.output_folder()
    from labeler.plan import keep_plan, make_plan

    source = _open_input(settings.input, output)
    storage = open_storage(output)
    _check_output(storage, output)
    teacher = _find_teacher(settings.teacher)
    print(f"listing {settings.input} ...", flush=True)
    listing = source.list()
    plan, table = make_plan(listing, settings.deciding(), teacher.identity, settings.input)
    storage.check_writable()
    keep_plan(storage, plan, table)
    _describe(plan, output, listing.skipped)
    if settings.plan_only:
        storage.sweep()
        return 0
    problems = _label(settings, output, storage, plan, teacher)
    return _finish(settings, output, storage, plan, problems)


def _open_input(location: str, output: str) -> "Source":
    """The source of images, checked to be there and not to hold its own output."""
    from common.sources import open_source

    source = open_source(location)
    if Path(output).resolve().is_relative_to(Path(location).resolve()):
        raise UserError(
            f"--output {output} lies inside --input {location}: the shards would become input; choose another"
        )
    return source


def _check_output(storage: Storage, output: str) -> None:
    """Nobody's other files may lie where the data set goes."""
    if Path(output).exists() and not Path(output).is_dir():
        raise UserError(f"--output {output}: expected a folder, found a file")
    if storage.list() and not storage.exists(PLAN):
        raise UserError(
            f"--output {output}: expected a new folder or a data set to go on with, found other files in it"
        )


def _find_teacher(name: str) -> "TeacherSource":
    from labeler.teacher.weights import find_teacher

    return find_teacher(name)


def _describe(plan: Plan, output: str, skipped: Counter[str]) -> None:
    """What is going to happen, in a few lines."""
    classes = (
        f"{len(plan.classes):,} classes" if plan.classes else "no classes (there are images outside of class folders)"
    )
    print(f"plan: {plan.shards:,} shards, {plan.images:,} images, {plan.bytes:,} bytes, {classes}")
    print(f"      teacher {plan.teacher.id}, output {output}, fingerprint {plan.fingerprint[:12]}")
    if skipped:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in skipped.most_common(5))
        print(f"      {skipped.total():,} other files in the input are left alone ({kinds})")


def _label(
    settings: LabelSettings, output: str, storage: Storage, plan: Plan, teacher: "TeacherSource"
) -> dict[int, str]:
    """Make the shards that are not there yet. Returns those that failed, with the reason."""
    from labeler.publish import read_records

    storage.sweep()
    records = read_records(storage, plan)
    pending = [shard for shard in range(plan.shards) if shard not in records]
    if not pending:
        return {}
    if records:
        print(f"going on: {len(records):,} shards are there, {len(pending):,} are to be made")
    _check_space(storage, output, plan, len(pending))
    from labeler.pipeline import label_shards

    return label_shards(settings, output, plan, pending, teacher)


def _check_space(storage: Storage, output: str, plan: Plan, pending: int) -> None:
    images = plan.bytes if plan.config["include_images"] else 0
    needed = (images + plan.images * LABEL_BYTES) * pending // plan.shards
    free = storage.free_bytes()
    if free < needed:
        raise UserError(f"--output {output}: the shards need about {needed:,} bytes, {free:,} are free")


def _finish(settings: LabelSettings, output: str, storage: Storage, plan: Plan, problems: dict[int, str]) -> int:
    """Publish, and say what was made."""
    from labeler.publish import publish

    outcome = publish(storage, plan, settings.max_bad_fraction)
    storage.sweep()
    for shard, problem in sorted(problems.items()):
        print(f"shard {shard} was set aside: {problem}")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(outcome.failures.items()))
    failed = f"{outcome.failed:,} failed" + (f" ({reasons})" if reasons else "")
    print(f"{outcome.written:,} of {outcome.planned:,} images labelled, {failed}")
    if not outcome.published:
        print(_why_not(settings, outcome))
        return 1
    print(f"the data set is complete: {output}")
    if settings.input in DEMO_OUTPUTS:
        from labeler.preview import write_preview

        page = Path(output) / "preview.html"
        write_preview(output, page)
        print(f"open {page} in a browser to see it")
    else:
        print(f"look at it: python -m labeler.preview {output} --to page.html")
    return 0


def _why_not(settings: LabelSettings, outcome: "Outcome") -> str:
    if outcome.unfinished:
        return f"{len(outcome.unfinished):,} shards are not made yet: run the same command again to go on"
    return (
        f"not published: {outcome.failed:,} of {outcome.planned:,} images failed, more than --max-bad-fraction "
        f"{settings.max_bad_fraction:g}. failures.jsonl says why; run again with a larger --max-bad-fraction to "
        "publish all the same, or mend the input and label it into a new --output"
    )


if __name__ == "__main__":
    run_program(main)
