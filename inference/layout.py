"""Where particles and data sit in a site's log-probability, and how it reduces to a row of (particles, batch).

Dimensions are found by the *name* of their plate; a dimension that belongs to none is an error, not a sum.
"""

from dataclasses import dataclass

from pyro.distributions.util import scale_and_mask

DATA = "data"
PARTICLES = "particles"
PROPOSALS = "proposals"  # particles inside a guide that chooses among them


@dataclass(frozen=True)
class Layout:
    """Where particles and data sit in a site's log-probability; ``data_dim`` is None when all latents are global."""

    num_particles: int
    particle_dim: int
    data_dim: int | None
    batch: int

    def table(self, log_prob, site):
        """Sum a site's log-probability over every dimension but particles and data; returns (K, B)."""
        keep = {self.data_dim} if self.data_dim is not None else set()
        if self.num_particles > 1:
            keep.add(self.particle_dim)
        shape = log_prob.shape
        if len(shape) < (size := max((-d for d in keep), default=0)):
            log_prob = log_prob.reshape((1,) * (size - len(shape)) + shape)
        extra = [d for d in range(-log_prob.dim(), 0) if d not in keep]
        plates = {frame.dim for frame in site["cond_indep_stack"]}
        stray = [d for d in extra if log_prob.shape[d] != 1 and d not in plates]
        if extra:
            log_prob = log_prob.sum(extra)
        out = log_prob.reshape(log_prob.shape if self.num_particles > 1 else (1, *log_prob.shape))
        if self.data_dim is None:
            out = out.unsqueeze(-1)
        if stray or out.shape != (self.num_particles, self.batch):
            raise ValueError(
                f"site '{site['name']}': log-probability of shape {tuple(shape)} does not reduce to (particles, batch) = "
                f"({self.num_particles}, {self.batch}). Every batch dimension must be a plate's or the particles': "
                "check to_event() at this site, and that `plates` is the number of plates of the model."
            )
        return out


def log_density(site):
    """A site's log density in nats, masked but unscaled; shape: its batch shape. Errors name the site."""
    try:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    except ValueError as error:
        raise ValueError(f"site '{site['name']}': {error}") from None
    return scale_and_mask(log_prob, 1.0, site["mask"])


def _frame(site, name):
    return next((f for f in site["cond_indep_stack"] if f.name == name and f.vectorized), None)


def lay_out(sites, latents, num_particles, plates):
    """Decide whether the table is per datum or global, and refuse what is neither. Returns (layout, scale).

    :param dict sites: the model's sample sites. Deterministic ones, which carry no density, may lie anywhere.
    :param latents: names of the latent ones.
    """
    sites = {n: s for n, s in sites.items() if not s["infer"].get("_deterministic")}
    frames = {name: _frame(site, DATA) for name, site in sites.items()}
    local = [name for name in latents if frames[name] is not None]
    outside = [name for name in sites if frames[name] is None]
    if local and outside:
        raise ValueError(
            f"site(s) {outside} lie outside plate '{DATA}' while {local} lie inside: a bound per datum is not "
            f"defined when global and local sites mix. Call the plate anything but '{DATA}', and the whole data set is one "
            "datum with a log p(x) of its own; or move the sites into the plate, or train by pyro.infer.Trace_ELBO."
        )
    for name, site in sites.items():
        for f in site["cond_indep_stack"]:
            if f.full_size is not None and f.full_size != f.size and not (local and f.name == DATA):
                raise ValueError(
                    f"site '{name}' lies in the subsampled plate '{f.name}', which is not common to all sites: the "
                    "bound would not be one of the whole data set. Use pyro.infer.Trace_ELBO, or do not subsample."
                )
            if f.vectorized and f.dim < -plates and f.name not in (PARTICLES, PROPOSALS):
                raise ValueError(
                    f"site '{name}' lies in plate '{f.name}' at dim {f.dim}, outside the {plates} plate(s) announced: "
                    f"pass plates={-f.dim} to the bound."
                )
    if not local:
        return Layout(num_particles, -1 - plates, None, 1), 1.0
    frame = frames[local[0]]
    scale = frame.full_size / frame.size if frame.full_size else 1.0
    return Layout(num_particles, -1 - plates, frame.dim, frame.size), scale
