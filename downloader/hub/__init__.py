"""Hugging Face: repos, snapshots, bytes and the cache layout. Knows nothing about OCI."""
