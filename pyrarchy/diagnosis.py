"""Everything that can be said of a fitted pair on data, as one object that xarray and ArviZ open: :func:`diagnose`."""

import time
import warnings
from dataclasses import dataclass, field

from .section import Context, Entry, Section, sections

__all__ = ["Diagnosis", "diagnose", "run_sections"]

SECONDS = 120.0


@dataclass
class Diagnosis:
    """Sections that apply, in the order of the page, and what was left out.

    :ivar dict found: name -> (:class:`~pyrarchy.section.Entry`, :class:`~pyrarchy.section.Section`).
    :ivar dict left_out: name -> reason.
    """

    found: dict[str, tuple[Entry, Section]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def to_tree(self, attrs=None):
        """One group per section, as the installed ArviZ opens it; sentences and reasons are attributes."""
        from .inference.groups import pack_datasets

        datasets = {}
        for name, (entry, section) in self.found.items():
            says = "\n".join(section.sentences)
            datasets[name] = section.dataset.assign_attrs(title=entry.title, says=says)
        reasons = "\n".join(f"{name}: {reason}" for name, reason in self.left_out.items())
        return pack_datasets(datasets, {**(attrs or {}), "left_out": reasons})


def diagnose(
    pair,
    data,
    *,
    num_samples=256,
    seed=0,
    plates=1,
    labels=None,
    only=None,
    quick=False,
    seconds=SECONDS,
    progress=False,
):
    """Diagnose a pair on data, held-out data as a rule.

    :param pair: ``(model, guide)``, or the folder of a run.
    :param data: the model's arguments: a tensor or array (N, ...), or a tuple of them; or a
        :class:`~pyrarchy.Dataset`, of which the test rows (else the training rows) and their labels are taken, for a run
        in the form (columns, bits) that it was fitted to.
    :param int num_samples: importance samples per datum.
    :param int seed: of everything drawn; generators are left as they were.
    :param int plates: nested plates of the model.
    :param labels: (N,) integers, for what the codes say about them.
    :param only: names of the sections wanted; by default all that apply.
    :param bool quick: leave the long ones out.
    :param float seconds: how long a section may take; looked at with every site sampled. What takes longer is left out.
    :param bool progress: a bar over the sections, if someone watches.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x) with a group per section (``held_out``,
        ``rates``, ...). Every variable has the attribute ``unit`` and, where it is one, ``bound`` ("lower bound in
        expectation", "exact", ...); the group's ``says`` is its meaning in words. The attribute ``left_out`` names the
        sections that do not apply, a line each, with the reason.
    :raises ValueError: for a name in ``only`` that is no section, and for a pair that cannot be run or scored on the data;
        a site at fault is named.
    :raises TypeError: for what is neither a pair nor a run folder.

    >>> import torch, pyrarchy
    >>> model, guide = pyrarchy.get_pair("ppca")(pyrarchy.load_data("digits"), z_dim=2)
    >>> found = pyrarchy.diagnose((model, guide), torch.rand(9, 64), num_samples=30, only=["held_out", "rates"])
    >>> found["held_out"]["log_p"].attrs["bound"], found["held_out"]["exact_log_p"].attrs["bound"]
    ('lower bound in expectation', 'exact')
    """
    model, guide = _pair(pair)
    args, labels = _arguments(pair, data, labels)
    context = Context(model, guide, args, num_samples=num_samples, seed=seed, plates=plates, labels=labels)
    _see_that_it_runs(context)
    found = run_sections(context, only=only, quick=quick, seconds=seconds, progress=progress)
    return found.to_tree({"num_samples": num_samples, "seed": seed})


def _see_that_it_runs(context):
    """One validated pass: a guide or data that do not fit the model are an error, and no diagnostic that does not apply."""
    import pyro
    import torch

    from .inference import isolated, trace_pair
    from .inference.preflight import sites_not_finite
    from .inference.terms import check_sites

    for part in context.args:
        if isinstance(part, torch.Tensor) and not (finite := part.isfinite()).all():
            place = tuple((~finite).nonzero()[0].tolist())
            raise ValueError(f"the data hold NaN or infinity, first at {place}: drop or fill these rows")
    with isolated(context.model, context.guide, seed=context.seed), torch.no_grad():
        try:
            with pyro.validation_enabled(False):
                _see_that_it_is_scored(trace_pair(context.model, context.guide, context.args, plates=context.plates)[0])
            with pyro.validation_enabled(True):
                traces = trace_pair(context.model, context.guide, context.args, plates=context.plates)
        except RuntimeError as error:
            reason = str(error).split("Trace Shapes:")[0].strip()
            raise ValueError(f"the pair does not run on these data: {reason}") from error
        check_sites(*traces)
        if odd := sites_not_finite(*traces):
            raise ValueError(f"the log-probability of the data is not finite at {', '.join(odd)}")


def _see_that_it_is_scored(model_trace):
    """An error that names the site, a value and the remedy where a likelihood has no density at the data."""
    from torch.distributions import constraints

    from .inference.one_site import innermost

    for name, site in model_trace.nodes.items():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        try:
            support = site["fn"].support
        except NotImplementedError:  # a factor, or a flow that does not tell
            continue
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        value, good = site["value"], support.check(site["value"])
        if good.all():
            continue
        found = f" {value[~good][0].tolist()}" if good.shape == value.shape[: good.dim()] else ""
        remedy = "Give data in its support, or a model with another likelihood"
        if support is constraints.boolean:
            remedy = (
                "Turn grey values into bits as in training, (x > 0.5).float() or torch.bernoulli(x), or give the folder "
                "of a run, which knows how its data became bits"
            )
        kind = type(innermost(site["fn"])).__name__
        raise ValueError(f"site '{name}': a {kind} has no density at the data's value{found}. {remedy}.")


def run_sections(context, *, only=None, quick=False, seconds=SECONDS, progress=False):
    """Compute all sections that apply to a :class:`~pyrarchy.section.Context`; returns a :class:`Diagnosis`.

    Other parameters as for :func:`diagnose`.
    """
    entries = sections()
    known = [entry.name for entry in entries]
    only = [only] if isinstance(only, str) else only
    if unknown := sorted(set(only or ()) - set(known)):
        raise ValueError(f"no section(s) {unknown}; there are {known}")
    diagnosis = Diagnosis()
    bar = _bar([entry for entry in entries if only is None or entry.name in only], progress)
    for entry in bar:
        if progress:
            bar.set_description(entry.name)
        if quick and entry.long:
            diagnosis.left_out[entry.name] = "takes longer; `pyrarchy report` of the run computes it"
            continue
        try:
            with deadline(seconds), warnings.catch_warnings():
                diagnosis.found[entry.name] = entry, entry.compute(context)
        except TimeoutError:
            diagnosis.left_out[entry.name] = f"took more than {seconds:g} seconds"
        except (ValueError, NotImplementedError) as error:  # the library's refusals, which name the site
            diagnosis.left_out[entry.name] = " ".join(str(error).split())
    return diagnosis


def deadline(seconds):
    """Stop what runs inside with a TimeoutError at the first site that is sampled after so many seconds.

    A pass is never torn: what Pyro and the drivers must put back is put back, in any thread and on any system.
    """
    from pyro.poutine.messenger import Messenger

    class Deadline(Messenger):
        end = time.monotonic() + seconds

        def _pyro_sample(self, msg):
            if time.monotonic() > self.end:
                raise TimeoutError(f"took more than {seconds:g} seconds")

    return Deadline()


def _bar(entries, progress):
    if not progress:
        return entries
    from tqdm.auto import tqdm

    return tqdm(entries, unit="section", dynamic_ncols=True, disable=None)  # None: silent where nobody watches


def _pair(pair):
    if isinstance(pair, tuple) and len(pair) == 2 and all(map(callable, pair)):
        return pair
    if isinstance(pair, tuple) or callable(pair) or (not hasattr(pair, "__fspath__") and not isinstance(pair, str)):
        raise TypeError(
            f"needed is (model, guide) or the folder of a run, got {type(pair).__name__}; a row of the registry is not yet "
            "fitted: build it, pyrarchy.get_pair(name)(data), and fit it"
        )
    from .run_folder import load

    return load(pair)


def _arguments(pair, data, labels):
    """The model's arguments as tensors, and the labels; for a run, a data set is brought to the form it was fitted to."""
    import torch

    from .dataset import Dataset
    from .placement import to_tensors

    if isinstance(data, Dataset):
        if not isinstance(pair, tuple):
            from .binarize import binarization
            from .run_folder import read_config, select_rows

            data = binarization(read_config(pair)["binarize"]).prepare(select_rows(pair, data))
        held_out = data.test is not None
        data, own = (data.test, data.test_labels) if held_out else (data.train, data.train_labels)
        labels = own if labels is None else labels
    parts = data if isinstance(data, tuple) else (data,)
    return tuple(part if torch.is_tensor(part) else to_tensors(part) for part in parts), labels
