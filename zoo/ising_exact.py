r"""Exact answers for the Ising model on an L x L torus: Kaufman's partition function, and enumeration in its levels.

.. math:: Z = \tfrac12 (2 \sinh 2\beta)^{N/2} \Big[\prod_r 2\cosh\tfrac{L\gamma_{2r+1}}2
          + \prod_r 2\sinh\tfrac{L\gamma_{2r+1}}2 + \prod_r 2\cosh\tfrac{L\gamma_{2r}}2
          + \prod_r 2\sinh\tfrac{L\gamma_{2r}}2\Big], \quad r = 0 \dots L - 1,

with :math:`\cosh\gamma_l = \cosh 2\beta \coth 2\beta - \cos(\pi l / L)` and :math:`\gamma_0 = 2\beta + \ln\tanh\beta`. That
root is *negative* above the critical temperature, and with it the last product: a table that is widely copied takes its
absolute value and is wrong by up to ln 2 there.

Coupling one, no field, energies in units of the coupling, each bond counted once.

Source: Kaufman (1949), https://doi.org/10.1103/PhysRev.76.1232; Onsager (1944), https://doi.org/10.1103/PhysRev.65.117.
"""

import math

import torch

CRITICAL = 2 / math.log1p(math.sqrt(2))  # temperature of the infinite lattice's transition


def check_lattice(size, temperature):
    """Refuse a torus that counts bonds twice, or a temperature that is none; returns the inverse temperature."""
    if size < 3:
        raise ValueError(f"size must be at least 3, not {size}: on a torus of 2 every bond would count twice")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a positive number, not {temperature}")
    return 1 / temperature


def log_partition(size, temperature):
    """ln Z of the torus and its mean energy.

    :param int size: L, any number from 3 up.
    :param float temperature: T in units of the coupling (Boltzmann's constant is one); the critical one is ``CRITICAL``.
    :returns: ``(ln Z, U)``, floats: nats, and the mean energy of the whole lattice.

    >>> log_z, energy = log_partition(8, CRITICAL)
    >>> round(log_z, 6), round(energy / 64, 6)
    (60.141781, -1.491589)
    """
    with torch.enable_grad():  # the energy is a derivative, asked for inside evaluations, too
        beta = torch.tensor(check_lattice(size, temperature), dtype=torch.float64, requires_grad=True)
        steps = torch.arange(2 * size, dtype=torch.float64) * math.pi / size
        cosh = (2 * beta).cosh() / (2 * beta).tanh() - steps[1:].cos()
        gamma = torch.cat([(2 * beta + beta.tanh().log())[None], torch.acosh(cosh)]) * size / 2
        log_cosh = gamma.abs() + torch.log1p(torch.exp(-2 * gamma.abs()))
        even, odd = log_cosh[::2].sum(), log_cosh[1::2].sum()
        top = torch.maximum(even, odd).detach()
        # products of sinh as products of cosh times tanh, whose sign and whose zero (at the critical point) are kept
        total = (odd - top).exp() * (1 + gamma[1::2].tanh().prod()) + (even - top).exp() * (
            1 + gamma[::2].tanh().prod()
        )
        log_sinh = 2 * beta + torch.log1p(-torch.exp(-4 * beta))  # ln(2 sinh 2b)
        log_z = -math.log(2) + size**2 / 2 * log_sinh + top + total.log()
        (slope,) = torch.autograd.grad(log_z, beta)
    return log_z.item(), -slope.item()


def energy(lattice):
    """Energy of spins of +-1 on the torus: minus the sum over bonds; (..., L, L) to (...)."""
    return -(lattice * (lattice.roll(1, -1) + lattice.roll(1, -2))).sum((-1, -2))


def field(lattice):
    """Sum of the four neighbours of each spin; (..., L, L) to the same."""
    return lattice.roll(1, -1) + lattice.roll(-1, -1) + lattice.roll(1, -2) + lattice.roll(-1, -2)


def all_spins(number):
    """All 2^number rows of spins of +-1, the first spin the most significant; (2^number, number), float64."""
    states = torch.arange(2**number).unsqueeze(-1)
    return (states >> torch.arange(number - 1, -1, -1) & 1) * 2.0 - 1.0


def enumerate_levels(model):
    """ln p of the coarse lattices of a 4 x 4 model, by enumeration of its 65,536 states.

    :param model: an :class:`~pyrarchy.zoo.Ising` of size 4.
    :returns: ``(lattices (65536, 4, 4), tables)``: the states with the spins of the top level most significant, and
        per level, top first, ln p of the lattice down to that level, (2^n,) for a lattice of n spins: entry s
        belongs to the states s * 2^(16 - n) and following.
    """
    if model.size != 4:
        raise ValueError(f"enumeration needs a lattice of 4 x 4, not {model.size} x {model.size}")
    spins = all_spins(16).double()
    lattices = model.assemble(spins)
    log_p = -energy(lattices) / model.temperature
    log_p = log_p - log_p.logsumexp(0)
    counts = [len(places) for places in model.levels.values()]
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return lattices, [log_p.reshape(2**n, -1).logsumexp(-1) for n in ends]


def magnetisation(size, temperature):
    """Exact distribution of the total magnetisation, by transfer matrices in an imaginary field (size up to 8 or so).

    :returns: ``(values, probabilities)`` of the sum of all spins, (L^2 + 1,) each, float64.
    """
    beta, number = check_lattice(size, temperature), size**2
    rows = all_spins(size).double()
    inside = (rows * rows.roll(1, -1)).sum(-1)
    weight = torch.exp(beta * (rows @ rows.T + (inside.unsqueeze(-1) + inside) / 2 - 2 * size))
    up = (rows > 0).double().sum(-1)
    modes = []
    for k in range(number + 1):  # the characteristic function of the number of spins up
        phase = torch.exp(1j * math.pi * k / (number + 1) * up)  # half from the row above, half from the one below
        step = phase.unsqueeze(-1) * weight * phase
        modes.append(torch.linalg.matrix_power(step, size).trace())
    count = torch.arange(number + 1, dtype=torch.float64)
    angle = 2 * math.pi / (number + 1) * count
    found = (torch.exp(-1j * angle * count.unsqueeze(-1)) * torch.stack(modes)).sum(-1).real
    values = 2 * count - number
    return values, found / found.sum()


def log_sublattice(size, temperature):
    """ln of the summed Boltzmann weight of every other spin of every other row, by transfer matrices.

    :param int size: L, 4 or 8.
    :returns: tensor of shape (2^(L/2),) * (L/2), float64: axis r is the state of the r-th kept row, as :func:`all_spins`
        numbers it; summed up it is Z.
    """
    if size not in (4, 8):
        raise ValueError(f"the sublattice of {size} x {size} cannot be tabulated: size must be 4 or 8")
    beta, half = check_lattice(size, temperature), size // 2
    rows = all_spins(size).double()
    inside = (rows * rows.roll(1, -1)).sum(-1)
    between = torch.exp(
        beta * (rows @ rows.T + (inside.unsqueeze(-1) + inside) / 2 - 2 * size)
    )  # row to row, from its top
    weights = 2 ** torch.arange(half - 1, -1, -1)
    kept = ((rows[:, ::2] > 0).long() * weights).sum(-1)
    free = ((rows[:, 1::2] > 0).long() * weights).sum(-1)
    order = torch.empty(2**half, 2**half, dtype=torch.long)
    order[kept, free] = torch.arange(2**size)
    two = (between @ between)[order][..., order].permute(0, 2, 1, 3)  # kept, kept, free, free
    # two is (2^h, 2^h, 2^h, 2^h); chain them around the torus, row after row
    chain = two
    for _ in range(half - 2):
        # chain: kept rows ..., last kept row, first free, last free
        lead = chain.shape[:-3]
        chain = torch.einsum("xkab,kmbc->xkmac", chain.reshape(-1, *chain.shape[-3:]), two)
        chain = chain.reshape(*lead, *chain.shape[1:])
    first, last = chain.shape[0], chain.shape[-3]
    flat = chain.reshape(first, -1, last, *chain.shape[-2:])
    closed = torch.einsum("fxlab,lfba->fxl", flat, two).reshape(chain.shape[:-2])
    return closed.log() + 2 * beta * size * size


def log_levels(model, lattice):
    """Exact ln p of a lattice's spins down to each level, all finer ones summed out; sizes 4 and 8.

    The finest level but one is the other colour of the checkerboard, whose neighbours sum out in closed form; those above
    lie on the sublattice of :func:`log_sublattice`.

    :param model: an :class:`~pyrarchy.zoo.Ising`.
    :param lattice: spins of +-1, (..., L, L).
    :returns: dictionary site -> (...), top first, float64; the last is ln p of the whole lattice.
    """
    lattice, half, names = lattice.double(), model.size // 2, list(model.levels)
    number, beta = half**2, 1 / model.temperature
    table = log_sublattice(model.size, model.temperature).flatten()  # its states number the sublattice row by row
    log_z = table.logsumexp(0)
    places = [place for name in names[:-2] for place in model.levels[name]]
    digits = torch.tensor([number - 1 - (i // 2 * half + j // 2) for i, j in places])
    in_order = table[((all_spins(number) > 0).long() << digits).sum(-1)] - log_z  # the top's spin most significant
    kept = (model.disassemble(lattice)[..., :number] > 0).long() << torch.arange(number - 1, -1, -1)
    state, out, above = kept.sum(-1), {}, 0
    for name in names[:-2]:
        above += len(model.levels[name])
        out[name] = in_order.reshape(2**above, -1).logsumexp(-1)[state >> (number - above)]
    index = torch.arange(model.size)
    odd = (index.unsqueeze(-1) + index) % 2 == 1
    around = beta * field(lattice * ~odd)[..., odd]
    out[names[-2]] = torch.logaddexp(around, -around).sum(-1) - log_z
    out[names[-1]] = -beta * energy(lattice) - log_z
    return out
