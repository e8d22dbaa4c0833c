"""Which guide family fits which model: every family of ``guides/`` tried on every model of the zoo, on a few rows of data.

A cell is ``None`` where the pair passes :func:`~pyrarchy.inference.check_pair` (sites agree, the loss is finite, every
parameter gets a gradient, particles and rows stay apart) and otherwise the reason, which names the site at fault.
"""

import re

ROWS, WIDTH = 7, 8


def matrix(models=None, families=None, *, progress=False):
    """Try families on models.

    :param models: names of model classes; all of the zoo by default. ``families``: names of guide classes, likewise.
    :param bool progress: show a bar over the models, where standard error is a terminal.
    :returns: dictionary (model, family) -> ``None`` or the reason why not, model by model.
    """
    from .registry import list_pairs

    rows = {}
    for pair in list_pairs().values():
        rows.setdefault(pair.model, pair)
    written = {name.lower(): name for name in rows}
    models = [written.get(name.lower(), name) for name in models] if models else models
    if unknown := [name for name in models or () if name not in rows]:
        raise ValueError(f"no model class is called {unknown[0]!r}; the zoo has {', '.join(sorted(rows))}")
    builders = builders_of_families()
    chosen = families or list(builders)
    models = models or sorted(rows)
    if progress:
        from tqdm.auto import tqdm

        models = tqdm(models, unit="model", dynamic_ncols=True, leave=False, disable=None)  # None: a terminal alone
    return {(model, family): cell(rows[model], builders[family]) for model in models for family in chosen}


def cell(pair, build):
    """Build a family's guide for the model of a row and check the pair: ``None``, or the reason for the refusal."""
    import torch

    from .inference import ELBO, check_pair, isolated

    model, own, args = example(pair)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            guide = build(model, own, args)
            if not any(
                True for root in (model, guide) for _ in root.parameters()
            ):  # nothing to train, so nothing to check
                with isolated(model, guide):
                    return None if ELBO().value(model, guide, *args).isfinite().all() else "the bound is not finite"
            check_pair(model, guide, *args, objective=objective_for(model, guide, args))
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        return " ".join(str(error).split("Trace Shapes:")[0].split())
    return None


def example(pair):
    """A row's model and guide, and a few rows of its data as the model's arguments."""
    from .binarize import binarization
    from .datasets import load_data
    from .placement import to_tensors
    from .run_folder import prepare

    data, _ = prepare(pair, load_data(pair.data), {})
    model, guide = pair(data)
    if isinstance(data.train, tuple):
        return model, guide, to_tensors(data.train)
    rows = to_tensors(data.train[:ROWS])
    return model, guide, (binarization("dynamic").draw(rows) if pair.likelihood == "bernoulli" else rows,)


def latents(model, args):
    """The model's latent sites as one run shows them: name -> trace node, in the order of sampling."""
    from pyro import poutine
    from pyro.poutine.util import prune_subsample_sites

    from .inference import isolated
    from .inference.terms import is_latent

    with isolated(model, None, seed=0), poutine.block():
        trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
    return {n: s for n, s in trace.nodes.items() if is_latent(s)}


def objective_for(model, guide, args):
    """The plain objective that can train the pair: discrete sites need the score; where local sites stand beside global
    ones, or under one density for all rows, there is no bound per datum and Pyro's own ELBO takes its place."""
    from pyro.infer import Trace_ELBO

    from .inference import ELBO

    sites = latents(model, args)
    local = [any(f.name == "data" for f in s["cond_indep_stack"]) for s in sites.values()]
    if any(local) and (not all(local) or hasattr(guide, "AUXILIARY")):
        return Trace_ELBO()
    if any(s["fn"].support.is_discrete for s in sites.values()):
        return ELBO(num_particles=2, estimator="score")
    return ELBO()


def layers(model, args):
    """(x_dim, dimensions of z1 ... zL): what an encoder for the model needs; one layer of two where there is none."""
    found = {n: s for n, s in latents(model, args).items() if re.fullmatch(r"z\d+", n)}
    names = sorted(found, key=lambda n: int(n[1:]))
    dims = tuple(found[n]["fn"].event_shape.numel() for n in names) or (2,)
    return args[0].shape[-1], dims


def builders_of_families():
    """Guide class -> function of (model, the row's own guide, arguments) that builds one with small networks."""

    from . import guides as g
    from .guides.example_data import latent_sites

    class FirstEncoder(g.Encoder):
        def forward(self, x, *others):
            return super().forward(x)

    class FirstFeatures(g.Features):
        def forward(self, x, *others):
            return super().forward(x)

    def free(kind):
        return lambda model, own, args: kind(model, *args)

    def sized(build):
        """From a function of (model, x_dim, dims, widths, args) that wants to know the layers."""

        def sizes(model, own, args):
            if not args:
                raise ValueError(f"{type(model).__name__} takes no data, so there is nothing to encode")
            x_dim, dims = layers(model, args)
            return build(model, x_dim, dims, (WIDTH,) * len(dims), args)

        return sizes

    def encoder(x_dim, dims, widths):
        return FirstEncoder(x_dim, dims, widths)

    def per_site(model, x_dim, dims, widths, args):
        free, named = g.MeanField(model, *args), [n for n in latents(model, args) if re.fullmatch(r"z\d+", n)]
        inner = g.Amortized(model, encoder(x_dim, dims, widths))
        return g.PerSite(model, dict.fromkeys(named, inner), free if len(named) < len(latents(model, args)) else None)

    def structured_network(model, x_dim, dims, widths, args):
        number = sum(s["fn"].event_shape.numel() for s in latents(model, args).values() if not s["cond_indep_stack"])
        return g.AmortizedStructured(model, encoder(args[0][0].numel() + number, dims, widths), *args)

    def joint_flow(model, own, args):
        size = sum(site.start.numel() for site in latent_sites(model, args, {}).values())
        return g.JointIAF(model, *args, hidden=size + 1)

    found = {
        kind.__name__: free(kind)
        for kind in (g.MeanField, g.FullRank, g.LowRank, g.Mixture, g.JointZukoFlow, g.Structured)
    }
    found |= {
        "Amortized": sized(lambda m, x, z, h, a: g.Amortized(m, encoder(x, z, h))),
        "Ladder": sized(lambda m, x, z, h, a: g.Ladder(m, encoder(x, z, h))),
        "UntiedLadder": sized(lambda m, x, z, h, a: g.UntiedLadder(m, encoder(x, z, h), z, h[1:])),
        "IAF": sized(lambda m, x, z, h, a: g.IAF(m, encoder(x, z, h), 2, (max(z) + 1,))),
        "ZukoFlow": sized(lambda m, x, z, h, a: g.ZukoFlow(m, encoder(x, z, h))),
        "TopDown": sized(lambda m, x, z, h, a: g.TopDown(m, FirstFeatures(x, h), z, h)),
        "MarkovTopDown": sized(lambda m, x, z, h, a: g.MarkovTopDown(m, FirstFeatures(x, h), z, h)),
        "Lateral": sized(lambda m, x, z, h, a: g.Lateral(m, FirstFeatures(x, h), h)),
        "BottomUp": sized(lambda m, x, z, h, a: g.BottomUp(x, z, h)),
        "BottomUpBits": sized(lambda m, x, z, h, a: g.BottomUpBits(x, z, h)),
        "StructuredChain": sized(lambda m, x, z, h, a: g.StructuredChain(m, z[0], WIDTH)),
        "PerSite": sized(per_site),
        "AmortizedStructured": sized(structured_network),
        "JointIAF": joint_flow,
        "LadderIAF": sized(lambda m, x, z, h, a: g.LadderIAF(m, a[0].mean(0), 1, (64,))),
        "ConvLadderIAF": sized(lambda m, x, z, h, a: g.ConvLadderIAF(m, a[0].mean(0), 1, WIDTH)),
        "Ridge": lambda model, own, args: g.Ridge(model, WIDTH),
        "CoarseToFine": lambda model, own, args: g.CoarseToFine(model, WIDTH),
        "FactorisedCoarseToFine": lambda model, own, args: g.FactorisedCoarseToFine(model, WIDTH),
        "Exact": lambda model, own, args: g.Exact(model),
        "Conjugate": lambda model, own, args: g.Conjugate(model, getattr(own, "q", None)),
    }
    return found


def table(cells):
    """The matrix as text: ``+`` where a family fits a model, ``.`` where the pair is refused."""
    models, families = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    width = max(map(len, models))
    head = [f"{'':<{width}}  {'| ' * i}{family}" for i, family in enumerate(families)]
    body = [f"{m:<{width}}  {' '.join('.' if cells[m, f] else '+' for f in families)}" for m in models]
    return "\n".join([*head, *body])
