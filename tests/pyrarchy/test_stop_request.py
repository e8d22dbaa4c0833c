"""Ctrl-C and SIGTERM: a training step ends and is saved, and the run goes on to the same bytes."""

import os
import signal
import threading

import pytest

from pyrarchy.faults import Interrupted
from pyrarchy.inference import load_state, loop
from pyrarchy.stop_request import StopRequest

from .test_fit_command import contents, differing

WORDS = ("fit", "hvae", "z_dims=3,2", "hidden=7,5", "--data", "unit.npy", "--steps", 20, "--batch-size", 13,
         "--samples", 7, "--seed", 3, "--quiet")  # fmt: skip


@pytest.fixture
def signal_in_step(monkeypatch):
    """Function of a signal and a step's number: the signal comes in the middle of that step."""
    step = loop.Loop._step

    def send(number, at):
        def with_signal(self, batch):
            if self.record.step == at - 1:
                os.kill(os.getpid(), number)
            return step(self, batch)

        monkeypatch.setattr(loop.Loop, "_step", with_signal)

    return send


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_the_run_continues_to_the_same_bytes(
    number, signal_in_step, here, command, tmp_path, no_pictures
):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command(*WORDS, "--out", whole)[0] == 0
    for at in (6, 8):  # behind an epoch, and in one
        signal_in_step(number, at)
        code, out, err = command(*WORDS, "--out", stopped, *(("--resume",) if at > 6 else ()))
        assert (code, out) == (128 + number, [])
        assert err == [f"interrupted; {stopped} holds every step taken: continue with --resume"]
        assert load_state(stopped / "checkpoint.npz")["step"] == at
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
        assert not (stopped / "result.json").exists() and not (stopped / ".lock").exists()
    assert command(*WORDS, "--out", stopped, "--resume")[0] == 0
    assert differing(contents(whole), contents(stopped)) == []


def test_a_signal_outside_training_stops_where_it_is(here, command, tmp_path, monkeypatch):
    def evaluate(self, rows, several):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr("pyrarchy.fit_command.Fit.evaluate", evaluate)
    code, _, err = command(*WORDS, "--out", tmp_path / "run")
    assert (code, err) == (143, ["interrupted"])
    assert load_state(tmp_path / "run" / "checkpoint.npz")["step"] == 20


def test_the_second_signal_finds_the_system_s_own_reaction():
    stop = StopRequest()
    with stop.listening():
        with pytest.raises(Interrupted, match="interrupted; go on") as caught, stop.stepping("go on"):
            assert stop(None) is False
            os.kill(os.getpid(), signal.SIGINT)
            assert stop(None) is True
            assert {signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_DFL}
    assert caught.value.number == signal.SIGINT


def test_ignored_signals_stay_ignored_and_other_threads_take_none():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest().listening():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    failed = []

    def listen():
        try:
            with StopRequest().listening():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert not failed
