"""The OCI image specification 1.1 as JSON schemas, written from its text, strict where it is.

Source: https://github.com/opencontainers/image-spec, v1.1.0: descriptor.md, manifest.md,
image-index.md, config.md, image-layout.md. The specification's own schema files allow every
further property; these do not, so that a misspelt one is found.
"""

from tests.support.schemas import closed

DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
MEDIA_TYPE = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$",
}
ANNOTATIONS = {
    "type": "object",
    "propertyNames": {"minLength": 1},
    "additionalProperties": {"type": "string"},
}
RFC3339 = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$",
}
PLATFORM = closed(
    {"architecture": {"type": "string", "minLength": 1}, "os": {"type": "string", "minLength": 1}},
    variant={"type": "string"},
)
DESCRIPTOR = closed(
    {
        "mediaType": MEDIA_TYPE,
        "digest": DIGEST,
        "size": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    },
    annotations=ANNOTATIONS,
    artifactType=MEDIA_TYPE,
    platform=PLATFORM,
)
MANIFEST = closed(
    {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"},
        "config": DESCRIPTOR,
        "layers": {"type": "array", "items": DESCRIPTOR, "minItems": 1},
    },
    artifactType=MEDIA_TYPE,
    annotations=ANNOTATIONS,
)
INDEX = closed(
    {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.index.v1+json"},
        "manifests": {"type": "array", "items": DESCRIPTOR, "minItems": 1},
    },
    annotations=ANNOTATIONS,
)
STRINGS = {"type": "array", "items": {"type": "string"}}
EMPTY_OBJECTS = {"type": "object", "additionalProperties": closed({})}
CONFIG = closed(
    {
        "architecture": {"type": "string", "minLength": 1},
        "os": {"type": "string", "minLength": 1},
        "rootfs": closed(
            {
                "type": {"const": "layers"},
                "diff_ids": {"type": "array", "items": DIGEST, "minItems": 1},
            }
        ),
    },
    created=RFC3339,
    author={"type": "string"},
    variant={"type": "string"},
    config=closed(
        {},
        User={"type": "string"},
        ExposedPorts=EMPTY_OBJECTS,
        Env={"type": "array", "items": {"type": "string", "pattern": "^[^=]+=.*$"}},
        Entrypoint={"anyOf": [STRINGS, {"type": "null"}]},
        Cmd={"anyOf": [STRINGS, {"type": "null"}]},
        Volumes=EMPTY_OBJECTS,
        WorkingDir={"type": "string"},
        Labels=ANNOTATIONS,
        StopSignal={"type": "string"},
        ArgsEscaped={"type": "boolean"},
    ),
    history={
        "type": "array",
        "items": closed(
            {},
            created=RFC3339,
            author={"type": "string"},
            created_by={"type": "string"},
            comment={"type": "string"},
            empty_layer={"type": "boolean"},
        ),
    },
)
LAYOUT = closed({"imageLayoutVersion": {"const": "1.0.0"}})

# CNCF ModelPack, docs/config.md: names and types of what this project writes.
MODEL_CONFIG = closed(
    {
        "descriptor": closed(
            {},
            createdAt=RFC3339,
            vendor={"type": "string"},
            name={"type": "string", "minLength": 1},
            title={"type": "string"},
            version={"type": "string"},
            sourceURL={"type": "string"},
            revision={"type": "string"},
            licenses=STRINGS,
        ),
        "config": closed({}, format={"type": "string"}),
        "modelfs": closed(
            {
                "type": {"const": "layers"},
                "diffIds": {"type": "array", "items": DIGEST, "minItems": 1},
            }
        ),
    }
)
