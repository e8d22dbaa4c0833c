"""``pyrarchy fit``: data, pair, training, evaluation, pictures and report, all in one run folder."""

import math
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import launch
from .binarize import binarization
from .fit_plan import data_for, training_plan
from .folder_lock import folder_lock
from .objectives import make_objective
from .placement import default_dtype, find_device, in_default_dtype, on_device, to_device, to_tensors, use_threads
from .registry import get_pair
from .run_begin import check_folder, clear, data_sha256, settle, sweep
from .run_folder import prepare, warm_up, write_config
from .stop_request import StopRequest

GLOBAL_SAMPLES = 10_000


def run_fit(args):
    """Carry out ``pyrarchy fit``; prints what was done and returns the exit code."""
    with launch.group(args.device), ExitStack() as folder:
        with launch.agreed():
            fit = begin(args, folder)
        with fit.precision():
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
    fit = Fit(pair, data, config, out, resume=args.resume, quiet=args.quiet, stop=args.stop, profile=args.profile)
    if launch.is_first():
        folder.enter_context(folder_lock(out))
        sweep(out)
    settle(config, out, args.resume)
    if launch.is_first():
        check_folder(out, config, args.resume, args.overwrite)
    begun = (out / "config.json").exists()
    if args.resume and not begun:
        fit.say(f"nothing to resume in {out}: a new run begins")
    with fit.precision():
        fit.build()  # what cannot be built leaves no folder behind
        if launch.is_first() and not (begun and args.resume):
            clear(out)
            write_config(out, config, used)
    return fit


class Fit:
    """One fit from data to report; :meth:`run` does all of it."""

    def __init__(self, pair, whole, config, out, *, resume=False, quiet=False, stop=None, profile=False):
        self.pair, self.whole, self.config, self.out = pair, whole, config, out
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

    def build(self):
        """Build model and guide, where they can be trained as asked."""
        self.device = launch.own_device(find_device(self.config["device"]))
        if self.config["method"] == "svi":
            self.objective = make_objective(self.config["objective"], self.config["estimator"])
        pair = self.pair(self.data, seed=self.config["seed"], **self.config["options"])
        self.model, self.guide = in_default_dtype(*pair)

    def run(self):
        """Train, then evaluate, draw and report. Returns 0."""
        self.say(f"{self.pair.name}: {self.pair.summary}")
        if self.config["method"] == "cavi":  # sweeps over a data set that is one datum: nothing to share
            launch.part()
            if not launch.is_first():
                return 0
        train = to_tensors(self.prepared.train)
        curve = {"em": self.fit_em, "cavi": self.fit_cavi, "svi": self.fit_svi}[self.config["method"]](train)
        return self.finish(self.model, self.guide, curve)

    def finish(self, model, guide, curve, **depth):
        """Evaluate a trained pair and write everything that follows from it.

        :param depth: ``quick`` and ``seconds`` of :func:`~pyrarchy.run_report.write_outcome`.
        """
        import torch

        from .run_report import write_outcome

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
            from .inference.apply import encode

            remarks += model.remarks(torch.from_numpy(encode(model, guide, rows[:100], draws=1)["z1"][0]))
        evaluation = self.evaluate(rows, several)
        launch.part()
        if not launch.is_first():
            return 0
        exact = self.exact(rows)
        self.say(evaluation.table())
        if exact is not None:
            what = "nats for the data set" if several else "nats per datum"
            self.say(f"log p(x)  = {exact['log_p']:.4f} {what} (exact)")
        for remark in remarks:
            self.say(f"note: {remark}")
        write_outcome(self, rows, held_out, evaluation, exact, curve, remarks, **depth)
        self.say(f"run folder: {self.out}  (open {self.out / 'report.html'})")
        return 0

    def fit_svi(self, train):
        """Train by SVI with the plan's warm-up and decay."""
        from .inference import Batches, fit, profile_step, reestimate_statistics
        from .inference.loop import save_modules
        from .inference.shared_loop import share_batches

        plan = self.config
        draw = binarization(plan["binarize"]).draw if plan["binarize"] == "dynamic" else None
        batches = Batches(to_device(train, self.device), plan["batch_size"], seed=plan["seed"], transform=draw)
        batches = share_batches(batches)
        total = plan["steps"] if plan["steps"] is not None else plan["epochs"] * len(batches)
        go_on = f"{self.out} holds every step taken: continue with --resume"
        with on_device(self.device, self.model, self.guide), self.stop.stepping(go_on):
            record = fit(
                self.model,
                self.guide,
                batches,
                objective=self.objective,
                optimizer=plan["lr"],
                steps=total,
                schedule=lambda step: cosine(step / total, plan["decay"]),
                temper=warm_up(plan),
                seed=plan["seed"],
                callbacks=(self.stop,),
                out=self.out,
                resume=self.resume,
                threads=plan["threads"],
                tape=plan["tape"],
                progress=self.progress,
            )
            self.stop.number = launch.any_number(self.stop.number)
        batches = Batches(train, plan["batch_size"], seed=plan["seed"], transform=draw)
        if reestimate_statistics(self.model, self.guide, batches, seed=plan["seed"]) and launch.is_first():
            save_modules(self.model, self.guide, self.out / "checkpoint.npz")
        bound = "" if record.is_lower_bound else " (not a lower bound)"
        how = f"{record.path}; {record.describe_threads()}"
        self.say(f"{record.step} steps in {record.seconds:.1f} s; {record.objective}{bound}; {how}")
        if self.profile and launch.is_first():
            use_threads(record.threads, "svi")
            how = {"objective": self.objective, "optimizer": plan["lr"], "tape": plan["tape"], "seed": plan["seed"]}
            self.say(profile_step(self.model, self.guide, batches, **how).table())
        return record

    def fit_em(self, train):
        """Fit by exact EM and leave the same kind of checkpoint as SVI does."""
        from .fit_exact import fit_exact

        return fit_exact(self, train)

    def fit_cavi(self, train):
        """Fit by coordinate ascent and leave the same kind of checkpoint as SVI does."""
        from .fit_conjugate import fit_conjugate

        return fit_conjugate(self, train if isinstance(train, tuple) else (train,))

    def evaluate(self, rows, several):
        """Importance-sample held-out log p(x); the bound itself where global and local latents mix."""
        from .inference import evaluate

        if getattr(self.guide, "has_local", False):
            from .fit_conjugate import closed_form

            return closed_form(self.model, self.guide, rows)
        num = max(self.config["samples"], GLOBAL_SAMPLES) if several else self.config["samples"]
        shared = self.config.get("ranks", 1) > 1  # then also in a report, which thus draws the same
        return evaluate(self.model, self.guide, rows, num_samples=num, progress=self.progress, shared=shared)

    def exact(self, rows):
        """Exact log p(x) where the model knows it: mean and standard error."""
        import torch

        if hasattr(self.model, "log_evidence"):
            return {"log_p": self.model.log_evidence(*(part.double() for part in rows)).item(), "log_p_error": math.nan}
        if not hasattr(self.model, "log_marginal"):
            return None
        with torch.no_grad():
            values = self.model.log_marginal(rows).double()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return {"log_p": values.mean().item(), "log_p_error": error}


def cosine(share, end):
    """Factor on the learning rate after a share of the steps: half a cosine from 1 down to ``end``."""
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * share))
