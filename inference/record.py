"""What a fit leaves: its curves in nats per datum, with the value at temperature one beside the training loss."""

import csv
import io
from dataclasses import dataclass, field


@dataclass
class Record:
    """Curves of a fit, one entry per step.

    :ivar str objective: the objective in words.
    :ivar bool is_lower_bound: whether minus the loss bounds log p(x) from below in expectation (at temperature one).
    :ivar list losses: training loss, nats per datum, at the step's temperature.
    :ivar list values: value of the objective at temperature one, nats per datum, before the step was taken.
    :ivar list temperatures: beta of the step (1 without a warm-up).
    :ivar list grad_norms: global gradient norm before clipping, of the loss per datum.
    :ivar list learning_rates: learning rate of the step.
    :ivar int step: steps taken.
    :ivar float seconds: wall time of this process, set-up included.
    :ivar list remarks: what happened on the way, in words.
    :ivar str path: how the steps were computed, by a tape or under Pyro and then why, in words.
    :ivar int threads: on how many threads, and ``threads_why``; ``None`` where no number was asked for.
    """

    objective: str = ""
    is_lower_bound: bool = True
    losses: list = field(default_factory=list)
    values: list = field(default_factory=list)
    temperatures: list = field(default_factory=list)
    grad_norms: list = field(default_factory=list)
    learning_rates: list = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    remarks: list = field(default_factory=list)
    path: str = ""
    threads: int | None = None
    threads_why: str = ""

    CURVES = ("losses", "values", "temperatures", "grad_norms", "learning_rates")

    def append(self, loss, value, temperature, grad_norm, learning_rate):
        """Add one step."""
        self.losses.append(loss)
        self.values.append(value)
        self.temperatures.append(temperature)
        self.grad_norms.append(grad_norm)
        self.learning_rates.append(learning_rate)
        self.step += 1

    def describe_threads(self):
        """On how many threads and why, in words."""
        return f"{self.threads} thread{'s' if self.threads > 1 else ''} ({self.threads_why})" if self.threads else ""

    def to_csv(self):
        """The curves as text: step, loss, value, temperature, grad_norm, learning_rate."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "loss", "value", "temperature", "grad_norm", "learning_rate"])
        columns = [getattr(self, name) for name in self.CURVES]
        writer.writerows([i, *(f"{v:.9g}" for v in row)] for i, row in enumerate(zip(*columns, strict=True), 1))
        return out.getvalue()
