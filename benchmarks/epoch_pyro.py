"""``python -m benchmarks.epoch_pyro FILE BATCH``: one epoch of Pyro's VAE on a file of bits; prints the mean loss."""

import sys

import numpy as np
import torch

from benchmarks.by_hand import HandVAE
from benchmarks.pyro_svi import PyroVAE, pyro_step

x = torch.from_numpy(np.load(sys.argv[1])).float()
vae = PyroVAE(HandVAE(x.shape[1], 50, (200, 200), x.mean(0)).start())
order = torch.randperm(len(x)).split(int(sys.argv[2]))
step = pyro_step(vae.model, vae.guide, (x[rows] for rows in order), 1)
losses = [step() for _ in order]
print(sum(losses) / len(losses))
