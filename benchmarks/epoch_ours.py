"""``python -m benchmarks.epoch_ours FILE BATCH``: one epoch of our VAE on a file of bits; prints the mean loss."""

import sys

import numpy as np
import torch
from torch import nn

from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import fit
from pyrarchy.zoo import VAE

x = torch.from_numpy(np.load(sys.argv[1])).float()
mean = x.mean(0)
model = VAE(x.shape[1], 50, (200, 200), mean)
guide = Amortized(model, Encoder(x.shape[1], (50,), ((200, 200),), mean, nn.Tanh))
record = fit(model, guide, x, epochs=1, batch_size=int(sys.argv[2]))
print(sum(record.losses) / len(record.losses))
