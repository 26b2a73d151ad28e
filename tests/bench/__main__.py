"""``nox -s bench -- publish|restore|serve|line|formats [flags]``: one, or all."""

import sys

from tests.bench import formats, line, publish, restore, serve

BENCHES = {
    "publish": publish.main,
    "restore": restore.main,
    "serve": serve.main,
    "line": line.main,
    "formats": formats.main,
}


def main() -> None:
    """Run what the first argument names."""
    name, *flags = sys.argv[1:] or ["all"]
    if name not in BENCHES and (name != "all" or flags):
        sys.exit(f"bench: want one of {', '.join(BENCHES)}, got {name!r}")
    for bench in [BENCHES[name]] if name in BENCHES else BENCHES.values():
        bench(flags)


if __name__ == "__main__":
    main()
