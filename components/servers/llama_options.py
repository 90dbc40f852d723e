"""llama.cpp's options: one place for this machine and for a pod on a cluster."""

KEY_VARIABLE = "LLAMA_API_KEY"
"""From this variable `llama_server` reads the key that it demands."""
SLOTS = 1
"""Requests that llama.cpp computes at a time. Two would each compute the context that the continuations of a question
share, and an answer would depend on what was computed beside it."""


def answering(window: int) -> tuple[str, ...]:
    """The options that can change an answer; `window` is the most tokens of a prompt and its answer."""
    return ("--window", str(window), "--slots", str(SLOTS))
