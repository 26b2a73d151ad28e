"""The last bytes of a stream, kept to be sent again."""

import ctypes
import mmap


class Window:
    """A ring over the last ``capacity_bytes`` of a stream of any length.

    Offsets are those of the stream; what is kept is ``start <= offset < end``.
    """

    def __init__(self, capacity_bytes: int) -> None:
        # Pages of its own, which go back to the system: malloc keeps those of blobs that are
        # done between others that are not, and a run of a hundred layers grows by their size.
        memory = mmap.mmap(-1, capacity_bytes) if capacity_bytes else bytearray()
        self._ring = memoryview(memory)
        self.end = 0
        self._first = 0  # nothing before it was ever here

    @property
    def capacity_bytes(self) -> int:
        """How much it keeps."""
        return len(self._ring)

    @property
    def start(self) -> int:
        """The offset of the oldest byte that is kept."""
        return max(self._first, self.end - len(self._ring))

    def append(self, data: memoryview) -> None:
        """Copy ``data`` to the end; the oldest bytes make room."""
        self.end += len(data)
        if not self._ring:
            self._first = self.end
            return
        data = data[-len(self._ring) :]
        at = (self.end - len(data)) % len(self._ring)
        head = min(len(data), len(self._ring) - at)
        _copy(data[:head], self._ring[at : at + head])
        _copy(data[head:], self._ring[: len(data) - head])

    def forget(self) -> None:
        """Keep nothing from here on, and give the memory back."""
        self._ring = memoryview(b"")
        self._first = self.end

    def views(self, offset: int) -> list[memoryview]:
        """Return the bytes from ``offset`` to the end, in at most two pieces, without a copy."""
        if not self.start <= offset <= self.end:
            raise ValueError(f"want an offset in {self.start} to {self.end}, got {offset}")
        if offset == self.end:
            return []
        first, last = offset % len(self._ring), (self.end - 1) % len(self._ring) + 1
        if first < last:
            return [self._ring[first:last]]
        return [self._ring[first:], self._ring[:last]]

    def grown(self, capacity_bytes: int) -> "Window":
        """Return one that keeps more, with the bytes of this one."""
        grown = Window(capacity_bytes)
        grown.end = grown._first = self.start
        for view in self.views(self.start):
            grown.append(view)
        return grown


def _copy(source: memoryview, target: memoryview) -> None:
    """Copy bytes while other threads run, which an assignment to a slice keeps from it."""
    if source.readonly or not source:
        target[:] = source  # ctypes takes no address of these; they are few
        return
    kind = ctypes.c_char * len(source)
    ctypes.memmove(kind.from_buffer(target), kind.from_buffer(source), len(source))
