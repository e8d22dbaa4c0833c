"""Side-by-side timings against hand-written PyTorch, Pyro, NumPyro and scikit-learn: ``python -m benchmarks.run``."""
