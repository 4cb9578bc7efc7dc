"""The jobs: one module each, run by `python -m jobs.NAME CONFIG.toml`."""
