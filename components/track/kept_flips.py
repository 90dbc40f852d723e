"""The tables of flips that the gate left in the results."""

import json
from typing import Any

from components.models.variants import VARIANTS
from components.storage.location import open_store


def tables_of_flips(results: str) -> dict[str, dict[str, list[Any]]]:
    """What `kept_flips` left in the results, by variant."""
    store = open_store(results)
    texts = {name: store.get_text(f"variants/{name}/flips.json") for name in VARIANTS}
    return {name: json.loads(text) for name, text in texts.items() if text}
