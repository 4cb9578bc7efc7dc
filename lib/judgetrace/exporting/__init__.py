"""Traces in the forms that other tools train on or review."""
