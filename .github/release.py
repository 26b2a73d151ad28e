"""The steps of a release, each a session argument: `nox -s release -- STEP`.

::

    dist     wheel, sdist, hf-models.pyz, their checksums and the notes, into dist/release
    image    the tool as an image of this machine's platform; with an image name, pushed there
    index    one image index over the pushed platforms
    pypi     the wheel and the sdist to PyPI, as the workflow's own identity
    github   a GitHub release with all files and the notes

`dist` and `image` run anywhere; the others need what release.yml gives them.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTES = "notes.md"
PLATFORMS = ("amd64", "arm64")


def run(*command: str | Path) -> None:
    """Run a program in the project's directory; what it prints is seen, its failure ends us."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def version() -> str:
    """Return the version of the package, as ``downloader/__init__.py`` states it."""
    text = (ROOT / "downloader/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert found, "downloader/__init__.py names no version"
    return found[1]


def check_tag(tag: str) -> None:
    """End the run unless the git tag is ``v`` and the package's version."""
    if tag != f"v{version()}":
        sys.exit(f"want the git tag v{version()}, got {tag!r}: change the version or the tag")


def changelog_section(text: str, name: str) -> str:
    """Return what CHANGELOG.md says of one version; an empty text if it says nothing."""
    found = re.search(
        rf"^## \[?{re.escape(name)}\]?.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return found[1].strip() if found else ""


def build_dist(out: Path) -> None:
    """Write wheel, sdist, zipapp, notes and checksums; the same bytes for the same sources."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_time())
    run(sys.executable, "-m", "hatchling", "build", "--directory", out)
    (wheel,) = out.glob("*.whl")
    write_zipapp(wheel, out / "hf-models.pyz")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = changelog_section(changelog, version()) or changelog_section(changelog, "Unreleased")
    files = sorted(path for path in out.iterdir() if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    (out / NOTES).write_text(section + "\n", encoding="utf-8")
    for path in files:
        print(f"{path}: {path.stat().st_size} bytes")


def commit_time() -> str:
    """Return the time of the newest commit in seconds; 1980 where there is no repository."""
    show = ["git", "show", "--no-patch", "--format=%ct", "HEAD"]
    done = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "315532800"


def write_zipapp(wheel: Path, target: Path) -> None:
    """Write one file that any Python runs: the wheel and the consumer's pure dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    compiled = {"zstandard"}  # Python 3.14 has zstd; an older one uses what is installed beside us
    wanted = [line for line in project["dependencies"] if re.split(r"\W", line)[0] not in compiled]
    with tempfile.TemporaryDirectory() as directory:
        pins, site = Path(directory, "pins.txt"), Path(directory, "site")
        Path(directory, "wanted.in").write_text("\n".join(wanted), encoding="utf-8")
        uv = (sys.executable, "-m", "uv", "--quiet", "pip")
        lock = ("--universal", "--python-version=3.11", "--generate-hashes", "--output-file", pins)
        run(*uv, "compile", Path(directory, "wanted.in"), *lock, "-c", "docker/requirements.txt")
        run(*uv, "install", "--target", site, "--require-hashes", "--requirement", pins)
        run(*uv, "install", "--target", site, "--no-deps", wheel)
        write_zip(site, target)


def write_zip(site: Path, target: Path) -> None:
    """Write a zip of what a directory of packages needs to run."""
    sys.path.insert(0, str(ROOT))
    from downloader.library.program import is_wanted, pack  # noqa: PLC0415 - not installed here

    paths = [path for path in site.rglob("*") if path.is_file()]
    names = {path.relative_to(site).as_posix(): path for path in paths}
    target.write_bytes(pack({n: path.read_bytes() for n, path in names.items() if is_wanted(n)}))
    target.chmod(0o755)


def build_image(name: str) -> None:
    """Build the tool's image; with a name, push it under the version and this platform."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    tag = f"{name or 'hf-models'}:{version()}{f'-{machine}' if name else ''}"
    flags = ["--secret=id=pip_index_url,env=PIP_INDEX_URL"]
    if bundle := os.environ.get("SSL_CERT_FILE"):
        flags.append(f"--secret=id=ca,src={bundle}")
    flags += [
        f"--label=org.opencontainers.image.{key}={value}" for key, value in image_labels().items()
    ]
    context = ("--file", "docker/Dockerfile", "--target", "tool", "--network=host", ".")
    run("docker", "build", *flags, "--tag", tag, *context)
    if name:
        run("docker", "push", tag)
    print(tag)


def image_labels() -> dict[str, str]:
    """Return the labels of the tool's image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "title": project["name"],
        "description": project["description"],
        "licenses": project["license"],
        "source": project["urls"]["Source"],
        "version": version(),
    }


def push_index(name: str) -> None:
    """Make one image of the pushed platforms: under the version, its major one, and latest."""
    sources = [f"{name}:{version()}-{machine}" for machine in PLATFORMS]
    tags = (version(), f"v{version().partition('.')[0]}", "latest")
    flags = [word for tag in tags for word in ("--tag", f"{name}:{tag}")]
    run("docker", "buildx", "imagetools", "create", *flags, *sources)


def upload_to_pypi(out: Path) -> None:
    """Upload wheel and sdist; the proof of who we are is the workflow's OpenID token."""
    files = [*out.glob("*.whl"), *out.glob("*.tar.gz")]
    run(sys.executable, "-m", "uv", "publish", "--trusted-publishing", "always", *files)


def make_github_release(tag: str, out: Path) -> None:
    """Make the release of a tag with every file that `dist` wrote."""
    files = [path for path in sorted(out.iterdir()) if path.name != NOTES]
    run("gh", "release", "create", tag, *files, "--title", tag, "--notes-file", out / NOTES)


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="nox -s release --", description=__doc__)
    parser.add_argument("step", choices=["dist", "image", "index", "pypi", "github"])
    image = os.environ.get("TOOL_IMAGE", "").lower()
    parser.add_argument("--name", default=image, help="of the image")
    parser.add_argument("--out", type=Path, default=ROOT / "dist/release", help="of the files")
    given = parser.parse_args()
    tag = os.environ.get("GITHUB_REF_NAME", "")
    if os.environ.get("GITHUB_ACTIONS"):
        check_tag(tag)
    match given.step:
        case "dist":
            build_dist(given.out)
        case "image":
            build_image(given.name)
        case "index":
            push_index(given.name)
        case "pypi":
            upload_to_pypi(given.out)
        case "github":
            make_github_release(tag, given.out)


if __name__ == "__main__":
    main()
