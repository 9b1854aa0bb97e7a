"""Verification of the files that a complete data set is published with, against the records of its shards.

Files are compared by what they mean to a program. Text for people (the card, descriptions in schema.json and
croissant.json) may differ, because it changes between versions of this program while the data sets stay.
"""

import json
from collections.abc import Sequence
from typing import Any

from common.manifest import CARD, CROISSANT, FAILURES, INDEX, MANIFEST, SCHEMA, Manifest, Plan
from common.storage import Storage
from labeler.publishing.index import UnusableIndex, open_index
from labeler.publishing.outcome import Records, compute_outcome, encode_failures
from labeler.publishing.publish import make_description_files, make_manifest

CROISSANT_STRUCTURE = ("distribution", "recordSet")  # what programs read; the rest is text and JSON-LD vocabulary


def find_published_problems(storage: Storage, plans: Sequence[Plan], records: Records) -> list[str]:
    """Compare the manifest and the descriptive files with what publishing would write now.

    `plans` are the plans that the manifest covers, and `records` holds a record for each of their shards.
    """
    expected, outcome = make_manifest(storage, plans, records), compute_outcome(storage, plans, records)
    problems = _find_manifest_problems(storage, expected)
    if expected.written + expected.failed != expected.planned:
        problems.append(
            f"expected {expected.planned:,} planned images, found {expected.written:,} samples and "
            f"{expected.failed:,} failures"
        )
    files = {**make_description_files(plans[-1], expected), FAILURES: encode_failures(outcome.failed)}
    for name, content in files.items():
        if not storage.exists(name):
            problems.append(f"{name} is missing")
        elif not _has_same_meaning(name, storage.read(name), content):
            problems.append(f"{name}: does not match the plan and the records")
    return problems


def _find_manifest_problems(storage: Storage, expected: Manifest) -> list[str]:
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST))
    except ValueError:
        return []  # reported when the plans were read
    differing = [name for name in Manifest.model_fields if getattr(manifest, name) != getattr(expected, name)]
    if differing:
        return [f"{MANIFEST}: does not match the records: {', '.join(differing)}"]
    return _find_index_problems(storage)


def _find_index_problems(storage: Storage) -> list[str]:
    """Check that the index belongs to the manifest, which is sound. Data sets of earlier versions have no index."""
    if storage.exists(INDEX):
        try:
            open_index(storage)
        except UnusableIndex as problem:
            return [f"{problem}; python -m labeler.index {storage.location} writes it again"]
    return []


def _has_same_meaning(name: str, found: bytes, expected: bytes) -> bool:
    if name == CARD:
        return True
    try:
        return _extract_meaning(name, found) == _extract_meaning(name, expected)
    except ValueError:  # not JSON
        return False


def _extract_meaning(name: str, content: bytes) -> object:
    """Parse a file of JSON, or of JSON lines for failures.jsonl, and remove the text for people."""
    if name == FAILURES:
        return [json.loads(line) for line in content.splitlines()]
    document = json.loads(content)
    if name == SCHEMA:
        return _remove_text(document)
    if name == CROISSANT and isinstance(document, dict):
        return {key: _remove_text(document.get(key)) for key in CROISSANT_STRUCTURE}
    return document


def _remove_text(value: Any) -> Any:
    """Return JSON without its titles and descriptions.

    Only strings are removed: under "properties" of a JSON schema, "title" and "description" are names of properties.
    """
    if isinstance(value, list):
        return [_remove_text(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _remove_text(item)
            for key, item in value.items()
            if not (key in ("title", "description") and isinstance(item, str))
        }
    return value
