"""Verification of a public copy of a data set over https, whose files cannot be listed: the manifest names them."""

import contextlib
import functools
import json
from collections.abc import Callable
from typing import Any

from common.errors import UserError, describe_error
from common.manifest import CLASSES, FAILURES, INDEX, MANIFEST, SIZES, Manifest, plan_name, shard_name
from common.storage.http import REFUSED, HttpError, HttpStorage
from common.text import join_names
from labeler.publishing.index import UnusableIndex, open_index
from labeler.verification.shard_checks import EVERYTHING, CheckSettings, check_shards, new_report
from labeler.verification.verify_copied_shard import CopiedShardChecker

UNLISTED = "surplus files, because an https server does not list its files"
PRODUCER_FILES = "plans, listings and records, which readers do not need"


def verify_copy(url: str, workers: int | None = None, settings: CheckSettings = EVERYTHING) -> dict[str, Any]:
    """Check a public copy against its manifest and return the report, the JSON object that `labeler.verify` prints.

    Readers need only the manifest and the shards, so other files may be absent; those that are there are checked. The
    shards of a generation that is being made are not part of the copy yet.

    Args:
        url: https://HOST/PATH.
        workers: number of processes, by default one per CPU core.
        settings: which shards are checked.
    """
    storage = HttpStorage(url)
    report = new_report()
    problems: list[str] = report["problems"]
    try:
        content = storage.read(MANIFEST)
        manifest = Manifest.model_validate_json(content)
    except FileNotFoundError:
        problems.append(f"{url}: expected a published data set, found no {MANIFEST} there")
        return report
    except UserError as error:
        problems.append(str(error))
        return report
    except ValueError as error:
        problems.append(f"{url}: {MANIFEST} is damaged, or not a manifest: {describe_error(error)}")
        return report
    problems += _find_manifest_problems(manifest)
    file_problems, absent = _check_files(storage, manifest)
    problems += file_problems
    make_checker = functools.partial(CopiedShardChecker, url, manifest)
    checks = check_shards(make_checker, manifest.shards, _make_basis(storage, content), workers, settings)
    problems += checks.problems
    report |= {
        "ok": not problems,
        "complete": not _is_there(storage, plan_name(manifest.generation + 1)),
        "shards": len(manifest.shards),
        "samples": manifest.written,
        "failures": manifest.failed,
    }
    unchecked = [UNLISTED, PRODUCER_FILES] + ([f"files that are not there: {join_names(absent)}"] if absent else [])
    return report | checks.describe_coverage(unchecked)


def _find_manifest_problems(manifest: Manifest) -> list[str]:
    """Check that the entries of a manifest agree with each other."""
    shards, problems = manifest.shards, []
    if [shard.name for shard in shards] != [shard_name(index) for index in range(len(shards))]:
        problems.append(f"{MANIFEST}: its shards are not named {shard_name(0)} and so on, without gaps")
    sums = {"written": sum(shard.samples for shard in shards), "bytes": sum(shard.bytes for shard in shards)}
    sums |= {"planned": manifest.written + manifest.failed, "failed": sum(manifest.failures.values())}
    for name, expected in sums.items():
        if getattr(manifest, name) != expected:
            problems.append(
                f"{MANIFEST}: {name} is {getattr(manifest, name):,}, its other entries add up to {expected:,}"
            )
    return problems


def _check_files(storage: HttpStorage, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Check the files next to the shards. Returns the problems, and the names of absent files."""
    sizes, classes = {shard.name: shard.samples for shard in manifest.shards}, manifest.classes
    checks: dict[str, Callable[[bytes], bool]] = {
        SIZES: lambda content: json.loads(content) == sizes,
        FAILURES: lambda content: len(content.splitlines()) == manifest.failed,
    }
    if classes is not None:
        checks[CLASSES] = lambda content: json.loads(content).keys() == set(map(str, range(classes)))
    problems, absent = [], []
    for name, is_sound in checks.items():
        try:
            if not is_sound(storage.read(name)):
                problems.append(f"{name}: does not match {MANIFEST}")
        except FileNotFoundError:
            absent.append(name)
        except HttpError as error:
            if error.status in REFUSED:  # the answer for an absent file, too, where files may not be listed
                absent.append(name)
            else:
                problems.append(f"{name}: cannot be checked: {error}")
        except (ValueError, AttributeError):
            problems.append(f"{name}: is not a JSON object")
    if not _is_there(storage, INDEX):
        return problems, [*absent, INDEX]
    try:
        open_index(storage)
    except (UnusableIndex, UserError) as problem:
        problems.append(f"{problem}; while a data set grows, verify it again later")
    return problems, absent


def _make_basis(storage: HttpStorage, manifest: bytes) -> str:
    """Return what the shards are checked against: the manifest, and the index if there is one."""
    return repr([storage.location, manifest, storage.stat(INDEX) if _is_there(storage, INDEX) else None])


def _is_there(storage: HttpStorage, name: str) -> bool:
    """Return whether there is a file, as far as the server says so."""
    with contextlib.suppress(HttpError):
        return storage.exists(name)
    return False
