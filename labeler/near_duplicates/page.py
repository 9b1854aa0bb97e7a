"""HTML page that shows pairs of near-duplicates side by side."""

from pathlib import Path

from common import page
from common.page import Html
from common.text import pluralize
from labeler.near_duplicates.find import MatchedGroup, MatchedPair, NearDuplicates
from labeler.near_duplicates.samples import MatchedSample

MAX_PAIRS = 200  # on the page; each pair with images takes about 40 KB


def write_near_duplicates_page(found: NearDuplicates, to: Path) -> None:
    """Write a page of the groups, largest first, each with the most similar pairs that connect its images.

    Samples of data sets without images are shown by their attention maps and gaze points. Raises UserError if the page
    cannot be written, or if a shard has changed since it was indexed.
    """
    sections, pairs = list[Html](), 0
    for number, group in enumerate(found.groups, start=1):
        if pairs == MAX_PAIRS:
            break
        shown = group.pairs[: MAX_PAIRS - pairs]
        sections.append(_draw_group(number, group, shown))
        pairs += len(shown)
    dataset, *others = found.datasets
    where = f"Images of {dataset.location} " + (
        f"with near-duplicates in {others[0].location}." if others else "and their near-duplicates in it."
    )
    total = sum(len(group.pairs) for group in found.groups)
    content = page.document(
        "Near-duplicates",
        where,
        _make_tiles(found),
        page.notes([f"The first {pairs:,} of {total:,} pairs; the CSV file has all groups."] if pairs < total else []),
        *(sections or [page.paragraph("There are none.")]),
    )
    page.write_page(to, content)


def _make_tiles(found: NearDuplicates) -> Html:
    return page.tiles(
        {
            "images compared": " with ".join(f"{len(dataset.hashes):,}" for dataset in found.datasets),
            "groups": len(found.groups),
            "images in groups": sum(len(group.samples) for group in found.groups),
            "different bits at most": found.max_distance,
            "confirmed by pixels": "yes" if found.confirmed_by_pixels else "no",
        }
    )


def _draw_group(number: int, group: MatchedGroup, shown: list[MatchedPair]) -> Html:
    parts = list[Html]()
    for pair in shown:
        mirrored = ", mirrored" if pair.mirrored else ""
        parts.append(page.paragraph(f"{pluralize(pair.distance, 'different bit')} of 256{mirrored}"))
        parts.append(page.grid([_draw_sample(pair.first), _draw_sample(pair.second)]))
    return page.section(f"Group {number:,}: {pluralize(len(group.samples), 'image')}", *parts)


def _draw_sample(sample: MatchedSample) -> Html:
    row = sample.row
    details = f"{row['width']:,} × {row['height']:,}, {sample.dataset.location}/{row['shard']}, {row['key']}"
    return page.figure(_draw_picture(sample), page.breakable(row["source"]), page.breakable(details))


def _draw_picture(sample: MatchedSample) -> Html:
    row = sample.row
    if sample.has_image:
        return page.picture(page.thumbnail(sample.read_image("RGB", page.LONGEST_SIDE)), row["source"])
    attention, points = sample.read_labels()
    return page.attention_picture(None, attention, points, (row["width"], row["height"]), row["exif_orientation"])
