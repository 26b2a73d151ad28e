"""Retries: the policy (which failures, after how long) and the failures so far."""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from downloader.errors import HfModelsError, TransportError
from downloader.progress import Note, ignore
from downloader.units import format_seconds

# 408 and 429 ask for it; 5xx but 501 (never going to work) pass with time.
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

# The Hub's own header: `"api";r=0;t=55` says that the window opens again in 55 s.
_RATELIMIT_RESET = re.compile(r"\bt=(\d{1,6})\b")
_SECONDS = re.compile(r"\d{1,9}")

_NOTED_DELAY_S = 2.0  # shorter waits are over before they are read


def is_passing(status: int) -> bool:
    """Whether an HTTP status is one that may go away by itself."""
    return status in _PASSING_STATUSES


def parse_retry_after(
    headers: Mapping[str, str] | None, now: datetime | None = None
) -> float | None:
    """Return the seconds that a server asks to wait, None if it does not ask.

    Args:
        headers: Of the answer; ``Retry-After`` (seconds or a date) or the Hub's ``ratelimit``.
        now: An aware time, to turn a date into a delay; None for the present.

    Source: RFC 9110, section 10.2.3; huggingface_hub utils/_http.py for ``ratelimit``.

    >>> from datetime import timezone
    >>> noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    >>> parse_retry_after({"Retry-After": "Thu, 01 Jan 2026 12:00:07 GMT"}, noon)
    7.0
    >>> parse_retry_after({"ratelimit": '"api";r=0;t=55'}, noon)
    55.0
    >>> parse_retry_after({"Retry-After": "soon"}, noon) is None
    True
    """
    headers, now = headers or {}, now or datetime.now(UTC)
    value = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        # "-0000" parses as a naive time; the header is always in GMT.
        date = parsedate_to_datetime(value).replace(tzinfo=now.tzinfo)
        return max(0.0, (date - now).total_seconds())
    except (ValueError, TypeError):
        reset = _RATELIMIT_RESET.search(headers.get("ratelimit", ""))
        return float(reset[1]) if reset else None


@dataclass(frozen=True)
class RetryPolicy:
    """Number of tries, and delays between them.

    Args:
        tries: Number of tries, with the first one.
        first_delay_s: Before the second try; doubles from there.
        longest_delay_s: The most that doubling gives.
        longest_asked_s: The most that a server may ask for; more, and the call fails at once
            with what the server said, because a job that sleeps for an hour looks hung.
    """

    tries: int = 6
    first_delay_s: float = 0.5
    longest_delay_s: float = 20.0
    longest_asked_s: float = 330.0  # the Hub's rate limit window is 5 minutes

    def delay_s(self, failures: int, asked_s: float | None = None) -> float | None:
        """Return the seconds to wait after the ``failures``-th failure; None to give up.

        >>> [RetryPolicy(tries=4).delay_s(n) for n in (1, 2, 3, 4)]
        [0.5, 1.0, 2.0, None]
        >>> RetryPolicy().delay_s(1, asked_s=7.0)
        7.0
        """
        if failures >= self.tries or (asked_s or 0.0) > self.longest_asked_s:
            return None
        doubled = self.first_delay_s * 2.0 ** min(failures - 1, 30)
        return max(min(doubled, self.longest_delay_s), asked_s or 0.0)


class TransientError(Exception):
    """A failure that may go away by itself.

    Args:
        error: Raised once the retries are used up.
        asked_s: Seconds that the server asked to wait.
    """

    def __init__(self, error: HfModelsError, asked_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.asked_s = asked_s


class Retry:
    """The failures in a row of one piece of work, and the wait after each.

    Args:
        policy: Number of tries and delays.
        pause: Waits so many seconds and returns whether to give up instead, like
            `threading.Event.wait` of an event that cancels the work.
        note: Told of what costs a person's time: a long wait, a timeout, and at the first
            failure a server that cannot be reached.
        name: Of the file, for the note, where the error may not name it.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        pause: Callable[[float], object] | None = None,
        *,
        note: Note = ignore,
        name: str = "",
    ) -> None:
        self._policy = policy
        self._pause = pause or threading.Event().wait
        self._note = note
        self._name = name
        self._failures = 0

    def succeeded(self) -> None:
        """Start counting again: bytes have arrived."""
        self._failures = 0

    def wait(
        self,
        error: HfModelsError,
        headers: Mapping[str, str] | None = None,
        *,
        asked_s: float | None = None,
    ) -> bool:
        """Wait after a failure; return False, at once, where it is time to give up.

        Args:
            error: The failure.
            headers: Of the answer, which may say how long to wait.
            asked_s: Seconds that the server asked to wait, where they are known already.
        """
        self._failures += 1
        asked_s = parse_retry_after(headers) if headers else asked_s
        delay_s = self._policy.delay_s(self._failures, asked_s)
        if delay_s is None:
            return False
        if delay_s >= _NOTED_DELAY_S or self._costs_time(error):
            prefix = "" if self._name in error.message else f"{self._name}: "
            self._note(f"{prefix}{error.message}; again in {format_seconds(delay_s)}")
        return not self._pause(delay_s)

    def _costs_time(self, error: HfModelsError) -> bool:
        if not isinstance(error, TransportError):
            return False
        return error.timed_out or (error.unreachable and self._failures == 1)

    def wait_or_raise(self, failure: TransientError) -> None:
        """Wait after a failure.

        Raises:
            HfModelsError: The error of ``failure``, when no try is left.
        """
        if not self.wait(failure.error, asked_s=failure.asked_s):
            raise failure.error from failure
