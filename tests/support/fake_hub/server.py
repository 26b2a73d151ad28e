"""All origins together, in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from tests.support.fake_hub.accesslog import SETTLE_S, Access, Accesses, AccessLog
from tests.support.fake_hub.cdn import Cdn, Elsewhere
from tests.support.fake_hub.control import Control
from tests.support.fake_hub.fault import Fault, FaultBox, World
from tests.support.fake_hub.hub_api import HubApi
from tests.support.fake_hub.hub_state import HubState
from tests.support.fake_hub.listener import Listener
from tests.support.fake_hub.spec import HubSpec, Repo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from tests.support.fake_hub.http_message import Reply, Request
    from tests.support.fake_hub.listener import Handler

HOST = "127.0.0.1"
ELSEWHERE_HOST = "127.0.0.2"  # another host; macOS has only 127.0.0.1


class Hub(ABC):
    """What tests hold, whether the server is here or in another process."""

    endpoint: str
    cdn_endpoint: str
    elsewhere_endpoint: str
    control_endpoint: str

    @abstractmethod
    def start(self) -> Self:
        """Listen; the addresses are known when this returns."""

    @abstractmethod
    def stop(self) -> None:
        """End all connections."""

    @abstractmethod
    def log(self, settle_s: float = SETTLE_S) -> Accesses:
        """Give what was asked so far, waiting a little for answers under way."""

    @abstractmethod
    def clear_log(self) -> None:
        """Forget what was asked so far."""

    @abstractmethod
    def add_fault(self, fault: Fault) -> None:
        """Set a fault, beside those that are set."""

    @abstractmethod
    def clear_faults(self) -> None:
        """Take all faults away, and release what stalls."""

    @abstractmethod
    def release(self) -> None:
        """Let the answers that stall go on."""

    @abstractmethod
    def move(self, repo: Repo | str, branch: str, commit: int | str) -> str:
        """Point a branch at another commit (index or sha) of the repo; give the sha."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def as_spec(repos: HubSpec | Iterable[Repo]) -> HubSpec:
    """Take a whole spec or only repos."""
    return repos if isinstance(repos, HubSpec) else HubSpec(tuple(repos))


class HubServer(Hub):
    """The stand-in in threads of this process.

    Not beside hf_transfer: that holds the GIL while it waits for the server.
    """

    def __init__(self, repos: HubSpec | Iterable[Repo]) -> None:
        spec = as_spec(repos)
        self.state = HubState(spec)
        self._log = AccessLog()
        self._box = FaultBox(World())
        hub, cdn = HubApi(self.state), Cdn(self.state)
        cdn_bind = HOST if spec.cdn_host == "localhost" else spec.cdn_host
        self._hub = Listener("hub", HOST, self._faulty("hub", hub.handle), self._log, spec.port)
        self._cdn = Listener("cdn", cdn_bind, self._faulty("cdn", cdn.handle), self._log)
        self._elsewhere, host = self._listen_elsewhere(Elsewhere(hub, cdn))
        control = Control(self.state, self._log, self._box)
        self._control = Listener("control", HOST, control.handle, None)
        self.endpoint = f"http://{HOST}:{self._hub.port}"
        self.cdn_endpoint = f"http://{spec.cdn_host}:{self._cdn.port}"
        self.elsewhere_endpoint = f"http://{host}:{self._elsewhere.port}"
        self.control_endpoint = f"http://{HOST}:{self._control.port}"
        self.state.endpoint, self.state.cdn_endpoint = self.endpoint, self.cdn_endpoint
        self._box.world.elsewhere = self.elsewhere_endpoint

    def _listen_elsewhere(self, elsewhere: Elsewhere) -> tuple[Listener, str]:
        handle = self._faulty("elsewhere", elsewhere.handle)
        try:
            return Listener("elsewhere", ELSEWHERE_HOST, handle, self._log), ELSEWHERE_HOST
        except OSError:
            return Listener("elsewhere", HOST, handle, self._log), "localhost"

    def _faulty(self, origin: str, handle: Handler) -> Handler:
        def handle_with_faults(request: Request, entry: Access) -> Reply:
            reply = handle(request, entry)
            name = entry.file or "/" + "/".join(request.segments)
            reply, entry.faults = self._box.change(reply, request, origin, name)
            return reply

        return handle_with_faults

    @property
    def _listeners(self) -> tuple[Listener, ...]:
        return self._hub, self._cdn, self._elsewhere, self._control

    def start(self) -> Self:
        for listener in self._listeners:
            listener.start()
        return self

    def stop(self) -> None:
        self._box.clear()
        for listener in self._listeners:
            listener.stop()

    def log(self, settle_s: float = SETTLE_S) -> Accesses:
        return Accesses(self._log.read(settle_s))

    def clear_log(self) -> None:
        self._log.clear()

    def add_fault(self, fault: Fault) -> None:
        self._box.add(fault)

    def clear_faults(self) -> None:
        self._box.clear()

    def release(self) -> None:
        self._box.release()

    def move(self, repo: Repo | str, branch: str, commit: int | str) -> str:
        return self.state.move(repo if isinstance(repo, str) else repo.key, branch, commit)
