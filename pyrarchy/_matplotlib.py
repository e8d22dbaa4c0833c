"""The first import of matplotlib, which may find no home folder. What draws is imported after this."""

from .imports import without_a_home

with without_a_home():
    import matplotlib

__all__ = ["matplotlib"]
