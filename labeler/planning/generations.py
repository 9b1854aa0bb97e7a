"""Generations of a data set: its first plan, and later plans for images that are retried or appended."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import UserError, describe_error
from common.manifest import MANIFEST, PLAN, LabelConfig, Manifest, Plan, Teacher, plan_name
from common.sources.listing import Listing
from common.storage import Storage
from common.text import join_names
from labeler.planning.listing import listing_checksum, read_listing, write_listing

FREE_SETTINGS = ("limit", "samples_per_shard", "seed")  # may differ between the generations of a data set


def read_plans(storage: Storage) -> list[Plan]:
    """Return the plans of a data set, oldest first. Raises UserError if there is none or one is damaged."""
    plans: list[Plan] = []
    while (plan := _read_plan(storage, plan_name(len(plans)))) is not None:
        plans.append(plan)
    if not plans:
        raise UserError(f"{storage.location}: expected the folder of a data set, found no {PLAN} in it")
    return plans


def read_published_generation(storage: Storage) -> int | None:
    """Return the last generation that the manifest covers, or None if there is no manifest.

    Raises UserError if the manifest is damaged.
    """
    try:
        return Manifest.model_validate_json(storage.read(MANIFEST)).generation
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(
            f"{storage.location}/{MANIFEST} is damaged: {describe_error(error)}. Delete it and run the same "
            "command again"
        ) from None


def is_complete(storage: Storage, plans: Sequence[Plan]) -> bool:
    """Return whether the manifest covers all generations; False if it is missing or damaged."""
    try:
        return read_published_generation(storage) == plans[-1].generation
    except UserError:
        return False


def find_unpublished(storage: Storage, plans: Sequence[Plan]) -> list[Plan]:
    """Return the generations that the manifest does not cover yet. Raises UserError if the manifest is damaged."""
    published = read_published_generation(storage)
    return [plan for plan in plans if published is None or plan.generation > published]


def save_first_plan(storage: Storage, plan: Plan, table: pa.Table) -> None:
    """Save the plan and listing of a new data set; if they exist already, check that they are the same.

    Raises UserError that names the differences.
    """
    if not storage.put(plan.name, plan.to_json()):
        stored = _read_plan(storage, plan.name)
        if stored is None or stored.fingerprint != plan.fingerprint:
            raise UserError(_explain_difference(storage, stored, plan, table))
    if not storage.exists(plan.listing):
        _put_listing(storage, plan, table)


def save_later_plan(storage: Storage, plan: Plan, table: pa.Table) -> None:
    """Save the listing and then the plan of a further generation. Raises UserError if another job planned it first."""
    if not _put_listing(storage, plan, table) and not storage.exists(plan.name):
        # left by a job that died before it saved the plan: reuse the listing only if it is the same
        stored_listing = read_listing(storage, plan)
        if listing_checksum(stored_listing) != plan.listing_sha256:
            raise UserError(
                f"{storage.location}/{plan.listing} was left by a run that was stopped while it planned, and the input "
                "has changed since. Delete it and run the same command again"
            )
    if not storage.put(plan.name, plan.to_json()):
        stored = _read_plan(storage, plan.name)
        if stored is None or stored.fingerprint != plan.fingerprint:
            raise UserError(f"{plan.name} was planned by another job just now; run the same command again")


def check_compatible(plans: Sequence[Plan], config: LabelConfig, teacher: Teacher) -> None:
    """Check that samples made with this config and teacher can join the data set.

    Raises UserError that names the differences.
    """
    if changes := _describe_changes(plans[0], config, teacher, ignored=FREE_SETTINGS):
        raise UserError(
            f"this data set was made with other settings: {'; '.join(changes)}. Use the same settings as before to "
            "extend it, or choose another --output"
        )


def exclude_planned(storage: Storage, plans: Sequence[Plan], listing: Listing) -> Listing:
    """Return the listing without the images that a plan contains already."""
    table = listing.table
    for plan in plans:
        planned = read_listing(storage, plan, ["uri"])["uri"].combine_chunks()
        table = table.filter(pc.invert(pc.is_in(table["uri"], value_set=planned)))
    return Listing(table, listing.skipped)


def select_uris(listing: Listing, uris: Sequence[str]) -> Listing:
    """Return the listing of those images whose uri is among `uris`."""
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
    """Write the listing of a plan; return False if there is one already."""
    with storage.scratch() as file:
        write_listing(table, plan.shard_sizes(), file)
        return storage.put_file(plan.listing, file)


def _describe_changes(stored: Plan, config: LabelConfig, teacher: Teacher, ignored: Sequence[str] = ()) -> list[str]:
    """Describe each difference from a stored plan's settings and teacher."""
    before, now = stored.config.model_dump(), config.model_dump()
    changes = [
        f"{name} was {before[name]!r}, is {now[name]!r}"
        for name in sorted(now)
        if before[name] != now[name] and name not in ignored
    ]
    if stored.teacher != teacher:
        changes.append(f"the teacher was {stored.teacher.id}, is {teacher.id}")
    return changes


def _explain_difference(storage: Storage, stored: Plan | None, plan: Plan, table: pa.Table) -> str:
    """Explain what the user changed since the data set was planned, and what can be done."""
    changes = _describe_changes(stored, plan.config, plan.teacher) if stored else []
    advice = "Use the same settings and input as before to resume it, or choose another --output"
    if stored and not changes:
        advice = (
            "Restore the input to resume it, add --append to label the new images in addition, or choose another "
            "--output"
        )
        if stored.classes != plan.classes:
            names = sorted(set(stored.classes or []) ^ set(plan.classes or []))
            changes.append(f"the input's class folders have changed: {join_names(names)}")
        elif storage.exists(stored.listing):
            changes.append(_describe_listing_changes(read_listing(storage, stored), table))
    return f"this output was planned differently: {'; '.join(changes) or 'the input has changed'}. {advice}"


def _describe_listing_changes(stored: pa.Table, new: pa.Table) -> str:
    """Count the images that are gone, new or of another size, with the first example of each."""
    gone = stored.filter(pc.invert(pc.is_in(stored["uri"], value_set=new["uri"].combine_chunks())))
    added = new.filter(pc.invert(pc.is_in(new["uri"], value_set=stored["uri"].combine_chunks())))
    before, now = (table.select(["uri", "size"]).sort_by("uri") for table in (stored, new))
    before = before.filter(pc.is_in(before["uri"], value_set=now["uri"].combine_chunks()))
    now = now.filter(pc.is_in(now["uri"], value_set=before["uri"].combine_chunks()))
    resized = now.filter(pc.not_equal(before["size"], now["size"])) if before.num_rows == now.num_rows else now
    tables = {"gone": gone, "new": added, "of another size": resized}
    parts = [
        f"{table.num_rows:,} {change} (first: {pc.min(table['uri'])})"
        for change, table in tables.items()
        if table.num_rows
    ]
    return f"the input has changed: images {', '.join(parts) or 'at other offsets in their tar files'}"
