"""The options of `quantgate judge`, `arena` and `vibe`, as values that import nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from quantgate.components.errors import PrerequisiteError

JUDGE_CONCURRENCY = 8
JUDGE_TIMEOUT_S = 120.0
JUDGE_MAX_TOKENS = 2048
MODEL_CONCURRENCY = 16
MAX_TOKENS = 1024
ENOUGH, MOST = 50, 100
"""Prompts on a page: fewer show only large differences, and people do not read more."""
PAGE, KEY = "page/vibe.html", "key.json"
"""The page for blind votes in the output folder, and its key, which stays out of the page's folder."""


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge, and how it is asked."""

    url: str
    model: str
    key_variable: str = ""
    """The environment variable with its API key; empty for none."""
    concurrency: int = JUDGE_CONCURRENCY
    timeout_s: float = JUDGE_TIMEOUT_S
    digest: str = ""
    """The digest of its weights, where the user knows it."""
    max_tokens: int = JUDGE_MAX_TOKENS
    """Most tokens of an answer; at most half of the judge's window, where its server reports one."""


def named_judge(url: str, model: str, key_variable: str) -> JudgeOptions | None:
    """The judge of rubrics; None where none is named. Raises PrerequisiteError for an incomplete one."""
    if bool(url) != bool(model) or (key_variable and not url):
        raise PrerequisiteError("A judge needs both its URL and its served name: --judge URL --judge-model NAME.")
    return JudgeOptions(url, model, key_variable) if url else None


@dataclass(frozen=True)
class Panel:
    """The models and the questions, and how the models are asked."""

    baseline: str
    variants: tuple[str, ...]
    models: tuple[str, ...]
    """The served names, the baseline's first; empty for each server's first."""
    questions: str
    """`mt-bench`, or a JSONL file."""
    out: Path
    data: str = ""
    """Where MT-Bench's rows come from."""
    references: Path | None = None
    limit: int = 0
    max_tokens: int = MAX_TOKENS
    seed: int = 0
    concurrency: int = MODEL_CONCURRENCY
