"""A line between two machines: a TCP proxy with a delay, a rate per connection, and one in all.

``python -m tests.bench.wan --to HOST:PORT --delay-ms 100 --rate-mb 20`` prints its address as the
first line and ends with its standard input. Loopback only.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

PIECE_BYTES = 64 * 1024
UNLIMITED_BYTES_PER_S = 1e12
LEAST_WINDOW_BYTES = 8 * PIECE_BYTES


@dataclass(frozen=True)
class Line:
    """What lies between client and server.

    Args:
        round_trip_s: There and back.
        connection_bytes_per_s: Of each connection and direction; 0 for no limit.
        total_bytes_per_s: Of all connections together; 0 for no limit.
    """

    round_trip_s: float = 0.0
    connection_bytes_per_s: float = 0.0
    total_bytes_per_s: float = 0.0

    @property
    def name(self) -> str:
        """For tables: ``200 ms, 20 MB/s``."""
        parts = [f"{self.round_trip_s * 1000:.0f} ms"]
        parts += [f"{self.connection_bytes_per_s / 1e6:g} MB/s"] * bool(self.connection_bytes_per_s)
        parts += [f"{self.total_bytes_per_s / 1e6:g} MB/s in all"] * bool(self.total_bytes_per_s)
        return ", ".join(parts)


class Bucket:
    """When so many bytes may leave, at a steady rate."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s or UNLIMITED_BYTES_PER_S
        self.free_at_s = 0.0

    def leave_at(self, now_s: float, count: int) -> float:
        self.free_at_s = max(self.free_at_s, now_s) + count / self.bytes_per_s
        return self.free_at_s


class Wan:
    """The proxy: connections to one server, each byte delayed and paced."""

    def __init__(self, line: Line, host: str, port: int) -> None:
        self.line, self.host, self.port = line, host, port
        self.total = Bucket(line.total_bytes_per_s)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.line.round_trip_s)  # the handshake
        try:
            far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self.carry(reader, far_writer), self.carry(far_reader, writer))
        writer.close()
        far_writer.close()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction; what is under way is at most what the line holds."""
        bucket = Bucket(self.line.connection_bytes_per_s)
        held = (self.line.connection_bytes_per_s or 400e6) * max(self.line.round_trip_s, 0.02)
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(
            max(LEAST_WINDOW_BYTES, int(held)) // PIECE_BYTES
        )

        async def take() -> None:
            data = b"-"
            while data:
                with contextlib.suppress(OSError):
                    data = b""
                    data = await reader.read(PIECE_BYTES)
                await under_way.put((loop.time() + self.line.round_trip_s / 2, data))

        loop = asyncio.get_running_loop()
        taking = asyncio.create_task(take())
        with contextlib.suppress(OSError):
            while True:
                arrives_at_s, data = await under_way.get()
                now_s = loop.time()
                paced_at_s = max(
                    bucket.leave_at(now_s, len(data)), self.total.leave_at(now_s, len(data))
                )
                wait_s = max(arrives_at_s, paced_at_s) - now_s
                if wait_s > 0.001:
                    await asyncio.sleep(wait_s)
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    break
                writer.write(data)
                await writer.drain()
        taking.cancel()


async def serve(wan: Wan) -> None:
    """Serve until standard input ends."""
    server = await asyncio.start_server(wan.connect, "127.0.0.1", 0)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_end, daemon=True).start()
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()
    os._exit(0)  # connections that are still open are of no use to anybody


@contextlib.contextmanager
def between(line: Line, target: str) -> Iterator[str]:
    """Give the address at which ``target`` (HOST:PORT) answers behind a line."""
    flags = ["--to", target, "--delay-ms", str(line.round_trip_s * 500)]
    flags += ["--rate-mb", str(line.connection_bytes_per_s / 1e6)]
    flags += ["--total-mb", str(line.total_bytes_per_s / 1e6)]
    command = [sys.executable, "-m", "tests.bench.wan", *flags]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def main() -> None:
    """Run the proxy by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--delay-ms", type=float, default=0, help="one way")
    parser.add_argument("--rate-mb", type=float, default=0, help="of each connection, MB/s")
    parser.add_argument("--total-mb", type=float, default=0, help="of all together, MB/s")
    given = parser.parse_args()
    host, _, port = given.to.rpartition(":")
    line = Line(given.delay_ms / 500, given.rate_mb * 1e6, given.total_mb * 1e6)
    asyncio.run(serve(Wan(line, host, int(port))))


if __name__ == "__main__":
    main()
