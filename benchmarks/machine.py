"""What the comparisons run on: the machine in one line, one thread, one core."""

import importlib.util
import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "scikit-learn", "numpy")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}


def machine():
    """CPU model, cores and versions, in one line."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return f"{cpu()}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(found)}"


def cpu():
    """The CPU's model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def installed(package):
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def pin():
    """Keep this process and its children on one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def one_thread():
    """Say so to torch, too, which may have been imported before the environment was read."""
    import torch

    torch.set_num_threads(1)


def children_clock():
    """CPU seconds of the child processes that have ended: on an idle machine and one core, their wall time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
