"""``python -m pyrarchy`` and the command ``pyrarchy``."""

import sys


def main(argv=None):
    """Run the command line; returns the exit code."""
    from .cli import run

    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
