"""A strict stand-in for the Hugging Face Hub and its CDN, over real sockets on loopback.

Written from the Hub's documentation, not from any client. In the same process, or (for
hf_transfer, which holds the GIL, and for the bench) in a child process::

    from tests.support.fake_hub import HubProcess, HubServer, HubSpec, faults, tiny_repo

    with HubServer([tiny_repo()]) as hub:            # or HubProcess(...): the same methods
        env = {"HF_ENDPOINT": hub.endpoint}
        hub.add_fault(faults.ResetAfter(path="*.safetensors", after_bytes=1000, times=2))
        ...                                          # run something real
        seen = hub.log()
        assert seen.of(origin="cdn", file="model.safetensors").bytes_sent < 4_000_000
        assert not any(entry.has_auth for entry in seen.of(origin="cdn"))
        hub.move("model:org/tiny", "main", 0)        # main now names the first commit
        hub.clear_faults(); hub.clear_log()

Private and gated repos, and tokens::

    spec = HubSpec(
        repos=(tiny_repo(gated="manual", readers=("alice",)),),
        users={"hf_alice": "alice", "hf_bob": "bob"},
    )
    with HubProcess(spec) as hub: ...

Repos are data: ``make_repo("org/name", {"a.txt": b"...", "big.bin": Generated(1 << 40)})``,
``make_repo("org/name", "DIR", type="dataset")``, ``Repo(type, id, (Commit(...), ...))``.
``File.oid`` and ``Repo.sha`` say what a client must find. Files with a suffix of weights, or
from 1 MiB, are in LFS: ``/resolve`` redirects to a signed address at the CDN, which
refuses ``Authorization``.
``python -m tests.support.fake_hub --repo model:org/name=DIR`` serves by hand.

Origins: ``hub`` (127.0.0.1), ``cdn`` (localhost, another port), ``elsewhere`` (127.0.0.2).
The globs of faults are matched against ``model:org/name/path`` for content, and against the
path of the URL for the API: ``/api/models/org/name/tree/*``.
"""

from tests.support.fake_hub import faults
from tests.support.fake_hub.accesslog import Access, Accesses
from tests.support.fake_hub.content import Disk, Generated, Memory, git_sha1, read_all, sha256_of
from tests.support.fake_hub.fault import Fault
from tests.support.fake_hub.hub_repos import (
    awkward_names_repo,
    many_files_repo,
    minilm_repo,
    sharded_repo,
    tiny_repo,
)
from tests.support.fake_hub.process import HubProcess
from tests.support.fake_hub.server import Hub, HubServer
from tests.support.fake_hub.spec import Commit, File, HubSpec, Repo, make_files, make_repo

__all__ = [
    "Access",
    "Accesses",
    "Commit",
    "Disk",
    "Fault",
    "File",
    "Generated",
    "Hub",
    "HubProcess",
    "HubServer",
    "HubSpec",
    "Memory",
    "Repo",
    "awkward_names_repo",
    "faults",
    "git_sha1",
    "make_files",
    "make_repo",
    "many_files_repo",
    "minilm_repo",
    "read_all",
    "sha256_of",
    "sharded_repo",
    "tiny_repo",
]
