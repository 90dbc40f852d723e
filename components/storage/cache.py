"""The cache of downloads and conversions."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder of downloads and conversions: $QUANTGATE_CACHE, or `quantgate` in the XDG cache."""
    if folder := os.environ.get("QUANTGATE_CACHE"):
        return Path(folder).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantgate"
