"""Calibration texts as `resolve` leaves them in a run's results."""

import hashlib
import json
from pathlib import Path

from quantgate.components.benchmarks.calibration_rows import passages
from quantgate.components.run.calibration import Calibration
from quantgate.components.run.results import RunResults


def embedded_calibration(results: Path, samples: int, tokens: int) -> Calibration:
    """The first embedded passages, whose file is now in the results."""
    texts = [row.plain for row in passages()[:samples]]
    content = "".join(json.dumps({"text": text, "templated": False}) + "\n" for text in texts)
    RunResults(str(results)).calibration_texts.put_text(content)
    return Calibration(samples=samples, tokens=tokens, sha256=hashlib.sha256(content.encode()).hexdigest())
