"""Standard output and error as a command may find them: closed, a pipe that nobody reads on, a full disk, an old encoding.

A command is done when its files are there, whoever reads what it says. Only what cannot be written to the disk that
standard output was sent to ends it.
"""

import os
import sys
from contextlib import contextmanager, suppress


class Outlet:
    """A text stream that goes on in silence once nobody reads it, and writes what its encoding lacks as ``\\xe9``."""

    def __init__(self, stream, *, patient=False):
        self._stream, self._patient = stream, patient

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        return self._or_silence(self._stream.write, text)

    def flush(self):
        self._or_silence(self._stream.flush)

    def _or_silence(self, function, *args):
        try:
            return function(*args)
        except BrokenPipeError:
            self._silence()
        except OSError as error:
            self._silence()  # or Python would try again as it exits
            if self._patient:  # an error that cannot be said still has its exit code
                return
            raise OSError(error.errno, error.strerror, "standard output") from error

    def _silence(self):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def standard_streams():
    """A block with both streams there and patient; afterwards they are as they were."""
    before, opened = (sys.stdout, sys.stderr), []
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:  # closed by the shell: a file opened later must not take its number
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            opened.append(stream)
        setattr(sys, name, Outlet(stream, patient=name == "stderr"))
    try:
        yield
    finally:
        with suppress(OSError):  # said already; Python would say it again as it exits
            sys.stdout.flush()
        sys.stdout, sys.stderr = before
        for stream in opened:
            stream.close()
