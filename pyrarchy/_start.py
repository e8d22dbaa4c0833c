"""Import torch and Pyro with Python's collector of reference cycles off, which takes a fifth off a process's start.

Some hundred thousand objects are made on the way and stay, and the collector would search them for garbage four hundred
times to find none. Each of the rooms imports this before anything else; the collector is afterwards as it was.
"""

import gc

_enabled = gc.isenabled()
gc.disable()
try:
    import pyro.infer
    import torch
finally:
    if _enabled:
        gc.enable()

__all__ = ["pyro", "torch"]
