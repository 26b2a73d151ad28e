"""Publishing and restoring over lines as users have them: ``nox -s bench -- line``.

The registry lies behind a proxy that delays each byte and gives each connection a rate; the Hub
is near for `publish`, and behind the same delay and rate (said to its stand-in as faults) for
`fetch` and `hf download`. The floor is curl with as many connections as help: 1, 4, 8 and 16 are
tried, the quickest counts.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from downloader.units import MIB
from tests.bench.command import head_of, new_parser
from tests.bench.wan import Line, between
from tests.bench.world import REPO_ID, Weights, fresh_registry, measure, serving, write_weights
from tests.support.fake_hub import HubProcess, faults

ROUND_TRIPS_MS = (0, 20, 200)
RATES_MB = (5, 20, 100)
CONNECTIONS = (1, 4, 8, 16)
TAGS = ("x", "x-zstd")
_OURS = [sys.executable, "-m", "downloader"]
_PIECES = """
host=$0; path=$1; size=$2; count=$3; out=$4; step=$(( (size + count - 1) / count ))
for i in $(seq 0 $((count - 1))); do
    from=$((i * step)); to=$((from + step - 1)); [ $to -lt $size ] || to=$((size - 1))
    curl -sf -r $from-$to -o "$out/$i" "http://$host$path" &
done
wait
"""


@dataclass(frozen=True)
class Scene:
    """What every way over one line starts from.

    Args:
        weights: The files on disk.
        hub: Serves them, near; `far_hub` puts it behind the line.
        registry: Host of the registry itself.
        far: Host of the registry behind the line.
        image: A published image, without host.
        directory: For whatever a way writes.
        line: Between the two sides.
    """

    weights: Sequence[Weights]
    hub: HubProcess
    registry: str
    far: str
    image: str
    directory: Path
    line: Line
    taken: list[int] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.directory / "hf")}

    def fresh(self) -> Path:
        """Return an empty directory."""
        self.taken.append(1)
        out = self.directory / f"out-{len(self.taken)}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    def new_name(self) -> str:
        """Return the name of a repository that does not exist yet."""
        self.taken.append(1)
        return f"bench/new-{len(self.taken)}"


def publish(scene: Scene, *flags: str) -> float:
    """Publish with the defaults."""
    target = f"{scene.far}/{scene.new_name()}"
    return _publish(scene, target, *flags)


def publish_again(scene: Scene) -> float:
    """Publish what is there already."""
    target = f"{scene.registry}/{scene.new_name()}"
    _publish(scene, target)
    return _publish(scene, target.replace(scene.registry, scene.far))


def _publish(scene: Scene, target: str, *flags: str) -> float:
    command = [*_OURS, "publish", REPO_ID, "--base", "none", "-q", "--to", target, *flags]
    return measure(command, env=scene.environment).seconds


def publish_compressed(scene: Scene) -> float:
    """Publish with zstd layers where they help."""
    return publish(scene, "--compress", "zstd")


def restore(scene: Scene) -> float:
    """Restore with the defaults."""
    command = [*_OURS, "restore", f"{scene.far}/{scene.image}", "-q"]
    return measure([*command, "--cache-dir", str(scene.fresh())]).seconds


def restore_compressed(scene: Scene) -> float:
    """Restore the same model from zstd layers."""
    command = [*_OURS, "restore", f"{scene.far}/{scene.image}-zstd", "-q"]
    return measure([*command, "--cache-dir", str(scene.fresh())]).seconds


def fetch(scene: Scene) -> float:
    """Download from a Hub behind the line."""
    with far_hub(scene):
        command = [*_OURS, "fetch", REPO_ID, "-q", "--cache-dir", str(scene.fresh())]
        return measure(command, env=scene.environment).seconds


def hf_download(scene: Scene) -> float:
    """Do the same with the library's own command."""
    with far_hub(scene):
        program = str(Path(sys.executable).with_name("hf"))
        command = [program, "download", REPO_ID, "--cache-dir", str(scene.fresh())]
        return measure(command, env={**scene.environment, "HF_HUB_DISABLE_XET": "1"}).seconds


@contextlib.contextmanager
def far_hub(scene: Scene) -> Iterator[None]:
    """Put the Hub behind the line: a wait before each answer, a rate for each connection."""
    if scene.line.round_trip_s:
        scene.hub.add_fault(faults.SlowFirstByte(delay_s=scene.line.round_trip_s))
    if scene.line.connection_bytes_per_s:
        rate = int(scene.line.connection_bytes_per_s)
        scene.hub.add_fault(faults.BandwidthCap(bytes_per_s=rate))
    try:
        yield
    finally:
        scene.hub.clear_faults()


def curl_up(scene: Scene) -> float:
    """Send finished files, one request each, as many at once as there are."""
    script = (
        'url=$(curl -sf -D - -o /dev/null -X POST "http://$0/v2/$3/blobs/uploads/"'
        " | tr -d '\\r' | sed -n 's/^Location: //p');"
        ' curl -sf -o /dev/null -T "$1" -H "Content-Type: application/octet-stream"'
        ' "$url&digest=sha256:$2"'
    )
    name = scene.new_name()
    return measure(
        *(["sh", "-c", script, scene.far, str(w.path), w.sha256, name] for w in scene.weights)
    ).seconds


def curl_down(scene: Scene) -> float:
    """Fetch the layers by ranges, unverified, with each number of connections; the best counts."""
    name, tag = scene.image.rsplit(":", 1)
    layers = _layers(scene.registry, name, tag)[: len(scene.weights)]
    seconds = []
    for count in CONNECTIONS:
        share = max(1, count // len(layers))
        commands = [
            [
                *("bash", "-c", _PIECES, scene.far, f"/v2/{name}/blobs/{digest}"),
                *(str(size), str(share), str(scene.fresh())),
            ]
            for digest, size in layers
        ]
        seconds.append(measure(*commands).seconds)
    return min(seconds)


def _layers(host: str, name: str, tag: str) -> list[tuple[str, int]]:
    raw = subprocess.run(
        ["crane", "manifest", "--insecure", "--platform=linux/amd64", f"{host}/{name}:{tag}"],
        capture_output=True,
        check=True,
    ).stdout
    layers = [(str(x["digest"]), int(x["size"])) for x in json.loads(raw)["layers"]]
    return sorted(layers, key=lambda layer: -layer[1])


def oras_up(scene: Scene) -> float:
    """Copy the finished layout to the registry."""
    source = f"{scene.directory}/layout:x"
    target = f"{scene.far}/{scene.new_name()}:x"
    command = ["oras", "cp", "--from-oci-layout", "--to-plain-http", source, target]
    return measure(command).seconds


def skopeo_up(scene: Scene) -> float:
    """Copy the finished layout with skopeo."""
    flags = ["--all", "--preserve-digests", "-q", "--dest-tls-verify=false"]
    target = f"docker://{scene.far}/{scene.new_name()}:x"
    source = f"oci:{scene.directory}/layout:x"
    return measure(["skopeo", "--insecure-policy", "copy", *flags, source, target]).seconds


def oras_down(scene: Scene) -> float:
    """Copy to a layout: not yet files."""
    target = f"{scene.fresh()}:x"
    source = f"{scene.far}/{scene.image}"
    command = ["oras", "cp", "--from-plain-http", "--to-oci-layout", source, target]
    return measure(command).seconds


def skopeo_down(scene: Scene) -> float:
    """Copy to a directory: not yet files."""
    flags = ["--quiet", "--insecure-policy", "--src-tls-verify=false"]
    source = f"docker://{scene.far}/{scene.image}"
    return measure(["skopeo", "copy", *flags, source, f"dir:{scene.fresh()}"]).seconds


def crane_down(scene: Scene) -> float:
    """Export the file system, and unpack it."""
    script = 'crane export --insecure "$0" - | tar -x -C "$1"'
    source = f"{scene.far}/{scene.image}"
    return measure(["sh", "-c", script, source, str(scene.fresh())]).seconds


def docker_down(scene: Scene) -> float:
    """Pull: in the engine, not yet files."""
    image = f"{scene.far}/{scene.image}"
    try:
        return measure(["docker", "pull", "-q", image]).seconds
    finally:
        subprocess.run(["docker", "rmi", "-f", image], capture_output=True)


Way = Callable[[Scene], float]
# Each group with its floor first; ratios are to it.
GROUPS: Mapping[str, Mapping[str, Way]] = {
    "publish": {
        "curl": curl_up,
        "publish": publish,
        "publish, zstd": publish_compressed,
        "publish again": publish_again,
        "oras cp": oras_up,
        "skopeo copy": skopeo_up,
    },
    "restore": {
        "curl": curl_down,
        "restore": restore,
        "restore, zstd": restore_compressed,
        "oras cp": oras_down,
        "skopeo copy": skopeo_down,
        "crane export": crane_down,
        "docker pull": docker_down,
    },
    "fetch": {"fetch": fetch, "hf download": hf_download},
}
WAYS = sorted({name for group in GROUPS.values() for name in group})


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, WAYS, "six times the files' size")
    parser.set_defaults(files=8, file_mib=128)
    parser.add_argument(
        "--line",
        action="append",
        type=parse_line,
        metavar="MS:MB[:TOTAL]",
        help="round trip, MB/s of each connection, MB/s in all; repeatable; default: a table",
    )
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    return parser.parse_args(arguments)


def parse_line(text: str) -> Line:
    """Parse ``200:20`` or ``200:20:80``."""
    found = re.fullmatch(r"(\d+):(\d+)(?::(\d+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"want MS:MB or MS:MB:TOTAL, got {text!r}")
    return Line(int(found[1]) / 1000, int(found[2]) * 1e6, int(found[3] or 0) * 1e6)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench, and print the tables."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    table = [Line(ms / 1000, mb * 1e6) for ms in ROUND_TRIPS_MS for mb in RATES_MB]
    lines = options.line or [*table, Line(0.2, 20e6, 80e6)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hf-bench-", dir=options.work) as name:
        directory = Path(name)
        weights = write_weights(directory / "weights", options.files, options.file_mib * MIB)
        with serving(weights) as hub, fresh_registry(directory / "registry") as host:
            image = prepare(hub, host, directory)
            wire = {tag: sum(size for _, size in _layers(host, "bench/line", tag)) for tag in TAGS}
            for line in lines:
                with between(line, host) as far:
                    scene = Scene(weights, hub, host, far, image, directory, line)
                    rows += run(scene, options)
    options.out.mkdir(parents=True, exist_ok=True)
    document = {**head_of(options), "rows": rows, "bytes_on_the_wire": wire}
    (options.out / "line.json").write_text(json.dumps(document, indent=2) + "\n")
    print(table_of(rows))
    print(f"\nbytes on the wire: plain {wire['x']}, zstd {wire['x-zstd']}")


def prepare(hub: HubProcess, host: str, directory: Path) -> str:
    """Publish the model plain and compressed, and make a layout of it; return the plain image."""
    env = {"HF_ENDPOINT": hub.endpoint}
    command = [*_OURS, "publish", REPO_ID, "--base", "none", "-q", "--no-modelpack"]
    target = ["--to", f"{host}/bench/line"]
    measure([*command, *target, "--tag", "x", "--compress", "none"], env=env)
    measure([*command, *target, "--tag", "x-zstd", "--compress", "zstd"], env=env)
    layout = f"{directory}/layout:x"
    source = f"{host}/bench/line:x"
    measure(["oras", "cp", "--from-plain-http", "--to-oci-layout", source, layout])
    return "bench/line:x"


def run(scene: Scene, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every way over one line, in turns."""
    rows = []
    for group, ways in GROUPS.items():
        if options.group and group not in options.group:
            continue
        names = [name for name in ways if not options.only or name in options.only]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for at in range(options.runs):
            for name in names:
                os.sync()
                seconds[name].append(ways[name](scene))
                for out in scene.directory.glob("out-*"):
                    shutil.rmtree(out)
                shutil.rmtree(scene.directory / "hf", ignore_errors=True)
                said = (
                    f"{scene.line.name}: {group}: {name}, run {at + 1}: {seconds[name][-1]:.1f} s"
                )
                print(said, file=sys.stderr, flush=True)
        floor = median(seconds["curl"]) if "curl" in seconds else None
        rows += [
            {
                "line": scene.line.name,
                "group": group,
                "way": name,
                "seconds": median(found),
                "ratio": median(found) / floor if floor else None,
            }
            for name, found in seconds.items()
        ]
    return rows


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return seconds, and times the floor, as Markdown: a row for each line and group."""
    out = []
    for group, ways in GROUPS.items():
        names = [name for name in ways if any(row["way"] == name for row in rows)]
        found = {(row["line"], row["way"]): row for row in rows if row["group"] == group}
        if not found:
            continue
        out += ["", f"| {group} over | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for line in dict.fromkeys(row["line"] for row in rows):
            cells = [_cell(found.get((line, name))) for name in names]
            out.append(f"| {line} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    ratio = f" ({row['ratio']:.2f})" if row["ratio"] and row["way"] != "curl" else ""
    return f"{row['seconds']:.1f}{ratio}"


if __name__ == "__main__":
    main()
