"""Publishing and restoring over lines as users have them: ``nox -s bench -- line``.

The registry lies behind a proxy that delays each byte and gives each connection a rate; the Hub
is near for `publish`, and behind the same delay and rate (said to its stand-in as faults) for
`fetch` and `hf download`, which stands beside `serve` too, because it is that one's client. The
floor is curl with as many connections as help, up to 16. A way that is not over after
``--most-s`` is stopped, and its row says so.

Every measurement is in ``line.json`` at once; ``--resume`` goes on with what is missing there, and
``--plot docs/images/speed.svg`` draws it and measures nothing. The whole table, with files as long
as each line needs (64 or 128 MiB), takes some 20 minutes: ``nox -s bench -- line --runs 1``.
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
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from downloader.units import MIB
from tests.bench import plot
from tests.bench.command import head_of, new_parser
from tests.bench.wan import Line, between
from tests.bench.ways import pipe_up
from tests.bench.world import REPO_ID, Weights, fresh_registry, measure, serving, write_weights
from tests.support.fake_hub import HubProcess, faults
from tests.support.serve import serving as serving_images

ROUND_TRIPS_MS = (0, 20, 200)
RATES_MB = (5, 20, 100)
MOST_CONNECTIONS = 16  # of the floor
TAGS = ("x", "x-zstd")
# Of each of the files, by the MB/s of a connection. From 64 MiB on a file has a layer of its own.
FILE_MIB = {5: 64, 20: 128, 100: 128}
_MANIFESTS = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
_OURS = [sys.executable, "-m", "downloader"]
_HF = str(Path(sys.executable).with_name("hf"))
_PIECES = """
host=$0; path=$1; size=$2; count=$3; out=$4; step=$(( (size + count - 1) / count ))
for i in $(seq 0 $((count - 1))); do
    from=$((i * step)); to=$((from + step - 1)); [ $to -lt $size ] || to=$((size - 1))
    curl -sfL -r $from-$to -o "$out/$i" "http://$host$path" &
done
wait
"""
# What a program that checks each file has to do besides.
_HASHED = f'{_PIECES}cat "$out"/* | openssl sha256 > /dev/null\n'


class TooLongError(Exception):
    """A way was stopped after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"stopped after {seconds:.0f} s")
        self.seconds = seconds


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
        most_s: After which a way is stopped; 0 for never.
    """

    weights: Sequence[Weights]
    hub: HubProcess
    registry: str
    far: str
    image: str
    directory: Path
    line: Line
    most_s: float = 0.0
    taken: list[int] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """For every command; peers are told by flags that the registry has no TLS."""
        return {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.directory / "hf"),
            "HF_MODELS_PLAIN_HTTP": "127.0.0.0/8",
        }

    def fresh(self) -> Path:
        """Return an empty directory."""
        self.taken.append(1)
        out = self.directory / f"out-{len(self.taken)}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    def run(self, *commands: Sequence[str], env: Mapping[str, str] | None = None) -> float:
        """Return the seconds that commands take side by side.

        Raises:
            TooLongError: They took longer than is worth waiting for.
        """
        limit = [] if not self.most_s else ["timeout", "-k", "1", str(self.most_s)]
        try:
            return measure(*([*limit, *command] for command in commands), env=env).seconds
        except RuntimeError as error:
            if "exit status 124" in str(error):
                raise TooLongError(self.most_s) from error
            raise

    def new_name(self) -> str:
        """Return the name of a repository that does not exist yet."""
        return f"bench/{uuid.uuid4().hex}"  # every line has the same registry


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
    return scene.run(command, env=scene.environment)


def publish_compressed(scene: Scene) -> float:
    """Publish with zstd layers where they help."""
    return publish(scene, "--compress", "zstd")


def restore(scene: Scene) -> float:
    """Restore with the defaults."""
    return _restore(scene, scene.image)


def restore_compressed(scene: Scene) -> float:
    """Restore the same model from zstd layers."""
    return _restore(scene, f"{scene.image}-zstd")


def _restore(scene: Scene, image: str) -> float:
    command = [*_OURS, "restore", f"{scene.far}/{image}", "-q", "--cache-dir", str(scene.fresh())]
    return scene.run(command, env=scene.environment)


def fetch(scene: Scene) -> float:
    """Download from a Hub behind the line."""
    with far_hub(scene):
        command = [*_OURS, "fetch", REPO_ID, "-q", "--cache-dir", str(scene.fresh())]
        return scene.run(command, env=scene.environment)


def hf_download(scene: Scene) -> float:
    """Do the same with the library's own command."""
    with far_hub(scene):
        command = [_HF, "download", REPO_ID, "--cache-dir", str(scene.fresh())]
        return scene.run(command, env={**scene.environment, "HF_HUB_DISABLE_XET": "1"})


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


def pipes(scene: Scene) -> float:
    """Do the work of publish with the system's tools: from the Hub, hashed twice, sent."""
    return pipe_up(scene.weights, scene.hub.endpoint, scene.far, scene.new_name()).seconds


def curl_down(scene: Scene) -> float:
    """Fetch the layers by ranges, unverified, with one connection each and with more."""
    return _curl_layers(scene, _PIECES)


def hashed_down(scene: Scene) -> float:
    """Do the same, and hash each file."""
    return _curl_layers(scene, _HASHED)


def _curl_layers(scene: Scene, script: str) -> float:
    name, tag = scene.image.rsplit(":", 1)
    layers = _layers(scene.registry, name, tag)[: len(scene.weights)]
    files = [(f"/v2/{name}/blobs/{digest}", size) for digest, size in layers]
    return _curl_ranges(scene, scene.far, files, script)


def curl_hub(scene: Scene) -> float:
    """Fetch the files from the Hub by ranges, unverified."""
    return _curl_files(scene, _PIECES)


def hashed_hub(scene: Scene) -> float:
    """Do the same, and hash each file."""
    return _curl_files(scene, _HASHED)


def _curl_files(scene: Scene, script: str) -> float:
    with far_hub(scene):
        files = [
            (f"/{REPO_ID}/resolve/main/{w.path.name}", w.path.stat().st_size) for w in scene.weights
        ]
        return _curl_ranges(scene, scene.hub.endpoint.removeprefix("http://"), files, script)


def _curl_ranges(scene: Scene, host: str, files: Sequence[tuple[str, int]], script: str) -> float:
    seconds = []
    for share in {1, max(1, MOST_CONNECTIONS // len(files))}:
        commands = [
            ["bash", "-c", script, host, path, str(size), str(share), str(scene.fresh())]
            for path, size in files
        ]
        seconds.append(measure(*commands).seconds)
    return min(seconds)


def _layers(host: str, name: str, tag: str) -> list[tuple[str, int]]:
    """Return digest and size of every layer, the largest first."""
    manifest = _manifest(host, name, tag)
    if "manifests" in manifest:
        manifest = _manifest(host, name, manifest["manifests"][0]["digest"])
    layers = [(str(x["digest"]), int(x["size"])) for x in manifest["layers"]]
    return sorted(layers, key=lambda layer: -layer[1])


def _manifest(host: str, name: str, reference: str) -> dict[str, Any]:
    url = f"http://{host}/v2/{name}/manifests/{reference}"
    request = urllib.request.Request(url, headers={"Accept": _MANIFESTS})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def serve(scene: Scene) -> float:
    """Run ``hf download`` near a server whose registry is behind the line, its cache empty."""
    source, out = f"{scene.far}/{scene.image}", scene.fresh()
    with serving_images(source, "--cache-dir", out, "--plain-http", scene.far) as server:
        command = [_HF, "download", REPO_ID, "--cache-dir", str(scene.fresh())]
        return scene.run(command, env={**scene.environment, "HF_ENDPOINT": server.url})


def oras_up(scene: Scene) -> float:
    """Copy the finished layout to the registry."""
    source = f"{scene.directory}/layout:x"
    target = f"{scene.far}/{scene.new_name()}:x"
    command = ["oras", "cp", "--from-oci-layout", "--to-plain-http", source, target]
    return scene.run(command)


def skopeo_up(scene: Scene) -> float:
    """Copy the finished layout with skopeo."""
    flags = ["--all", "--preserve-digests", "-q", "--dest-tls-verify=false"]
    target = f"docker://{scene.far}/{scene.new_name()}:x"
    source = f"oci:{scene.directory}/layout:x"
    return scene.run(["skopeo", "--insecure-policy", "copy", *flags, source, target])


def oras_down(scene: Scene) -> float:
    """Copy to a layout: not yet files."""
    target = f"{scene.fresh()}:x"
    source = f"{scene.far}/{scene.image}"
    command = ["oras", "cp", "--from-plain-http", "--to-oci-layout", source, target]
    return scene.run(command)


def skopeo_down(scene: Scene) -> float:
    """Copy to a directory: not yet files."""
    flags = ["--quiet", "--insecure-policy", "--src-tls-verify=false"]
    source = f"docker://{scene.far}/{scene.image}"
    return scene.run(["skopeo", "copy", *flags, source, f"dir:{scene.fresh()}"])


def crane_down(scene: Scene) -> float:
    """Export the file system, and unpack it."""
    script = 'crane export --insecure "$0" - | tar -x -C "$1"'
    source = f"{scene.far}/{scene.image}"
    return scene.run(["sh", "-c", script, source, str(scene.fresh())])


def docker_down(scene: Scene) -> float:
    """Pull: in the engine, not yet files."""
    image = f"{scene.far}/{scene.image}"
    try:
        return scene.run(["docker", "pull", "-q", image])
    finally:
        subprocess.run(["docker", "rmi", "-f", image], capture_output=True)


Way = Callable[[Scene], float]
# Each group with its floor first; ratios are to it.
GROUPS: Mapping[str, Mapping[str, Way]] = {
    "publish": {
        "curl": curl_up,
        "curl, tee, openssl, curl": pipes,
        "publish": publish,
        "publish, zstd": publish_compressed,
        "publish again": publish_again,
        "oras cp": oras_up,
        "skopeo copy": skopeo_up,
    },
    "restore": {
        "curl": curl_down,
        "curl, openssl": hashed_down,
        "restore": restore,
        "restore, zstd": restore_compressed,
        "oras cp": oras_down,
        "skopeo copy": skopeo_down,
        "crane export": crane_down,
        "docker pull": docker_down,
    },
    "fetch": {
        "curl": curl_hub,
        "curl, openssl": hashed_hub,
        "fetch": fetch,
        "hf download": hf_download,
    },
    "serve": {"curl": curl_down, "serve": serve, "hf download": hf_download},
}
_PROGRAMS = {
    "oras cp": "oras",
    "skopeo copy": "skopeo",
    "crane export": "crane",
    "docker pull": "docker",
}
WAYS = sorted({name for group in GROUPS.values() for name in group})


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, WAYS, "six times the files' size")
    parser.set_defaults(files=8, file_mib=None)
    parser.add_argument(
        "--line",
        action="append",
        type=parse_line,
        metavar="MS:MB[:TOTAL]",
        help="round trip, MB/s of each connection, MB/s in all; repeatable; default: a table",
    )
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    parser.add_argument("--most-s", type=float, default=40.0, help="of one way; 0 for no limit")
    parser.add_argument("--resume", action="store_true", help="keep what line.json has already")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw line.json, measure nothing")
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
    path = options.out / "line.json"
    if options.plot:
        options.plot.write_text(plot.draw(json.loads(path.read_text())))
        return
    table = [Line(ms / 1000, mb * 1e6) for ms in ROUND_TRIPS_MS for mb in RATES_MB]
    lines = options.line or [*table, Line(0.2, 20e6, 80e6)]
    record = Record(path, head_of(options), is_resumed=options.resume)
    sizes: dict[int, list[Line]] = {}
    for line in lines:
        sizes.setdefault(options.file_mib or file_mib_of(line), []).append(line)
    for file_mib, those in sizes.items():
        with tempfile.TemporaryDirectory(prefix="hf-bench-", dir=options.work) as name:
            measure_lines(those, file_mib, Path(name), options, record)
    print(table_of(record.rows))


def file_mib_of(line: Line) -> int:
    """Return how long the files are that show what a line gives."""
    rate = line.connection_bytes_per_s / 1e6
    return next((mib for most, mib in FILE_MIB.items() if rate <= most), max(FILE_MIB.values()))


def measure_lines(
    lines: Sequence[Line],
    file_mib: int,
    directory: Path,
    options: argparse.Namespace,
    record: "Record",
) -> None:
    """Run every way over every line with files of one size."""
    weights = write_weights(directory / "weights", options.files, file_mib * MIB)
    with serving(weights) as hub, fresh_registry(directory / "registry") as host:
        image = prepare(hub, host, directory)
        wire = {tag: sum(size for _, size in _layers(host, "bench/line", tag)) for tag in TAGS}
        for line in lines:
            with between(line, host) as far:
                scene = Scene(weights, hub, host, far, image, directory, line, options.most_s)
                run(scene, options, record, wire)


class Record:
    """What was measured, on disk after each measurement.

    Args:
        path: Of the JSON.
        head: When, where and with what.
        is_resumed: Whether rows that are there stay.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], *, is_resumed: bool = False) -> None:
        self._path, self._head = path, head
        self.rows: list[dict[str, Any]] = []
        if is_resumed and path.exists():
            self.rows = json.loads(path.read_text())["rows"]

    def has(self, line: str, group: str, way: str, runs: int) -> bool:
        """Whether so many runs of a way are there."""
        row = self._find(line, group, way)
        return row is not None and len(row["runs"]) >= runs

    def _find(self, line: str, group: str, way: str) -> dict[str, Any] | None:
        key = (line, group, way)
        return next((r for r in self.rows if (r["line"], r["group"], r["way"]) == key), None)

    def add(self, base: Mapping[str, Any], seconds: float, *, is_over: bool) -> None:
        """Add one run, and write all of them with medians, and ratios to the floor."""
        row = self._find(base["line"], base["group"], base["way"])
        if row is None:
            row = {**base, "runs": [], "is_over": False}
            self.rows.append(row)
        row["runs"].append(seconds)
        row["is_over"] |= is_over
        for one in self.rows:
            one["seconds"] = median(one["runs"])
            floor = self._find(one["line"], one["group"], "curl")
            one["ratio"] = one["seconds"] / median(floor["runs"]) if floor else None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps({**self._head, "rows": self.rows}, indent=2) + "\n")
        written.replace(self._path)


def prepare(hub: HubProcess, host: str, directory: Path) -> str:
    """Publish the model plain and compressed, and make a layout of it; return the plain image."""
    env = {"HF_ENDPOINT": hub.endpoint}
    command = [*_OURS, "publish", REPO_ID, "--base", "none", "-q", "--no-modelpack"]
    target = ["--to", f"{host}/bench/line"]
    measure([*command, *target, "--tag", "x", "--compress", "none"], env=env)
    measure([*command, *target, "--tag", "x-zstd", "--compress", "zstd"], env=env)
    copy = [*_OURS, "copy", f"{host}/bench/line:x", "--to", f"{directory}/layout", "-q"]
    measure(copy)
    return "bench/line:x"


def run(scene: Scene, options: argparse.Namespace, record: Record, wire: Mapping[str, int]) -> None:
    """Run every way over one line, in turns."""
    line = scene.line
    for group, ways in GROUPS.items():
        if options.group and group not in options.group:
            continue
        for at in range(options.runs):
            for name, way in ways.items():
                if options.only and name not in options.only:
                    continue
                if record.has(line.name, group, name, at + 1) or not _is_installed(name):
                    continue
                try:
                    seconds, is_over = _measure(scene, way)
                except RuntimeError as error:  # the other ways are still worth knowing
                    print(f"{line.name}: {group}: {name}: {error}", file=sys.stderr, flush=True)
                    continue
                sent = wire["x-zstd" if name.endswith("zstd") else "x"]
                base = {
                    "line": line.name,
                    "round_trip_s": line.round_trip_s,
                    "connection_bytes_per_s": line.connection_bytes_per_s,
                    "total_bytes_per_s": line.total_bytes_per_s,
                    "group": group,
                    "way": name,
                    "file_bytes": scene.weights[0].path.stat().st_size,
                    "bytes_on_the_wire": 0 if name == "publish again" else sent,
                }
                record.add(base, seconds, is_over=is_over)
                said = f"{line.name}: {group}: {name}, run {at + 1}: {seconds:.1f} s"
                print(said, file=sys.stderr, flush=True)


def _is_installed(way: str) -> bool:
    program = _PROGRAMS.get(way)
    if program is None or shutil.which(program):
        return True
    print(f"{way}: left out, {program} is not installed", file=sys.stderr, flush=True)
    return False


def _measure(scene: Scene, way: Way) -> tuple[float, bool]:
    """Return the seconds of one run, and whether it was stopped then."""
    os.sync()
    try:
        return way(scene), False
    except TooLongError as error:
        return error.seconds, True
    finally:
        for out in scene.directory.glob("out-*"):
            shutil.rmtree(out)
        shutil.rmtree(scene.directory / "hf", ignore_errors=True)


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
    return f"{'> ' * row['is_over']}{row['seconds']:.1f}{ratio}"


if __name__ == "__main__":
    main()
