"""The plans of a data set: the first, and the later ones for images that are tried again or added."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import UserError, describe_error
from common.manifest import MANIFEST, PLAN, LabelConfig, Manifest, Plan, Teacher, plan_name
from common.sources.listing import Listing
from common.storage import Storage
from labeler.planning.listing import listing_checksum, read_listing, write_listing

FREE = ("limit", "samples_per_shard", "seed")  # settings that may differ between the generations of a data set


def read_plans(storage: Storage) -> list[Plan]:
    """The plans of a data set, oldest first. Raises UserError where there is none or one is damaged."""
    plans: list[Plan] = []
    while (plan := _read_plan(storage, plan_name(len(plans)))) is not None:
        plans.append(plan)
    if not plans:
        raise UserError(f"{storage.location}: expected the folder of a data set, found no {PLAN} in it")
    return plans


def is_complete(storage: Storage, plans: Sequence[Plan]) -> bool:
    """Is there a manifest that covers all generations?"""
    try:
        return Manifest.model_validate_json(storage.read(MANIFEST)).generation == plans[-1].generation
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def save_first_plan(storage: Storage, plan: Plan, table: pa.Table) -> None:
    """Write the plan of a new data set, or check that the one there is the same. Raises UserError on a difference."""
    if not storage.put(plan.name, plan.to_json()):
        kept = _read_plan(storage, plan.name)
        if kept is None or kept.fingerprint != plan.fingerprint:
            raise UserError(_difference(storage, kept, plan, table))
    if not storage.exists(plan.listing):
        _put_listing(storage, plan, table)


def save_later_plan(storage: Storage, plan: Plan, table: pa.Table) -> None:
    """Write the plan of a further generation, after its listing. Raises UserError where another job was first."""
    if not _put_listing(storage, plan, table) and not storage.exists(plan.name):
        kept = read_listing(storage, plan)  # of a planner that died: a listing counts only with its plan
        if listing_checksum(kept) != plan.listing_sha256:
            raise UserError(
                f"{storage.location}/{plan.listing} was left by a run that was stopped while it planned, and the input "
                "has changed since. Delete it and run the same command again"
            )
    if not storage.put(plan.name, plan.to_json()):
        kept_plan = _read_plan(storage, plan.name)
        if kept_plan is None or kept_plan.fingerprint != plan.fingerprint:
            raise UserError(f"{plan.name} was planned by another job just now; run the same command again")


def check_compatible(plans: Sequence[Plan], config: LabelConfig, teacher: Teacher) -> None:
    """May samples of this config and teacher join the data set? Raises UserError that names the difference."""
    first = plans[0]
    if changes := _changes(first, config, teacher, ignored=FREE):
        raise UserError(
            f"this data set was made differently: {'; '.join(changes)}. Give the same settings as before to add to it, "
            "or another --output"
        )


def exclude_planned(storage: Storage, plans: Sequence[Plan], listing: Listing) -> Listing:
    """Only the images that no plan has yet."""
    table = listing.table
    for plan in plans:
        known = read_listing(storage, plan, ["uri"])["uri"].combine_chunks()
        table = table.filter(pc.invert(pc.is_in(table["uri"], value_set=known)))
    return Listing(table, listing.skipped)


def select_uris(listing: Listing, uris: Sequence[str]) -> Listing:
    """Only these images, those of them that are listed."""
    wanted = pa.array(uris, pa.large_string())
    return Listing(listing.table.filter(pc.is_in(listing.table["uri"], value_set=wanted)), listing.skipped)


def _read_plan(storage: Storage, name: str) -> Plan | None:
    try:
        return Plan.model_validate_json(storage.read(name))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(
            f"{storage.location}/{name} is damaged or of another version: {describe_error(error)}"
        ) from None


def _put_listing(storage: Storage, plan: Plan, table: pa.Table) -> bool:
    with storage.scratch() as file:
        write_listing(table, plan.shard_sizes(), file)
        return storage.put_file(plan.listing, file)


def _changes(kept: Plan, config: LabelConfig, teacher: Teacher, ignored: Sequence[str] = ()) -> list[str]:
    """What differs in settings and teacher, in words."""
    before, now = kept.config.model_dump(), config.model_dump()
    changes = [
        f"{name} was {before[name]!r}, is {now[name]!r}"
        for name in sorted(now)
        if before[name] != now[name] and name not in ignored
    ]
    if kept.teacher != teacher:
        changes.append(f"the teacher was {kept.teacher.id}, is {teacher.id}")
    return changes


def _difference(storage: Storage, kept: Plan | None, new: Plan, table: pa.Table) -> str:
    """What the user changed since the data set was planned, and what can be done."""
    changes = _changes(kept, new.config, new.teacher) if kept else []
    advice = "Give the same settings and input as before to go on with it, or another --output"
    if kept and not changes:
        advice = "Mend the input to go on with it, add --append to keep the plan and label what is new, "
        advice += "or choose another --output"
        if kept.classes != new.classes:
            names = set(kept.classes or []) ^ set(new.classes or [])
            changes.append(f"the input's class folders have changed: {', '.join(sorted(names)[:5])}")
        elif storage.exists(kept.listing):
            changes.append(_listing_difference(read_listing(storage, kept), table))
    return f"this output was planned differently: {'; '.join(changes) or 'the input has changed'}. {advice}"


def _listing_difference(kept: pa.Table, new: pa.Table) -> str:
    """Images that are gone, new or of another size, with an example of each."""
    gone = kept.filter(pc.invert(pc.is_in(kept["uri"], value_set=new["uri"].combine_chunks())))
    added = new.filter(pc.invert(pc.is_in(new["uri"], value_set=kept["uri"].combine_chunks())))
    before, after = (table.select(["uri", "size"]).sort_by("uri") for table in (kept, new))
    before = before.filter(pc.is_in(before["uri"], value_set=after["uri"].combine_chunks()))
    after = after.filter(pc.is_in(after["uri"], value_set=before["uri"].combine_chunks()))
    changed = after.filter(pc.not_equal(before["size"], after["size"])) if before.num_rows == after.num_rows else after
    found = [("gone", gone), ("new", added), ("of another size", changed)]
    parts = [f"{t.num_rows} {label} (first: {pc.min(t['uri'])})" for label, t in found if t.num_rows]
    return f"the input has changed: images {', '.join(parts) or 'at other places in their tars'}"
