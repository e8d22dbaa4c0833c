"""``python -m benchmarks.epoch_numpyro_scan FILE BATCH``: the same epoch as one compiled ``lax.scan``; the mean loss."""

import sys

import numpy as np

from benchmarks.numpyro_svi import make_model_and_guide, make_svi, numpyro_loop
from benchmarks.numpyro_weights import random_weights

x = np.load(sys.argv[1]).astype(np.float32)
rng, size = np.random.default_rng(0), int(sys.argv[2])
svi = make_svi(*make_model_and_guide(random_weights(rng, x.mean(0)), x.mean(0)), 1)
order = rng.permutation(len(x))[: len(x) // size * size].reshape(-1, size)
print(numpyro_loop(svi, x[order])())
