"""``python -m availability`` is the command ``availability``."""

from availability.cli import main

main()
