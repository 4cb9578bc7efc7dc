"""Infer thinking traces from human labels, and use them to make LLM raters reliable."""

__version__ = "0.1.0"
