"""``python -m pyrarchy`` and the command ``pyrarchy``."""

import os
import sys
from contextlib import suppress


def main(argv=None):
    """Run the command line; returns the exit code."""
    from .cli import run

    return run(sys.argv[1:] if argv is None else argv)


def _leave_folder():
    """Take away the folder in which ``python -m`` is run, which Python searches first: the command says when it may be."""
    with suppress(FileNotFoundError):  # a folder that is gone
        if sys.path[:1] in ([os.getcwd()], [""]) and not sys.flags.safe_path:
            del sys.path[0]


if __name__ == "__main__":
    _leave_folder()
    sys.exit(main())
