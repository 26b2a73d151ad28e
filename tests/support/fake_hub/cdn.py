"""The CDN's origins: signed addresses, no credentials."""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING

from tests.support.fake_hub.faults import expired_reply
from tests.support.fake_hub.http_message import Reply, Request
from tests.support.fake_hub.hub_content import TYPES
from tests.support.fake_hub.ranges import make_file_reply

if TYPE_CHECKING:
    from tests.support.fake_hub.accesslog import Access
    from tests.support.fake_hub.hub_api import HubApi
    from tests.support.fake_hub.hub_state import HubState


class Cdn:
    """Serves LFS files to whoever has a signed address."""

    def __init__(self, state: HubState) -> None:
        self._state = state

    def handle(self, request: Request, entry: Access) -> Reply:
        """Answer one request; any ``Authorization`` is refused, as S3 does."""
        parts = request.segments
        size = next((at for at in (2, 3) if parts[at : at + 1] and len(parts[at]) == 64), 0)
        key = f"{TYPES.get(parts[0], '?')}:{'/'.join(parts[1:size])}"
        path = "/".join(parts[size + 1 :])
        entry.file = f"{key}/{path}" if size else ""
        if refused := self._refuse(request):
            return refused
        file = self._state.find_content(key, parts[size], path)
        if file is None:
            return Reply.text(404, "<Error><Code>NoSuchKey</Code></Error>")
        headers = {"ETag": f'"{file.oid}"', "Content-Type": "application/octet-stream"}
        reply = make_file_reply(request, file.source, headers)
        reply.bytes_per_s = self._state.spec.bandwidth_bytes_s
        return reply

    def _refuse(self, request: Request) -> Reply | None:
        if "authorization" in request.headers:
            code = "InvalidArgument: Only one auth mechanism allowed"
            return Reply.text(400, f"<Error><Code>{code}</Code></Error>")
        if request.method not in {"GET", "HEAD"}:
            return Reply.text(405, "<Error><Code>MethodNotAllowed</Code></Error>")
        params = request.params
        if set(params) != {"expires", "sig"} or not params["expires"].isdecimal():
            return Reply.text(403, "<Error><Code>MissingSignature</Code></Error>")
        expires = int(params["expires"])
        if time.time() >= expires:
            return expired_reply()
        if not hmac.compare_digest(params["sig"], self._state.signature(request.path, expires)):
            return Reply.text(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>")
        return None


class Elsewhere:
    """Another host that has everything: where ``RedirectElsewhere`` sends clients."""

    def __init__(self, hub: HubApi, cdn: Cdn) -> None:
        self._hub = hub
        self._cdn = cdn

    def handle(self, request: Request, entry: Access) -> Reply:
        """Answer what the Hub or the CDN would, and refuse ``Authorization``."""
        if "authorization" in request.headers:
            return Reply.text(400, "credentials of another host")
        if "sig" in request.params:
            return self._cdn.handle(request, entry)
        return self._hub.handle(request, entry, trusted=True)
