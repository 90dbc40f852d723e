"""A model's window: the most tokens of a prompt and its answer together."""

import json
from pathlib import Path
from typing import Any

UNKNOWN = 2048
"""The window of a model whose configuration names none: the default of lm-eval and of vLLM."""
KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""The names of a model's window in its configuration, as vLLM knows them: GPT-2 has `n_positions`."""


def model_config(folder: Path) -> dict[str, Any]:
    """The model's config.json; for a multimodal model its text_config."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config") or config
    return text


def own_window(folder: Path) -> int | None:
    """The window that the model's configuration names, the smallest of several; None for none, as of Mamba."""
    config = model_config(folder)
    return min((int(config[key]) for key in KEYS if config.get(key)), default=None)


def model_window(folder: Path) -> int:
    """The window that the model's configuration names, or UNKNOWN."""
    return own_window(folder) or UNKNOWN


def served_window(needed: int, largest: int) -> int:
    """The window to serve a model with: at least 2,048 and what the prompts need, rounded up to a power of two.

    Rounded, because another window may change answers: suites that need almost the same share a server's answers.
    `largest` is the model's own window.
    """
    return min(largest, max(UNKNOWN, 1 << (needed - 1).bit_length()))
