"""A client of few words: no retries, no redirects, no clever recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import urllib3

if TYPE_CHECKING:
    from tests.support.fake_hub.server import Hub


def get(url: str, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
    """Ask once; ``If_Range`` names the header ``If-Range``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib3.request(
        method, url, headers=named, redirect=False, retries=False, timeout=urllib3.Timeout(20)
    )


def weights_url(hub: Hub) -> str:
    """Give the signed address of the weights of ``tiny_repo()``, as the Hub hands it out."""
    answer = get(f"{hub.endpoint}/org/tiny/resolve/main/model.safetensors")
    assert answer.status == 302
    return answer.headers["Location"]
