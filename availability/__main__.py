"""``python -m availability`` is the command ``availability``."""

import signal
import sys


def main() -> None:
    """Run it. A Ctrl-C before it has read its own parts is no traceback, either; SIGTERM is one more Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    try:
        from availability.cli import main as command  # noqa: PLC0415 - inside, to be told of a Ctrl-C
    except KeyboardInterrupt:
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
