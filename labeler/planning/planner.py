"""The planning step of a job: list an input and save the plan of its new images, or of images that failed before."""

import sys
from collections.abc import Mapping, Sequence

from common.manifest import PLAN, LabelConfig, Plan, Teacher
from common.sources import Source, open_source
from common.sources.listing import Listing
from common.storage import Storage
from common.text import pluralize
from labeler.config import LabelSettings
from labeler.planning.generations import (
    check_compatible,
    exclude_planned,
    find_unpublished,
    read_plans,
    save_first_plan,
    save_later_plan,
    select_uris,
)
from labeler.planning.plan import make_plan
from labeler.planning.resolve import resolve_config
from labeler.planning.space import check_object_size


def list_images(source: Source, location: str) -> Listing:
    """List the images of `source`. Listing can take minutes, so a terminal shows the number of images so far."""
    print(f"listing {location} ...", flush=True)
    terminal = sys.stderr.isatty()
    return source.list(lambda images: print(f"{images:,} images", end="\r", file=sys.stderr) if terminal else None)


def plan_input(settings: LabelSettings, storage: Storage, listing: Listing, teacher: Teacher) -> list[Plan]:
    """Save the plan of a new data set, or with `settings.append` that of a further generation. Returns all plans.

    Planning again with the same settings and input changes nothing. Raises UserError if the stored plan is different.
    """
    planned = read_plans(storage)[0].config if storage.exists(PLAN) else None
    config = resolve_config(settings.label_config(), planned)
    if settings.append and planned is not None:
        return _plan_new_images(settings.input, config, storage, listing, teacher)
    plan, table = make_plan(listing, config, teacher, settings.input)
    check_object_size(storage, plan)
    storage.check_writable()
    save_first_plan(storage, plan, table)
    return [plan, *read_plans(storage)[1:]]


def _plan_new_images(
    source: str, config: LabelConfig, storage: Storage, listing: Listing, teacher: Teacher
) -> list[Plan]:
    """Save a further generation of the images that no plan contains yet. Returns all plans.

    With a limit, a command draws images only when those that it drew before are published, so that it resumes.
    """
    plans = read_plans(storage)
    check_compatible(plans, config, teacher)
    storage.check_writable()
    if config.limit and any((plan.input, plan.config) == (source, config) for plan in find_unpublished(storage, plans)):
        print("nothing to append: the images that this command has drawn before are not published yet")
        return plans
    new = exclude_planned(storage, plans, listing)
    if not new.table.num_rows:
        print("nothing to append: every image of the input is already planned")
        return plans
    plan, table = make_plan(new, config, teacher, source, previous=plans[-1])
    check_object_size(storage, plan)
    save_later_plan(storage, plan, table)
    return [*plans, plan]


def plan_retries(storage: Storage, plans: Sequence[Plan], failed: Mapping[str, Plan]) -> list[Plan]:
    """Save a further generation of the failed images of each input. Returns all plans.

    `failed` maps the uri of each failed image to the plan whose `input` it is read from. Images that are no longer
    in their input are not planned again.
    """
    extended = list(plans)
    config = plans[0].config.model_copy(update={"limit": None})
    for location in sorted({plan.input for plan in failed.values()}):
        uris = [uri for uri, plan in failed.items() if plan.input == location]
        present = select_uris(list_images(open_source(location), location), uris)
        number = present.table.num_rows
        missing = len(uris) - number
        print(f"{pluralize(len(uris), 'failed image')}: retrying {number:,}, {missing:,} no longer in the input")
        if number:
            plan, table = make_plan(present, config, plans[0].teacher, location, previous=extended[-1])
            save_later_plan(storage, plan, table)
            extended.append(plan)
    return extended
