"""Turnwire: a conversation server between people's front ends and language models."""

from importlib.metadata import version

__version__ = version("turnwire")
