"""``nox -s bench -- publish|restore|serve|line [flags]``: one bench, or all without flags."""

import sys

from tests.bench import line, publish, restore, serve

BENCHES = {"publish": publish.main, "restore": restore.main, "serve": serve.main, "line": line.main}


def main() -> None:
    """Run what the first argument names."""
    name, *flags = sys.argv[1:] or ["all"]
    if name not in BENCHES and (name != "all" or flags):
        sys.exit(f"bench: want one of {', '.join(BENCHES)}, got {name!r}")
    for bench in [BENCHES[name]] if name in BENCHES else BENCHES.values():
        bench(flags)


if __name__ == "__main__":
    main()
