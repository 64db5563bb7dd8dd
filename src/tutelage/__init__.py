"""Train language models with teachers when data or compute is scarce."""

__version__ = "0.1.0"
