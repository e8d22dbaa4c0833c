r"""How far a coarse-to-fine guide is from the Boltzmann distribution, level by level.

.. math:: KL(q \| p) = \sum_l E_q\big[\ln q(s_l | s_{>l}) - \ln p(s_l | s_{>l})\big]

p given the levels above is exact for lattices of 4 and 8 (:func:`~pyrarchy.zoo.ising_exact.log_levels`). Of 4 x 4 the
expectation is exact too, over all 65,536 lattices; of 8 x 8 it is a mean over draws of the guide.
"""


def level_kls(model, guide, num=10_000, seed=0):
    """KL(q || p) of every level given those above it.

    :param model: an :class:`~pyrarchy.zoo.Ising` of size 4 or 8. :param guide: a
        :class:`~pyrarchy.guides.CoarseToFine` of it.
    :param int num: draws, for size 8.
    :param int seed: their seed.
    :returns: dictionary site -> (KL, standard error), nats, top first; ``"all"`` last, their sum. Errors are zero where
        the expectation is exact.
    """
    import torch

    from .inference import isolated
    from .zoo.ising_exact import all_spins, log_levels

    with isolated(model, guide, seed=seed), torch.no_grad():
        if model.size == 4:
            lattices = model.assemble(all_spins(16))
        else:
            lattices = guide.resample(model.fair.new_ones(num, model.size, model.size), next(iter(model.levels)))
        log_q = {name: value.double() for name, value in guide.log_prob(lattices.to(model.fair.dtype)).items()}
        log_p, above, ratios = log_levels(model, lattices), 0.0, {}
    for name, value in log_q.items():
        ratios[name], above = value - (log_p[name] - above), log_p[name]
    ratios["all"] = sum(log_q.values()) - above
    if model.size == 4:
        weight = sum(log_q.values()).exp()
        return {name: ((weight * ratio).sum().item(), 0.0) for name, ratio in ratios.items()}
    return {name: (ratio.mean().item(), ratio.std().item() / num**0.5) for name, ratio in ratios.items()}
