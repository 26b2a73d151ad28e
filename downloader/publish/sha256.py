"""sha256 whose state can be written down, so that a killed upload hashes nothing again.

`hashlib` shows no state. OpenSSL's own functions, which `hashlib` calls, keep it in a plain
struct, and they are reached through the library that Python has loaded. Where they are not
(another TLS library, one linked without names), `Sha256.state` is None, and a resumed upload
reads the bytes again. A state that is wrong cannot do harm: every digest that comes out of it
is compared with the registry's, and every oid with the Hub's.
"""

import ctypes
import hashlib
import ssl
from functools import cache
from typing import Any

# SHA256_CTX: 8 words of state, 2 of length, 16 of the block under way, 2 counters.
# Source: OpenSSL 3, include/openssl/sha.h.
_CONTEXT_BYTES = 4 * (8 + 2 + 16 + 2)
_CONTEXT_ROOM_BYTES = 256  # a library may have more in it than it should
_DIGEST_BYTES = 32
# States belong to one build of one library.
LIBRARY = ssl.OPENSSL_VERSION


@cache
def _openssl() -> Any:  # noqa: ANN401 - functions of a C library
    """Return OpenSSL's functions, None where they are not as expected."""
    try:
        import _hashlib  # noqa: PLC0415 - not in every Python

        library = ctypes.CDLL(_hashlib.__file__)
        for function in (library.SHA256_Init, library.SHA256_Update, library.SHA256_Final):
            function.restype = ctypes.c_int
        library.SHA256_Update.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    except (ImportError, OSError, AttributeError):
        return None
    tried = Sha256(library=library)
    tried.update(memoryview(bytearray(b"abc" * 99)))
    state = tried.state()
    half = Sha256.resumed(state, library=library) if state else tried
    half.update(memoryview(b"def"))
    is_right = half.hexdigest() == hashlib.sha256(b"abc" * 99 + b"def").hexdigest()
    return library if is_right else None


class Sha256:
    """A sha256 of bytes so far; with OpenSSL's functions one that can be written down.

    >>> digest = Sha256()
    >>> digest.update(memoryview(b"abc"))
    >>> digest.hexdigest()[:8]
    'ba7816bf'
    """

    def __init__(self, *, library: Any = None) -> None:  # noqa: ANN401
        self._library = library or _openssl()
        self._plain = None if self._library else hashlib.sha256()
        self._context = ctypes.create_string_buffer(_CONTEXT_ROOM_BYTES)
        if self._library:
            self._library.SHA256_Init(self._context)

    @classmethod
    def resumed(cls, state: bytes, *, library: Any = None) -> "Sha256":  # noqa: ANN401
        """Return one that goes on from a `state` of the same `LIBRARY`."""
        made = cls(library=library)
        if made._library is None or len(state) != _CONTEXT_BYTES:
            raise ValueError("want a state of this library")
        ctypes.memmove(made._context, state, len(state))
        return made

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; other threads run meanwhile."""
        if self._plain is not None:
            self._plain.update(data)
            return
        view = memoryview(data).cast("B")
        if not view:
            return
        kind = ctypes.c_char * len(view)
        held = kind.from_buffer_copy(view) if view.readonly else kind.from_buffer(view)
        self._library.SHA256_Update(self._context, held, len(view))

    def state(self) -> bytes | None:
        """Return what `resumed` takes, None where this Python cannot say."""
        return None if self._plain is not None else self._context.raw[:_CONTEXT_BYTES]

    def hexdigest(self) -> str:
        """Return the digest of the bytes so far."""
        if self._plain is not None:
            return self._plain.hexdigest()
        context = ctypes.create_string_buffer(self._context.raw, _CONTEXT_ROOM_BYTES)
        digest = ctypes.create_string_buffer(_DIGEST_BYTES)
        self._library.SHA256_Final(digest, context)
        return digest.raw.hex()
