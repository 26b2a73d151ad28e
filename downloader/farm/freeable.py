"""Software of hosted runners that publishing a model never needs, with its sizes.

Sizes are of ``ubuntu-latest`` as others measured them (GB of 10^9 bytes); 0 where no
figure for that item alone was published. All SDKs together gave 27 GiB in May 2026
(peer-observer/peer-observer#447), so the single figures, which are older, are upper bounds.
"""

from dataclasses import dataclass

GB = 10**9

EASIMON = "easimon/maximize-build-space, README"
SOLC = "argotorg/solc-bin#86"
SENTRY = "getsentry/self-hosted#4046"
PEER_OBSERVER = "peer-observer/peer-observer#447, not measured alone"
RUNNER_IMAGES = "actions/runner-images#2840, not measured alone"


@dataclass(frozen=True)
class Item:
    """Something to remove.

    Args:
        name: For people.
        paths: Absolute globs.
        size_bytes: As ``source`` measured it; 0 for not measured alone.
        source: Address of the page that lists it with its size.
        command: The command that removes it in place of deleting paths, or that has to run before.
    """

    name: str
    paths: tuple[str, ...]
    size_bytes: int
    source: str
    command: tuple[str, ...] = ()


# No LVM over the disks: it broke where a runner has one disk only
# (easimon/maximize-build-space#57, #58). No `apt-get remove`: minutes for 5 GiB, and its
# autoremove takes what others need.
ITEMS: tuple[Item, ...] = (
    Item(".NET", ("/usr/share/dotnet",), 17 * GB, EASIMON),
    Item("Android SDK", ("/usr/local/lib/android",), 11 * GB, EASIMON),
    Item("Haskell, ghcup", ("/usr/local/.ghcup",), 6 * GB, SENTRY),
    Item("CodeQL", ("/opt/hostedtoolcache/CodeQL",), 5_400_000_000, EASIMON),
    Item("Haskell, ghc", ("/opt/ghc", "/opt/cabal"), 2_700_000_000, EASIMON),
    Item("Swift", ("/usr/share/swift",), 1_300_000_000, SOLC),
    Item("Python toolsets", ("/opt/hostedtoolcache/Python/*",), 1_300_000_000, SOLC),
    Item("Go toolsets", ("/opt/hostedtoolcache/go",), 1_100_000_000, SOLC),
    Item("GraalVM", ("/usr/local/graalvm",), 1_100_000_000, SOLC),
    Item("Boost", ("/usr/local/share/boost",), 0, RUNNER_IMAGES),
    Item(
        "other toolsets",
        tuple(f"/opt/hostedtoolcache/{name}" for name in ("Java_*", "PyPy", "Ruby", "node")),
        0,
        RUNNER_IMAGES,
    ),
    Item("Java", ("/usr/lib/jvm",), 0, PEER_OBSERVER),
    Item("Miniconda", ("/usr/share/miniconda",), 0, PEER_OBSERVER),
    Item("PowerShell", ("/usr/local/share/powershell", "/opt/microsoft"), 0, PEER_OBSERVER),
    Item("browsers", ("/usr/local/share/chromium", "/opt/google"), 0, PEER_OBSERVER),
    Item("cloud CLIs", ("/opt/az", "/usr/lib/google-cloud-sdk"), 0, PEER_OBSERVER),
    Item("Julia", ("/usr/local/julia*",), 0, "actions/runner-images, Ubuntu2404-Readme.md"),
    Item("package archives", ("/var/cache/apt/archives/*.deb",), 0, "what apt-get clean removes"),
    Item(
        "Docker images",
        (),
        3 * GB,
        EASIMON,
        ("docker", "image", "prune", "--all", "--force"),
    ),
    # Where it is in use, deleting the file alone frees nothing.
    Item("swap file", ("/mnt/swapfile",), 4_100_000_000, SOLC, ("swapoff", "/mnt/swapfile")),
)
