"""What can end a command: the exceptions of the front door, the exit code of each, and the one line that says it.

Nothing here imports torch, because bad data must be refused before torch is. Exceptions of other packages, such as
``torch.OutOfMemoryError``, are therefore known by the names of their classes.
"""

import errno

OK, UNEXPECTED, USAGE, BAD_DATA, OUT_OF_MEMORY, DIVERGED, FOLDER, LOST = range(8)
SIGNALLED = (
    128  # a command that a signal ended exits with this and the signal's number: 130 for Ctrl-C, 143 for SIGTERM
)


class DataError(ValueError):
    """Data that cannot be used: one sentence with what was found, where, and what to do."""


class RunError(ValueError):
    """A folder that is not a run, or lacks what is asked of it."""


class DamagedRunError(RunError):
    """A run folder whose files cannot be used: cut off, changed, or not written by pyrarchy."""


class FolderError(OSError):
    """A run folder that cannot be made or written to."""


class FolderBusyError(FolderError):
    """A run folder in which another process works."""


class LaunchError(RuntimeError):
    """Several processes that should train together and do not meet."""


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop; ``number`` is the signal's, and the text says how to go on."""

    def __init__(self, number, text="interrupted"):
        super().__init__(text)
        self.number = number


CODES = {
    "DataError": BAD_DATA,
    "DamagedRunError": BAD_DATA,
    "CheckpointError": BAD_DATA,
    "MemoryError": OUT_OF_MEMORY,
    "OutOfMemoryError": OUT_OF_MEMORY,
    "ArithmeticError": DIVERGED,
    "FolderError": FOLDER,
    "WriteError": FOLDER,
    "LostRankError": LOST,  # another of the processes that train together has ended
    "LaunchError": LOST,
    "ImportError": USAGE,  # an extra that is not installed; its text says which
    "ValueError": USAGE,
    "TypeError": USAGE,
}
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def exit_code(error) -> int:
    """The exit code of an exception.

    >>> exit_code(DataError("")), exit_code(MemoryError()), exit_code(ZeroDivisionError()), exit_code(KeyError())
    (3, 4, 5, 1)
    """
    for kind in getattr(error, "kinds", [kind.__name__ for kind in type(error).__mro__]):
        if kind in CODES:
            return CODES[kind]
        if kind == "OSError":
            return FOLDER if getattr(error, "errno", None) in _UNWRITABLE else BAD_DATA
    text = str(error).lower()
    return OUT_OF_MEMORY if isinstance(error, RuntimeError) and any(w in text for w in _NO_MEMORY) else UNEXPECTED


def one_line(error) -> str:
    """What an exception says, as one line without its type, unless it is one that nobody foresaw.

    >>> one_line(ValueError("z_dim: 0 given;\\n   give 1 or more"))
    'z_dim: 0 given; give 1 or more'
    """
    code, text = exit_code(error), " ".join(str(error).split())
    if code == OUT_OF_MEMORY:
        what = f" ({text.rstrip('.')})" if text else ""
        return f"out of memory{what}: take a smaller --batch-size, fewer --samples, or a smaller model"
    if code == UNEXPECTED:
        return f"unexpected {type(error).__name__} ({text}): put --debug before the command to see where"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    return text or f"{type(error).__name__}; put --debug before the command to see where"
