"""Try again what failed: shards that were set aside, and images that were left out.

python -m labeler.retry DATASET
"""

from common.errors import run_program
from common.manifest import Plan
from common.settings import load_settings
from common.storage import Storage, open_storage
from labeler.config import RetrySettings


def main(argv: list[str] | None = None) -> int:
    """Plan a further generation of the images that failed, label all that is pending, publish again.

    Returns 0 where the data set is complete, 1 where shards or too many images failed again.
    """
    settings = load_settings(RetrySettings, argv)
    from labeler.job import label_and_publish
    from labeler.planning.generations import check_compatible, read_plans
    from labeler.publishing.outcome import find_unretried, read_records
    from labeler.teacher.weights import find_teacher

    storage = open_storage(settings.dataset)
    plans = read_plans(storage)
    records = read_records(storage, plans)
    if settings.input:
        plans = [plan.model_copy(update={"input": settings.input}) for plan in plans]
    failed = find_unretried(storage, plans, records)
    pending = sum(plan.shards for plan in plans) - len(records)
    if not failed and not pending:
        print("nothing to try again: no image failed that has not been tried again already")
    teacher = find_teacher(settings.teacher or plans[0].teacher.name)
    check_compatible(plans, plans[0].config, teacher.identity)
    storage.check_writable()
    for location in sorted({plan.input for plan in failed.values()}):
        plans += _plan(storage, plans, location, [uri for uri, plan in failed.items() if plan.input == location])
    return label_and_publish(settings, storage, plans, teacher, images_of_input=0)


def _plan(storage: Storage, plans: list[Plan], location: str, uris: list[str]) -> list[Plan]:
    """Keep the plan of a further generation of these images; none where they are all gone."""
    from common.sources import open_source
    from labeler.job import list_images
    from labeler.planning.generations import save_later_plan, select_uris
    from labeler.planning.plan import make_plan

    found = select_uris(list_images(open_source(location), location), uris)
    gone = len(uris) - found.table.num_rows
    print(f"{len(uris):,} images failed: {len(uris) - gone:,} are tried again, {gone:,} are gone from the input")
    if not found.table.num_rows:
        return []
    config = plans[0].config.model_copy(update={"limit": None})
    plan, table = make_plan(found, config, plans[0].teacher, location, before=plans[-1])
    save_later_plan(storage, plan, table)
    return [plan]


if __name__ == "__main__":
    run_program(main)
