"""``python -m availability`` is the command ``availability``."""

import sys


def main() -> None:
    """Run it. A Ctrl-C before it has read its own parts is no traceback, either."""
    try:
        from availability.cli import main as command  # noqa: PLC0415 - inside, to be told of a Ctrl-C
    except KeyboardInterrupt:
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
