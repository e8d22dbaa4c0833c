"""One folder, one run: whoever writes into a run folder holds its lock, which the system takes back from the dead.

The lock is the operating system's (``flock``) on the file ``.lock``, whose text says who holds it. It ends with the
process, also after ``kill -9``, so that nothing has to be cleaned up before a run can go on. File systems without locks
(some of clusters) give none, which a note says; nor does Windows.
"""

import errno
import os
import socket
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

from .faults import FolderBusyError, FolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_WITHOUT = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def folder_lock(folder):
    """Make a folder, hold its lock, and take both away again where nothing was put into it.

    :raises FolderBusyError: when another process holds it, naming that process.
    :raises FolderError: when the folder cannot be made or written to.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = None if fcntl is None else _acquire(folder)
        except FolderBusyError:
            raise
        except OSError as error:
            reason = "it is a file" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
            raise FolderError(
                f"{folder}: cannot be made or written to ({reason}); choose another --out, or make room there"
            ) from error
        try:
            yield
        finally:
            if handle is not None:
                (folder / LOCK).unlink(missing_ok=True)  # while it is held: who opened it meanwhile looks again
                os.close(handle)
    finally:
        for path in made:
            try:
                path.rmdir()
            except OSError:  # something is in it
                break


def _acquire(folder):
    path = folder / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # a refused run took its empty folder away
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            _lock(handle, folder)
            if _same(handle, path):
                holder = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
                with suppress(OSError):  # a full disk: whatever is to be written here will say so
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, holder.encode(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder ended, and took the name away, between our opening and our locking


def _lock(handle, folder):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise FolderBusyError(
            f"{folder}: is in use by {holder}; wait until that run has ended, or choose another --out"
        ) from None
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise
        warnings.warn(f"{folder}: its file system has no locks; see to it that only one run writes there", stacklevel=2)


def _same(handle, path):
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
