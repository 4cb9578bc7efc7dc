"""Infer thinking traces from human labels, and use them to make LLM raters reliable."""
