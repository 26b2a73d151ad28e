"""A Hub made of images: the Hub's HTTP interface over registries, layouts, archives and caches.

::

    sources ── catalogue (repos, revisions, files) ── documents (JSON)  ─┐
       │                                                               app ── server
       └── registry blobs ── filling (read once, verified) ── contents ─┘
                                └── cache (Hugging Face layout)
"""

from downloader.serve.server import ServeOptions, Serving, serve

__all__ = ["ServeOptions", "Serving", "serve"]
