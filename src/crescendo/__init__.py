"""crescendo: image classifiers that start small and grow."""

from importlib.metadata import version

__version__ = version("crescendo")
