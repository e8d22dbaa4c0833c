"""``python -m benchmarks.epoch_numpyro FILE BATCH``: one epoch of NumPyro's VAE, a jitted update a step; the mean loss."""

import sys

import numpy as np

from benchmarks.numpyro_svi import make_model_and_guide, make_svi, numpyro_step
from benchmarks.numpyro_weights import random_weights

x = np.load(sys.argv[1]).astype(np.float32)
rng, size = np.random.default_rng(0), int(sys.argv[2])
svi = make_svi(*make_model_and_guide(random_weights(rng, x.mean(0)), x.mean(0)), 1)
order = rng.permutation(len(x))[: len(x) // size * size].reshape(-1, size)
step = numpyro_step(svi, (x[rows] for rows in order), x[:size])
losses = [step() for _ in order]
print(sum(losses) / len(losses))
