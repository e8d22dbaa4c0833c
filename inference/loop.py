"""The training loop of :func:`~pyrarchy.inference.fit`: its state, one step, and what a checkpoint holds of it."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import torch

from ..atomic import WriteError
from ..checkpoint import load_latest, load_state, previous, save_state, write_atomically
from .adam import adam
from .batch_statistics import check_single_rows, coupled_modules
from .batches import digest, length
from .bound import Bound
from .continuation import check_continues, take_state
from .finite_watch import FiniteWatch
from .isolation import buffers_kept, rng_state, root_modules, set_rng_state
from .measure import Measure
from .parallel import rank
from .preflight import non_finite_sites, preflight
from .record import Record
from .terms import trace_pair


class DivergedError(ArithmeticError):
    """The loss or its gradient stopped being finite; the last checkpoint is from before."""


@dataclass
class Step:
    """What a callback sees after each step: the counters, the values of the step, and the pair in training."""

    step: int
    epoch: int
    loss: float
    value: float
    record: Record
    model: object
    guide: object


class Loop:
    """The state of one training: parameters, optimiser, place in the data, record."""

    def __init__(self, model, guide, batches, objective, optimizer, schedule, temper, clip_norm, out, seed, tape=True):
        self.model, self.guide, self.batches, self.objective = model, guide, batches, objective
        self.schedule, self.temper, self.clip_norm, self.seed = schedule, temper, clip_norm, seed
        self.out = Path(out) if out is not None else None
        before = rng_state()
        first = next(iter(batches.epoch(0)))
        if temper is not None:
            temper.set_step(0)
        whole = getattr(batches, "whole", False)
        single = whole or (length(batches) == 1 and getattr(batches, "parts", 1) == 1)
        with self._handlers(), pyro.validation_enabled(True), buffers_kept(model, guide):
            check_single_rows(model, guide, objective, batches, first)
            self.parameters, remarks = preflight(model, guide, objective, first, whole=whole, single=single)
            coupled = coupled_modules(model, guide, first)
        set_rng_state(before)
        if temper is not None:
            temper.check()
        self.tensors = list(self.parameters.values())
        self.watch = FiniteWatch(model, guide)
        self.measure = Measure(model, guide, objective, self.tensors, temper, tape)
        self.tape = tape
        self.factory = optimizer if callable(optimizer) else adam(float(optimizer))
        self.optimizer = self.factory(self.tensors)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        if coupled:
            remarks.append(
                f"The batch normalisation(s) {coupled} read latents, so in training the value of a datum depends on its "
                "batch and bounds nothing. Call reestimate_statistics(model, guide, data) before an evaluation."
            )
        self.lower = getattr(objective, "is_lower_bound", True) and not remarks
        self.record = Record(objective=describe(objective, temper), is_lower_bound=self.lower, remarks=remarks)
        self.epoch, self.consumed, self.epoch_rng = 0, 0, None
        size = getattr(batches, "batch_size", None), getattr(batches, "num_rows", None)
        self.setting = {
            "seed": seed,
            "objective": self.record.objective,
            "(batch size, rows)": size,
            "optimiser": f"{type(self.optimizer).__name__}, {self.base_rates}, gradient norm {clip_norm}",
            # all rows; of a loader, which may be endless, the first
            "data": None if out is None else digest(getattr(batches, "tensors", first)),
            "shapes": [list(tensor.shape) for tensor in self.tensors],
        }

    def _handlers(self):
        return self.temper if self.temper is not None else nullcontext()

    def run(self, total, callbacks, save_every, progress):
        """Take steps until ``total``, saving on the way and at the end."""
        bar = _progress_bar(total, self.record.step) if progress else None
        try:
            with pyro.validation_enabled(False):
                while self.record.step < total:
                    if not self._run_epoch(total, callbacks, save_every, bar):
                        break
            # an objective under a temperature that has not reached one bounds nothing
            self.record.path = self.measure.tape.path
            self.record.is_lower_bound = self.lower and (self.temper is None or self.temper.finished)
            self.save()
        finally:
            if bar is not None:
                bar.close()

    def _run_epoch(self, total, callbacks, save_every, bar):
        if not self.consumed:
            self.epoch_rng = rng_state()
        for batch in self.batches.epoch(self.epoch, start=self.consumed, rng=self.epoch_rng):
            step = self._step(batch)
            self.consumed += 1
            if bar is not None:
                bar.update(1)
                if step.step % 10 == 0 or step.step == total:
                    bar.set_postfix_str(f"{step.loss:.3f} nats", refresh=False)
            stop = self._stops(any([_is_true(callback(step)) for callback in callbacks]))
            if self.out is not None and save_every and step.step % save_every == 0 and step.step < total:
                self.save()
            if stop or step.step >= total:
                return False
        self.epoch, self.consumed = self.epoch + 1, 0
        return True

    def _stops(self, wish):
        """Whether to end the training after this step, when a callback wishes it."""
        return wish

    def _step(self, batch):
        record, step = self.record, self.record.step
        factor = 1.0 if self.schedule is None else float(self.schedule(step))
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        beta = 1.0 if self.temper is None else self.temper.set_step(step)
        try:
            figures, gradients = self.measure(batch, beta != 1.0)
        except ValueError:
            if all(torch.isfinite(p).all() for p in self.tensors):
                raise
            self._diverged(batch, step, math.nan, math.nan)  # validation met the damage before the loss did
        loss, value, norm = figures.tolist()  # the step's one host sync
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged(batch, step, loss, norm)
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = gradient
        if self.clip_norm is not None and norm > self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.tensors, self.clip_norm, figures[2], foreach=True)
        self.optimizer.step()
        record.append(loss, value, beta, norm, self.optimizer.param_groups[0]["lr"])
        return Step(record.step, self.epoch, loss, value, record, self.model, self.guide)

    def _diverged(self, batch, step, loss, norm):
        with torch.no_grad(), self._handlers():
            where = non_finite_sites(*trace_pair(self.model, self.guide, batch))
        raise DivergedError(
            f"step {step + 1}: loss {loss:.6g}, gradient norm {norm:.6g}; {where}. Lower the learning rate, raise a "
            f"scale's floor or clip the gradient.{self._kept()}"
        )

    def _kept(self):
        return f" The last good checkpoint is in {self.out}." if self._holds_checkpoint() else ""

    def state(self):
        """Everything that decides the numbers to come."""
        modules = root_modules(self.model, self.guide)
        return {
            "modules": [dict(m.state_dict()) for m in modules],
            "params": {n: p.detach() for n, p in self.parameters.items() if n.startswith("param.")},
            "optimizer": self.optimizer.state_dict(),
            "parameters": list(self.parameters),
            "record": {**{c: torch.tensor(getattr(self.record, c), dtype=torch.float64) for c in Record.CURVES}},
            "said": {"is_lower_bound": self.record.is_lower_bound, "remarks": self.record.remarks},
            "step": self.record.step,
            "place": {"epoch": self.epoch, "consumed": self.consumed},
            "setting": self.setting,
            "rng": rng_state(),
            "epoch_rng": self.epoch_rng,
            "threads": self.record.threads,
        }

    def save(self):
        """Write checkpoint and history, each in one step."""
        if bad := self.watch.first_bad(self.parameters, self.optimizer):  # no loss has seen the last update yet
            raise DivergedError(
                f"step {self.record.step}: {bad} is not finite after the update. Lower the learning rate or clip the "
                f"gradient.{self._kept()}"
            )
        if self.out is not None:
            self._write(self.state())

    def _write(self, state):
        save_state(self.out / "checkpoint.npz", state)
        write_atomically(self.out / "history.csv", self.record.to_csv().encode())

    def open_folder(self, resume):
        """See, before the first step, that ``out`` can be written to and that no other run's checkpoint is lost in it.

        :raises ValueError: where there is one. :raises WriteError: for a folder that cannot be made.
        """
        if self.out is None or rank():
            return
        if self._holds_checkpoint() and not resume:
            raise ValueError(f"{self.out}: holds a checkpoint; pass resume=True to continue it, or another folder")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                error.errno, f"{self.out}: cannot be made ({error.strerror}); give another folder"
            ) from error

    def begun(self):
        """Whether there is a checkpoint to continue from; every rank must ask."""
        return self._holds_checkpoint()

    def _holds_checkpoint(self):
        newest = None if self.out is None else self.out / "checkpoint.npz"
        return newest is not None and (newest.exists() or previous(newest).exists())

    def _read(self):
        return load_latest(self.out / "checkpoint.npz")

    def restore(self):
        """Continue from the newest readable checkpoint.

        :raises CheckpointError: when it cannot be read. :raises ValueError: when it is of another pair, other data or
            another configuration.
        """
        state, path, remark = self._read()
        check_continues(state, path, list(self.parameters), self.setting)
        take_state(self, state, path)
        if self.temper is not None and self.record.step:  # a run that was over takes no step that would set it
            self.temper.set_step(self.record.step - 1)
        self.record.remarks += [remark] if remark else []
        return state


def _is_true(answer):
    return isinstance(answer, bool | np.bool_) and bool(
        answer
    )  # a comparison of numpy's numbers is no bool of Python's


def save_modules(model, guide, path):
    """Put the present weights and buffers into a run's checkpoint in place of those it was written with."""
    state = load_state(path)
    save_state(path, {**state, "modules": [dict(m.state_dict()) for m in root_modules(model, guide)]})


def describe(objective, temper):
    words = repr(objective) if isinstance(objective, Bound) else type(objective).__name__
    return words if temper is None else f"{words} under {temper!r}"


def _progress_bar(total, done):
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)
