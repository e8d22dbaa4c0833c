"""``pyrarchy fit``: data, pair, training, evaluation, pictures and report, all in one run folder."""

import sys
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from . import launch
from .binarize import binarization
from .fit_exact import exact_by_arrays, exact_by_model, fit_arrays, fit_exact
from .fit_plan import blaming, data_for, training_plan
from .folder_lock import folder_lock
from .objectives import make_objective
from .placement import default_dtype, find_device, in_default_dtype, to_tensors, use_threads
from .registry import get_pair
from .run_begin import check_folder, data_sha256, in_place_of, settle, sweep
from .run_folder import load, prepare, write_config, write_example
from .run_result import write_result
from .stop_request import StopRequest

GLOBAL_SAMPLES = 10_000


def run_fit(args):
    """Carry out ``pyrarchy fit``; prints what was done and returns the exit code."""
    with launch.group(args.device), ExitStack() as folder:
        with launch.agreed():
            fit = begin(args, folder)
        return fit.run()


def begin(args, folder):
    """A fit that is ready to run, of options and data found good, in a folder that is held until ``folder`` is left."""
    pair = get_pair(args.pair)
    options = pair.parse_options(args.options)
    plan = training_plan(pair, args)
    data, binarize = data_for(pair, args.data, args.binarize, args.missing)
    used, columns = prepare(pair, data, options)
    config = {
        "pair": args.pair,
        "options": options,
        "data": args.data or pair.data,
        "rows": data.num_train,
        "data_sha256": data_sha256(data),
        "missing": args.missing,
        "support": data.support,
        "binarize": binarize,
        "image_shape": data.image_shape,
        "x_dim": None if isinstance(data.train, tuple) else data.dim,
        "columns": columns,
        **plan,
        "seed": args.seed,
        "samples": args.samples,
        "device": args.device,
        "dtype": args.dtype,
        "threads": args.threads,
        "tape": args.tape,
    }
    if launch.processes() > 1:
        config["ranks"] = launch.processes()
    out = Path(args.out or f"runs/{args.pair.replace(':', '.')}")
    how = {name: getattr(args, name) for name in ("resume", "quiet", "stop", "profile", "report")}
    fit = Fit(pair, data, config, out, **how)
    if launch.is_first():
        folder.enter_context(folder_lock(out))
        sweep(out)
    settle(config, out, args.resume)
    if launch.is_first():
        check_folder(out, config, args.resume, args.overwrite)
    begun = (out / "config.json").exists()
    if args.resume and not begun:
        fit.say(f"nothing to resume in {out}: a new run begins")
    fit.build()  # what cannot be built leaves no folder behind
    if launch.is_first() and not (begun and args.resume):
        folder.enter_context(in_place_of(out))
        write_config(out, config, used)
    elif launch.is_first():
        write_example(out, used)  # the same bytes, unless somebody took or changed them
    return fit


class Fit:
    """One fit from data to report; :meth:`run` does all of it."""

    def __init__(self, pair, whole, config, out, *, resume=False, quiet=False, stop=None, profile=False, report=True):
        self.pair, self.whole, self.config, self.out, self.report = pair, whole, config, out, report
        self.data, self.columns = prepare(pair, whole, config["options"])
        self.resume, self.quiet, self.profile = resume, quiet or not launch.is_first(), profile
        self.stop = StopRequest() if stop is None else stop
        self.prepared = binarization(config["binarize"]).prepare(self.data)

    def say(self, text):
        """Print unless quiet."""
        if not self.quiet:
            print(text, flush=True)

    @property
    def progress(self):
        """Whether to show bars: for someone who watches, not in a log."""
        return not self.quiet and sys.stderr.isatty()

    @contextmanager
    def precision(self):
        """What everything about the run is computed in; afterwards torch's precision and threads are what they were."""
        from .inference.threads import threads_kept

        with default_dtype(self.config["dtype"]), threads_kept():
            use_threads(self.config["threads"], self.config["method"])
            yield

    @cached_property
    def arrays(self):
        """What fits the pair without torch, or ``None``."""
        return self.pair.in_arrays(self.data, self.config["options"], self.config["dtype"])

    @property
    def without_torch(self):
        """Whether one process fits the pair by numpy alone; several exchange what they found through torch."""
        return self.arrays is not None and launch.processes() == 1

    def build(self):
        """Build what is trained, where it can be trained as asked."""
        if self.without_torch:
            return
        with self.precision():
            self.device = launch.own_device(find_device(self.config["device"]))
            if self.config["method"] == "svi":
                self.objective = make_objective(self.config["objective"], self.config["estimator"])
            with blaming(self.data):
                pair = self.pair(self.data, seed=self.config["seed"], **self.config["options"])
            self.model, self.guide = in_default_dtype(*pair)

    def run(self):
        """Train, then evaluate, draw and report. Returns 0."""
        self.say(f"{self.pair.name}: {self.pair.summary}")
        if self.without_torch:
            return self.run_without_torch()
        if self.config["method"] == "cavi":  # sweeps over a data set that is one datum: nothing to share
            launch.part()
            if not launch.is_first():
                return 0
        with self.precision():
            curve = self.train(to_tensors(self.prepared.train))
            return self.finish(self.model, self.guide, curve)

    def train(self, rows):
        """Train by the pair's method on all rows; returns the curve that it left."""
        method = self.config["method"]
        if method == "em":
            return fit_exact(self, rows)
        if method == "svi":
            from .fit_svi import fit_svi

            return fit_svi(self, rows)
        from .fit_conjugate import fit_conjugate

        return fit_conjugate(self, rows if isinstance(rows, tuple) else (rows,))

    def run_without_torch(self):
        """Fit by numpy; the weights are then opened as a report opens them, unless none is wanted."""
        curve = fit_arrays(self, self.prepared.train)
        if self.report:
            with self.precision():
                return self.finish(*load(self.out), curve)
        held_out = self.prepared.test is not None
        exact = exact_by_arrays(self.arrays, self.prepared.test if held_out else self.prepared.train)
        return self.leave(None, exact, curve, held_out, list(self.data.remarks), "nats per datum")

    def finish(self, model, guide, curve, **depth):
        """Evaluate a trained pair and write everything that follows from it.

        :param depth: ``quick`` and ``seconds`` of :func:`~pyrarchy.run_report.write_outcome`.
        """
        self.model, self.guide = model, guide
        use_threads(getattr(curve, "threads", None) or self.config["threads"], self.config["method"])
        # Coordinate ascent grades a posterior over the data that it was fitted to; other rows are other posteriors.
        held_out = self.prepared.test is not None and self.config["method"] != "cavi"
        rows = to_tensors(self.prepared.test if held_out else self.prepared.train)
        if self.config["method"] == "cavi" and not isinstance(rows, tuple):
            rows = (rows,)  # all rows are one datum, as for any model with global latents
        several = isinstance(rows, tuple)
        remarks = [*self.data.remarks, *getattr(curve, "remarks", [])]
        if not several and hasattr(model, "remarks"):
            import torch

            from .inference.apply import encode

            remarks += model.remarks(torch.from_numpy(encode(model, guide, rows[:100], draws=1)["z1"][0]))
        evaluation = self.evaluate(rows, several)
        launch.part()
        if not launch.is_first():
            return 0
        exact = self.exact(rows, held_out)
        unit = "nats for the data set" if several else "nats per datum"
        if not self.report:
            return self.leave(evaluation, exact, curve, held_out, remarks, unit)
        from .run_report import write_outcome

        self.say_figures(evaluation, exact, remarks, unit)
        write_outcome(self, rows, held_out, evaluation, exact, curve, remarks, **depth)
        self.say(f"run folder: {self.out}  (open {self.out / 'report.html'})")
        return 0

    def leave(self, evaluation, exact, curve, held_out, remarks, unit):
        """End with the weights and the figures, without draws, pictures and page."""
        self.say_figures(evaluation, exact, remarks, unit)
        write_result(self, evaluation, exact, curve, held_out, remarks)
        self.say(f"run folder: {self.out}  (draws, pictures and page: pyrarchy report {self.out})")
        return 0

    def say_figures(self, evaluation, exact, remarks, unit):
        """Print what the evaluation found, the exact figure and what is to be said of them."""
        if evaluation is not None:
            self.say(evaluation.table())
        if exact is not None:
            self.say(f"log p(x)  = {exact['log_p']:.4f} {unit} (exact)")
        for remark in remarks:
            self.say(f"note: {remark}")

    def evaluate(self, rows, several):
        """Importance-sample held-out log p(x); the bound itself where global and local latents mix."""
        from .inference import evaluate

        if getattr(self.guide, "has_local", False):
            from .fit_conjugate import closed_form

            return closed_form(self.model, self.guide, rows)
        num = max(self.config["samples"], GLOBAL_SAMPLES) if several else self.config["samples"]
        shared = self.config.get("ranks", 1) > 1  # then also in a report, which thus draws the same
        return evaluate(self.model, self.guide, rows, num_samples=num, progress=self.progress, shared=shared)

    def exact(self, rows, held_out):
        """Exact log p(x) where the model knows it: mean and standard error."""
        if self.arrays is None:
            return exact_by_model(self.model, rows)
        self.arrays.parameters = {name: value.numpy() for name, value in self.model.state_dict().items()}
        return exact_by_arrays(self.arrays, self.prepared.test if held_out else self.prepared.train)
