"""Which registries want a blob in one streamed request, and why."""

# Host name (or a parent domain of it) -> reason. A registry that is missing here is given
# chunks, and one that refuses them is learned from its answer.
_STREAM_HOSTS = {
    # Answers 416, "the request body is too large and exceeds the maximum permissible limit of
    # 4 MiB", for a PATCH with a Content-Range; one without it, as `docker push` sends, may be long.
    # Source: oras-project/rust-oci-client #37; openai/tart #179; kitops upload-format.go
    "ghcr.io": "limits a chunk to 4 MiB",
    # Source: cloud.google.com/artifact-registry/docs/reference/docker-api, "chunked uploads";
    # kitops-ml/kitops #777
    "gcr.io": "has no chunked uploads",
    "pkg.dev": "has no chunked uploads",
    # 201 after the first chunk, and a Range header that does not move after it.
    # Source: kitops-ml/kitops upload-format.go; aws/containers-roadmap #2831
    "amazonaws.com": "ends an upload with its first chunk",
    "amazonaws.com.cn": "ends an upload with its first chunk",
    "public.ecr.aws": "ends an upload with its first chunk",
}


def wants_stream(registry: str) -> bool:
    """Whether a registry is known to refuse chunks.

    Args:
        registry: Host, and port if there is one.

    >>> wants_stream("europe-docker.pkg.dev"), wants_stream("notghcr.io")
    (True, False)
    """
    host = registry.partition(":")[0].lower()
    return any(host == known or host.endswith(f".{known}") for known in _STREAM_HOSTS)
