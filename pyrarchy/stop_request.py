"""Ctrl-C and SIGTERM: the first lets a training step end and be saved, the second stops at once.

After the first signal the system's own reaction is put back, so that the second ends the process even in the middle of a
long computation. Nothing is lost by that: files are replaced in one step, and a run continues from its checkpoint.
"""

import signal
import threading
from contextlib import contextmanager

from .faults import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """What a signal asked for; a callback of :func:`~pyrarchy.inference.fit`, which then ends after the step.

    While :meth:`stepping`, a signal is noted and the training asked to stop; at any other time it raises
    :class:`~pyrarchy.faults.Interrupted` where it meets the program.
    """

    def __init__(self):
        self.number, self._stepping, self._taken = None, False, []

    def __call__(self, step):
        """Whether to stop after this step."""
        return self.number is not None

    @contextmanager
    def listening(self):
        """Take the signals; afterwards they are as they were. Signals that are ignored (``nohup``) stay ignored."""
        if threading.current_thread() is not threading.main_thread():  # Python hands signals to the main thread only
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._taken = [number for number in SIGNALS if before[number] not in (signal.SIG_IGN, None)]
        try:
            for number in self._taken:
                signal.signal(number, self._note)
            yield
        finally:
            for number in self._taken:
                signal.signal(number, before[number])

    @contextmanager
    def stepping(self, how_to_go_on):
        """Training that ends by itself when :meth:`__call__` says so.

        :param str how_to_go_on: what the user is told.
        :raises Interrupted: at the end, when a signal came.
        """
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        if self.number is not None:
            raise Interrupted(self.number, f"interrupted; {how_to_go_on}")

    def _note(self, number, frame):
        for each in self._taken:
            signal.signal(each, signal.SIG_DFL)
        self.number = number
        if not self._stepping:
            raise Interrupted(number)
