"""What a checkpoint must not hold: a weight, a statistic or an optimiser's memory that is not finite."""

import torch

from .isolation import root_modules


class FiniteWatch:
    """Watch over what is saved of a pair; a buffer that is not finite from the start (a mask) may stay so."""

    def __init__(self, model, guide):
        self.roots = root_modules(model, guide)
        self.infinite = {name for name, buffer in self._buffers() if not torch.isfinite(buffer).all()}

    def _buffers(self):
        return [item for root in self.roots for item in root.named_buffers()]

    def first_bad(self, parameters, optimizer):
        """The first tensor with a number that is not finite, in words, or ``None``.

        :param dict parameters: name -> parameter, in the optimiser's order.
        """
        memory = optimizer.state_dict().get("state", {})
        held = [(f"parameter '{name}'", tensor) for name, tensor in parameters.items()]
        held += [(f"buffer '{name}'", buffer) for name, buffer in self._buffers() if name not in self.infinite]
        held += [
            (f"the optimiser's {what} of '{name}'", value)
            for number, name in enumerate(parameters)
            for what, value in memory.get(number, {}).items()
            if isinstance(value, torch.Tensor)
        ]
        return next((words for words, tensor in held if not torch.isfinite(tensor).all()), None)
