"""Import ArviZ and matplotlib where the home folder cannot be written to, as on many clusters, and without a word."""

import logging
import os
import tempfile
import warnings
from contextlib import contextmanager


@contextmanager
def without_a_home():
    """A block of imports that need no folder of the user's: matplotlib says where it keeps its fonts instead, ArviZ 0.23
    notes there, or ends, that it has announced 1.x today."""
    logger, before = logging.getLogger("matplotlib"), os.environ.get("XDG_CACHE_HOME")
    level = logger.level
    logger.setLevel(logging.ERROR)
    cache = before or os.path.expanduser("~/.cache")
    try:
        with tempfile.TemporaryDirectory() as aside, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if not _writable(cache):
                os.environ["XDG_CACHE_HOME"] = aside
            yield
    finally:
        logger.setLevel(level)
        if before is None:
            os.environ.pop("XDG_CACHE_HOME", None)
        else:
            os.environ["XDG_CACHE_HOME"] = before


def _writable(folder):
    """Whether something could be made in a folder, which may have to be made itself."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
