"""A model's window: the most tokens of a prompt and its answer together."""

import json
from pathlib import Path
from typing import Any

UNKNOWN = 2048
"""The window of a model whose configuration names none: lm-eval's default."""


def model_config(folder: Path) -> dict[str, Any]:
    """The model's config.json; for a multimodal model its text_config."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config", config)
    return text


def model_window(folder: Path) -> int:
    """The window that the model's configuration names."""
    return int(model_config(folder).get("max_position_embeddings") or UNKNOWN)


def served_window(needed: int, largest: int) -> int:
    """The window to serve a model with: at least 2,048 and what the prompts need, rounded up to a power of two.

    Rounded, because another window may change answers: suites that need almost the same share a server's answers.
    `largest` is the model's own window.
    """
    return min(largest, max(UNKNOWN, 1 << (needed - 1).bit_length()))
