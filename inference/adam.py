"""Adam over all parameters in one fused call, without what building a ``torch.optim`` optimiser imports (a second, 70 MB).

Same kernel, same numbers and same state as ``torch.optim.Adam(fused=True)``.

Source: Kingma and Ba (2015), https://arxiv.org/abs/1412.6980.
"""

from functools import partial

import torch

FUSED = hasattr(torch, "_fused_adam_")  # not a public name


class Adam:
    """Adam on the ``grad`` of each tensor; a tensor without one is passed over, as in ``torch.optim``.

    :param tensors: leaf tensors. :param float lr: learning rate (``param_groups[0]["lr"]`` may be set at any time).
    :param betas: decay of the two moments. :param float eps: added to the root of the second.
    """

    def __init__(self, tensors, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        tensors = list(tensors)
        self.param_groups = [{"params": tensors, "lr": lr, "betas": tuple(betas), "eps": eps}]
        self.moments = [[torch.zeros_like(t, memory_format=torch.preserve_format) for t in tensors] for _ in range(2)]
        self.steps = torch.zeros(len(tensors), device=tensors[0].device if tensors else None)
        self._each = list(self.steps)  # views: one addition counts them all

    @torch.no_grad()
    def step(self):
        """One step."""
        (group,) = self.param_groups
        params, steps = group["params"], self._each
        grads = [p.grad for p in params]
        first, second = self.moments
        if all(g is not None for g in grads):
            self.steps += 1
        else:
            rows = [row for row in zip(params, grads, first, second, steps, strict=True) if row[1] is not None]
            if not rows:
                return
            params, grads, first, second, steps = map(list, zip(*rows, strict=True))
            for step in steps:
                step += 1
        beta1, beta2 = group["betas"]
        torch._fused_adam_(
            params, grads, first, second, [], steps,
            lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

    def zero_grad(self, set_to_none=True):
        """Forget the gradients."""
        for p in self.param_groups[0]["params"]:
            p.grad = None

    def state_dict(self):
        """The state in the form of ``torch.optim.Adam``."""
        (group,) = self.param_groups
        state = {
            i: {"step": step.clone(), "exp_avg": m, "exp_avg_sq": v}
            for i, (step, m, v) in enumerate(zip(self._each, *self.moments, strict=True))
            if step.item()
        }
        return {"state": state, "param_groups": [{**group, "params": list(range(len(group["params"])))}]}

    @torch.no_grad()
    def load_state_dict(self, state):
        """Take over a state of this class or of ``torch.optim.Adam``."""
        for i, held in state["state"].items():
            self._each[i].fill_(float(held["step"]))
            self.moments[0][i].copy_(held["exp_avg"])
            self.moments[1][i].copy_(held["exp_avg_sq"])
        (loaded,) = state["param_groups"]
        self.param_groups[0].update(lr=loaded["lr"], betas=tuple(loaded["betas"]), eps=loaded["eps"])


def adam(lr=1e-3, **options):
    """A factory of fused Adam, for ``fit(optimizer=adam(1e-3))``; options are those of ``torch.optim.Adam``."""
    if FUSED and set(options) <= {"betas", "eps"}:
        return partial(Adam, lr=lr, **options)
    return partial(torch.optim.Adam, lr=lr, fused=FUSED or None, **options)
