"""The machine-readable description of a data set: `croissant.json`, in ML Commons Croissant 1.0."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from common.manifest import CARD, Manifest, Plan, ShardEntry
from common.text import pluralize

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
CITATION = (
    "Yao, Ye, He, Elsayed. Teacher-generated spatial-attention labels boost robustness and accuracy of contrastive "
    "models. CVPR 2023."
)


class MemberKind(NamedTuple):
    """A kind of file in the shards, such as the attention maps: one file per sample."""

    name: str
    extension: str
    encoding_format: str  # MIME type
    data_type: str
    description: str


MAPS = MemberKind(
    "maps", "attn.png", "image/png", "sc:ImageObject", "attention map, 8-bit grayscale, divided by its maximum"
)
POINTS = MemberKind(
    "points", "gaze.npy", "application/octet-stream", "sc:Text", "gaze points, float32 [n, 3], NumPy format"
)
DESCRIPTIONS = MemberKind(
    "descriptions", "json", "text/plain", "sc:Text", "source, size and teacher as JSON; schema.json is its schema"
)
IMAGES = MemberKind("images", "jpg", "image/jpeg", "sc:ImageObject", "photograph")
CLASS_INDICES = MemberKind("classes", "cls", "text/plain", "sc:Text", "class index; classes.json holds the names")


def make_croissant(plan: Plan, manifest: Manifest) -> bytes:
    """Return the content of `croissant.json`. `plan` is the last plan of the data set.

    It lists every shard with its checksum, and a file set and a record set for each kind of member.
    """
    kinds = [MAPS, POINTS, DESCRIPTIONS]
    if manifest.include_images:
        kinds.insert(0, IMAGES)
    if plan.classes is not None:
        kinds.append(CLASS_INDICES)
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "ImageNet-Attn",
        "description": "Photographs with human attention maps and gaze points, predicted by a teacher network "
        f"({manifest.teacher.id}). {pluralize(manifest.written, 'sample')} in WebDataset tar shards.",
        "citeAs": CITATION,
        "license": "The labels: https://www.apache.org/licenses/LICENSE-2.0. The photographs keep their own licenses.",
        "url": CARD,
        "version": manifest.schema_version + ".0",
        "distribution": [_file_object(shard) for shard in manifest.shards]
        + [_file_set(kind, manifest.shards) for kind in kinds],
        "recordSet": [_record_set(kind) for kind in kinds],
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _file_object(shard: ShardEntry) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard.name,
        "name": shard.name,
        "contentUrl": shard.name,
        "contentSize": f"{shard.bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": shard.sha256,
    }


def _file_set(kind: MemberKind, shards: Sequence[ShardEntry]) -> dict[str, Any]:
    """Describe all members of one kind, in all shards."""
    return {
        "@type": "cr:FileSet",
        "@id": kind.name,
        "name": kind.name,
        "containedIn": [{"@id": shard.name} for shard in shards],
        "encodingFormat": kind.encoding_format,
        "includes": f"*.{kind.extension}",
    }


def _record_set(kind: MemberKind) -> dict[str, Any]:
    """Describe one record per member of a kind: its file name and its content."""
    return {
        "@type": "cr:RecordSet",
        "@id": f"{kind.name}-records",
        "name": f"{kind.name}-records",
        "key": {"@id": f"{kind.name}-records/file"},
        "field": [
            _field(kind, "file", "sc:Text", "name of the member; the part before the first dot is the key", "filename"),
            _field(kind, "content", kind.data_type, kind.description, "content"),
        ],
    }


def _field(kind: MemberKind, name: str, data_type: str, description: str, file_property: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{kind.name}-records/{name}",
        "name": name,
        "description": description,
        "dataType": data_type,
        "source": {"fileSet": {"@id": kind.name}, "extract": {"fileProperty": file_property}},
    }
