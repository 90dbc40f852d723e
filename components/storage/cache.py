"""Where downloads and conversions are kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where downloads and conversions are kept: $QUANTGATE_CACHE, or `quantgate` in the XDG cache."""
    if chosen := os.environ.get("QUANTGATE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantgate"
