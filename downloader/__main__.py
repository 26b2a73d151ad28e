"""``python -m downloader`` is the console script ``hf-models``."""

from downloader.cli import main

if __name__ == "__main__":
    main()
