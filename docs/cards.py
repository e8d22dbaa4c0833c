"""What follows from the registry: the gallery's pages, one per pair, and the BibTeX of all sources."""

import html
import json
import shutil
from pathlib import Path

DOCS = Path(__file__).parent
PICTURES = DOCS / "gallery"
GROUPS = {
    "rows_linear": "Linear-Gaussian pairs: exact answers",
    "rows_images": "Deep pairs for images",
    "rows_hierarchies": "Deep hierarchies: dense, lateral, and the ladder's variants",
    "rows_stages": "Coarse to fine",
    "rows_priors": "Learned priors",
    "rows_sparse": "Sparse linear models of image patches",
    "rows_flows": "Flows and autoregressive decoders",
    "rows_conjugate": "Conjugate models: coordinate ascent",
    "rows_discrete": "Layers of bits",
    "rows_time": "Series in time",
    "rows_statistics": "Hierarchies of the statistics literature",
    "rows_regression": "Multilevel regression: partial pooling of real groups",
    "rows_spins": "Spins and bits: exact by enumeration and by quadrature",
}


def write_cards(pairs, out):
    """Write ``gallery/*.md`` and ``pairs.bib`` under the folder ``out``.

    :raises FileNotFoundError: for a pair without a picture.
    """
    folder = out / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    measured = json.loads((PICTURES / "figures.json").read_text())
    missing = [name for name in pairs if not (PICTURES / f"{name}.png").exists() or name not in measured]
    if missing:
        raise FileNotFoundError(f"docs/gallery has no picture of {', '.join(missing)}: run docs/gallery.py PAIR")
    for name, pair in pairs.items():
        shutil.copy(PICTURES / f"{name}.png", folder / f"{name}.png")
        (folder / f"{name}.md").write_text(card(pair, measured[name]))
    (folder / "index.md").write_text(gallery_index(pairs))
    (out / "pairs.bib").write_text(bibliography(pairs))


def bibliography(pairs):
    """BibTeX of all rows' sources, each once, in the order of their keys."""
    return "\n\n".join(sorted({pair.source.bibtex for pair in pairs.values()})) + "\n"


def gallery_index(pairs):
    """The page with all pictures, in groups by the module of the row."""
    parts = [
        "# Gallery",
        "",
        "Every pair, fitted with its default data and budget. A card says what the pair is, where",
    ]
    parts += ["it comes from, how to fit it and what to look out for.", ""]
    groups = {}
    for pair in pairs.values():
        groups.setdefault(pair.build.__module__.rpartition(".")[2], []).append(pair)
    for module, rows in groups.items():
        parts += [f"## {GROUPS.get(module, 'Other pairs')}", "", "```{raw} html", '<div class="pairs">']
        for pair in rows:
            parts.append(
                f'<a href="{pair.name}.html"><div class="frame"><img src="../../_images/{pair.name}.png" alt="" '
                f'loading="lazy"></div><b>{pair.name}</b><i>{pair.model} + {pair.guide}</i>'
                f"<span>{html.escape(pair.summary)}</span></a>"
            )
        parts += ["</div>", "```", ""]
    toctree = ["```{toctree}", ":hidden:", "", *pairs, "```", ""]
    return "\n".join(parts + toctree)


def card(pair, measured):
    """The page of one pair."""
    density = "\n".join(part.strip() for part in pair.density.split(";"))
    plan, source = pair.training, pair.source
    parts = [f"# {pair.name}", "", pair.summary, ""]
    parts += [f"```{{image}} {pair.name}.png", f":alt: {measured['picture']}", ":class: picture", "```", ""]
    parts += [f"*{measured['picture']}*", ""]
    parts += [f"Model {reference('zoo', pair.model)}, guide {reference('guides', pair.guide)}.", ""]
    parts += ["```text", density, "```", ""]
    if pair.differs:
        parts += [f"**Differs from the paper:** {pair.differs}.", ""]
    if pair.caution:
        parts += ["```{admonition} Caution", ":class: warning", pair.caution, "```", ""]
    parts += ["## Fit it", "", "```console", f"$ pyrarchy fit {pair.name}", "```", "", "or in Python:", ""]
    parts += ["```python", "from pyrarchy import get_pair", "", f'model, guide = get_pair("{pair.name}")()', "```", ""]
    parts += table(("default", "value"), [("data", f"`{pair.data}`"), *training_rows(plan)])
    if pair.options:
        shown = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in pair.options.items()}
        command = " ".join(f"{k}={v}" for k, v in list(shown.items())[:1])
        parts += ["Options, for example", "", "```console", f"$ pyrarchy fit {pair.name} {command}", "```", ""]
        parts += table(("option", "default"), [(f"`{k}`", f"`{v}`") for k, v in shown.items()])
    parts += ["## What this fit measured", "", *measured_rows(measured)]
    parts += ["## Source", "", f"{authors(source)} ({source.year}). [{source.title}]({source.link}).", ""]
    parts += ["```bibtex", source.bibtex, "```", ""]
    return "\n".join(parts)


def reference(room, name):
    """A link to a class where the room has it; plain code where it is somebody else's."""
    import importlib

    known = getattr(importlib.import_module(f"pyrarchy.{room}"), "__all__", ())
    return f"{{class}}`~pyrarchy.{room}.{name}`" if name in known else f"`{name}`"


def authors(source):
    """Authors as "First Last, First Last and First Last"."""
    names = [" ".join(reversed(n.split(", "))) if ", " in n else n for n in source.authors.split(" and ")]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def training_rows(plan):
    """The default training as rows of a table."""
    if plan.method != "svi":
        return [("training", {"em": "exact EM", "cavi": "coordinate ascent"}[plan.method] + " to convergence")]
    budget = f"{plan.epochs} epochs" if plan.epochs else f"{plan.steps} steps"
    how = f" by `{plan.estimator}`" if plan.estimator else ""
    rows = [("objective", f"`{plan.objective}`{how}"), ("budget", f"{budget}, batch {plan.batch_size or 'whole'}")]
    rows.append(("learning rate", f"{plan.lr:g}, falling to {plan.lr * plan.decay:g}" if plan.decay != 1 else plan.lr))
    if plan.warm_up:
        rows.append(("warm-up", f"the KL's temperature rises to one over {plan.warm_up:.0%} of the steps"))
    return rows


def measured_rows(measured):
    """Final figures of the fit behind the picture, as a table."""
    rows = [("evaluated on", measured["evaluated_on"])]
    if measured.get("exact_log_p") is not None:
        rows.append(("log p(x), exact", with_error(measured["exact_log_p"], measured["exact_log_p_error"])))
    if measured["samples"]:
        rows.append(("log p(x), lower bound in expectation", with_error(measured["log_p"], measured["log_p_error"])))
        whose = "datum" if measured["num_data"] > 1 else "data set"
        rows.append((f"importance samples per {whose}", measured["samples"]))
    rows.append(("ELBO" if measured["samples"] else "ELBO, closed form", f"{measured['elbo']:.3f}"))
    shares = {word: share for word, share in measured["k_hat_shares"].items() if share}
    if shares and measured["num_data"] > 1:
        rows.append(("k-hat", ", ".join(f"{word} {share:.0%}" for word, share in shares.items())))
    elif shares:
        rows.append(("k-hat", f"{measured['k_hat_median']:.2f} ({next(iter(shares))})"))
    for site, rate in measured["rates"].items():
        active = measured["active_units"].get(site)
        units = f", {active[0]} of {active[1]} units active" if active else ""
        rows.append((f"rate of {site}", f"{rate:.2f}{units}"))
    head = "nats per datum" if measured["num_data"] > 1 else "nats"
    return [*table(("figure", head), rows), "How to read these: [](../../guide/trust.md).", ""]


def with_error(value, error):
    """A number with its standard error over data, where there is one."""
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def table(head, rows):
    """A Markdown table."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    return [*lines, ""]
