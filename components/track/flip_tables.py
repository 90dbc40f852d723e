"""The tables of flips that the gate wrote into the results."""

import json
from collections.abc import Iterable
from typing import Any

from quantgate.components.run.results import RunResults


def read_flip_tables(results: RunResults, variants: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """By variant, the table of the questions that it answers differently from the baseline: columns by name."""
    texts = {name: results.flips(name).text() for name in variants}
    return {name: json.loads(text) for name, text in texts.items() if text}
