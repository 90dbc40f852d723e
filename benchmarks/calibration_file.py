"""The embedded calibration passages as a file for the program `compress`."""

import json
from pathlib import Path

from quantgate.components.benchmarks.calibration_rows import passages


def write_passages(file: Path, count: int) -> Path:
    """Write the first passages, a JSON object a line; returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [row.plain for row in passages()[:count]]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file
