"""The data set's description for machines: `croissant.json`, ML Commons Croissant 1.0."""

import json
from typing import Any

from common.manifest import CARD, Manifest, Plan

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


def make_croissant(plan: Plan, manifest: Manifest) -> bytes:
    """Every shard with its checksum, a file set for each kind of member, and a record set for each of them."""
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": shard.name,
            "name": shard.name,
            "contentUrl": shard.name,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": "application/x-tar",
            "sha256": shard.sha256,
        }
        for shard in manifest.shards
    ]
    kinds = [
        ("maps", "attn.png", "image/png", "sc:ImageObject", "where people look, 8-bit grey, divided by its maximum"),
        ("points", "gaze.npy", "application/octet-stream", "sc:Text", "gaze points, float32 [n, 3], NumPy format"),
        ("descriptions", "json", "text/plain", "sc:Text", "source, size, teacher; JSON, described by schema.json"),
    ]
    if manifest.include_images:
        kinds.insert(0, ("images", "jpg", "image/jpeg", "sc:ImageObject", "the photograph"))
    if plan.classes is not None:
        kinds.append(("classes", "cls", "text/plain", "sc:Text", "class index; its name is in classes.json"))
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "ImageNet-Attn",
        "description": "Photographs with where people look: attention maps and gaze points predicted by a teacher "
        f"network ({manifest.teacher.id}). {manifest.written} samples in WebDataset tar shards.",
        "citeAs": CITATION,
        "license": "The labels: https://www.apache.org/licenses/LICENSE-2.0. The photographs keep their own licences.",
        "url": CARD,
        "version": manifest.schema_version + ".0",
        "distribution": shards + [_file_set(name, extension, mime, manifest) for name, extension, mime, _, _ in kinds],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": f"{name}-records",
                "name": f"{name}-records",
                "key": {"@id": f"{name}-records/file"},
                "field": [
                    _field(
                        name,
                        "file",
                        "sc:Text",
                        "the member's name; its part before the first dot is the key",
                        "filename",
                    ),
                    _field(name, "content", data_type, meaning, "content"),
                ],
            }
            for name, _, _, data_type, meaning in kinds
        ],
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _file_set(name: str, extension: str, mime: str, manifest: Manifest) -> dict[str, Any]:
    """All members of one kind, in all shards."""
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": [{"@id": shard.name} for shard in manifest.shards],
        "encodingFormat": mime,
        "includes": f"*.{extension}",
    }


def _field(name: str, field: str, data_type: str, meaning: str, file_property: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{name}-records/{field}",
        "name": field,
        "description": meaning,
        "dataType": data_type,
        "source": {"fileSet": {"@id": name}, "extract": {"fileProperty": file_property}},
    }
