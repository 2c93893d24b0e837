"""The version, alone, so that what is built and what is recorded can both read it."""

__version__ = "0.2.0"
