"""The third port: what a test in another process reads and sets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.fake_hub.accesslog import SETTLE_S, Access, AccessLog, dump_log
from tests.support.fake_hub.faults import parse_fault
from tests.support.fake_hub.http_message import Reply, Request

if TYPE_CHECKING:
    from tests.support.fake_hub.fault import FaultBox
    from tests.support.fake_hub.hub_state import HubState


class Control:
    """``GET`` and ``DELETE /_control/log``, ``POST`` and ``DELETE /_control/faults``,
    ``POST /_control/move`` and ``/_control/release``.
    """  # noqa: D205  # a list of routes

    def __init__(self, state: HubState, log: AccessLog, box: FaultBox) -> None:
        self._state = state
        self._log = log
        self._box = box

    def handle(self, request: Request, _entry: Access) -> Reply:
        """Answer one request, with JSON."""
        try:
            value = self._run(f"{request.method} {request.path}", request)
        except (KeyError, TypeError, ValueError) as error:
            return Reply.text(400, json.dumps({"error": repr(error)}))
        return Reply.text(200, json.dumps(value), Content_Type="application/json")

    def _run(self, what: str, request: Request) -> Any:
        match what:
            case "GET /_control/log":
                settle_s = float(request.params.get("settle_s", SETTLE_S))
                return dump_log(self._log.read(settle_s))
            case "DELETE /_control/log":
                return self._log.clear()
            case "POST /_control/faults":
                return self._box.add(parse_fault(json.loads(request.body)))
            case "DELETE /_control/faults":
                return self._box.clear()
            case "POST /_control/release":
                return self._box.release()
            case "POST /_control/move":
                body = json.loads(request.body)
                return self._state.move(body["repo"], body["branch"], body["commit"])
        raise KeyError(what)
