"""Write files whole or not at all: a temporary file in the same folder, flushed to the disk, then moved into place."""

import contextlib
import os
import tempfile
from pathlib import Path


class WriteError(OSError):
    """A file that could not be written (a full disk, a folder that may not be written to); what was there stays."""

    def __str__(self):
        return self.strerror  # without Python's [Errno 28]


def write_atomically(path, content, *, keep=None):
    """Replace a file by new bytes in one step.

    :param bytes content: the new bytes.
    :param keep: a path in the same folder under which the file that is replaced lives on.
    :raises WriteError: when it cannot be done; both files are then as they were.
    """
    path = Path(path)
    try:
        temporary = _write_temporary(path, content)
        try:
            if keep is not None:  # only now, when the new bytes are known to fit on the disk
                _keep(path, keep)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise WriteError(
            error.errno,
            f"{path}: cannot be written ({error.strerror or error}); make room, or choose a folder that can be written to",
        ) from error


def _write_temporary(path, content):
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp keeps its files to the owner
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _keep(path, keep):
    """Make ``keep`` the file at ``path``, without a moment in which either is missing."""
    link = keep.with_name(f".{keep.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without links
        link = _write_temporary(keep, path.read_bytes())
    try:
        os.replace(link, keep)
    finally:
        link.unlink(missing_ok=True)  # two names of one file are left as they are by a move


def _flush_folder(folder):
    """See that the new name, too, survives a power cut; where folders cannot be flushed, it is the system's to care."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
