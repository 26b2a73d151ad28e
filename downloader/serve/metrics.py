"""Counters, in Prometheus' text format.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format".
"""

from collections import Counter
from dataclasses import dataclass, field

_PREFIX = "hf_models_serve"
_HELP = {
    "served_bytes_total": "Bytes of answers sent to clients.",
    "fetched_bytes_total": "Bytes of files read from registries and archives.",
    "hits_total": "Answers with a file that the cache had already.",
    "misses_total": "Answers with a file that had to be read from its source.",
    "upstream_errors_total": "Reads of a source that failed for good.",
    "wrong_bytes_total": "Files whose bytes were not what their name says.",
    "refresh_errors_total": "Looks at a source that failed.",
    "clients": "Requests being answered.",
    "waiting": "Answers that wait for a source.",
    "filling": "Files on their way into the cache.",
    "repos": "Repos that are served.",
}
_GAUGES = {"clients", "waiting", "filling", "repos"}


@dataclass
class Metrics:
    """Everything that is counted; changed on the event loop's thread only."""

    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter or gauge."""
        self.counts[name] += count

    def to_text(self) -> str:
        """Return all of them, as Prometheus reads them."""
        lines = [
            f"# HELP {_PREFIX}_requests_total Requests by status.",
            f"# TYPE {_PREFIX}_requests_total counter",
        ]
        lines += [
            f'{_PREFIX}_requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self.statuses.items())
        ]
        for name, text in _HELP.items():
            kind = "gauge" if name in _GAUGES else "counter"
            lines += [f"# HELP {_PREFIX}_{name} {text}", f"# TYPE {_PREFIX}_{name} {kind}"]
            lines.append(f"{_PREFIX}_{name} {self.counts[name.removesuffix('_total')]}")
        return "\n".join(lines) + "\n"
