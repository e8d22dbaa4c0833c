"""What the codes say about labels that the model never saw, in nats."""

import xarray

from .section import LOWER, NotApplicable, Section, numbers, section

MOST = 2000


@section("labels", "What the codes say about the labels")
def labels(context):
    """A lower bound on I(label; z) of every layer, by the held-out error of a classifier."""
    if context.labels is None:
        raise NotApplicable("the data have no labels")
    context.need_local()
    from .inference import encode, label_information

    names, args = context.labels[:MOST], tuple(part[:MOST] for part in context.args)
    drawn = encode(context.model, context.guide, args, draws=1, seed=context.seed, plates=context.plates)
    codes = {name: code[0].reshape(len(names), -1) for name, code in drawn.items()}
    found = {
        name: label_information(codes[name], names) for name in sorted(codes, key=lambda n: (len(n), n), reverse=True)
    }
    entropy = next(iter(found.values())).entropy
    data = {
        "information": numbers("layer", [i.nats for i in found.values()], "nats", LOWER),
        "error": numbers("layer", [i.error for i in found.values()], "nats", what="standard error over the data"),
    }
    words = [
        f"A draw of {name} holds at least {max(i.nats, 0):.2f} ± {i.error:.2f} of the {entropy:.2f} nats of the label."
        for name, i in found.items()
    ]
    return Section(xarray.Dataset(data, {"layer": list(found)}, {"entropy": entropy, "unit": "nats"}), words)
