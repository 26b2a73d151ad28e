"""The published images: read from a registry's manifests, shown as a table, a page and JSON."""
