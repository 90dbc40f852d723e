"""Thinking text: split from a reasoning model's answer before the answer is scored.

A reasoning model writes `<think>…</think>` before its answer (Qwen3, DeepSeek-R1). Some chat templates put the opening
tag into the prompt, so that the text has only the closing one. As in lm-eval (`think_end_token`), the answer is what
follows the last closing tag, and stop sequences apply to the answer alone: thinking text often contains them.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tags:
    """The marks around thinking text."""

    opening: str
    closing: str

    def open_in(self, prompt: str) -> bool:
        """Whether the prompt ends inside a thinking block: the model starts by thinking."""
        return prompt.rstrip().endswith(self.opening)

    def known_to(self, template: str) -> bool:
        """Whether a chat template deals with thinking text, so that its model writes such text."""
        return self.closing in template


THINK = Tags("<think>", "</think>")
"""The tags of Qwen3, QwQ, DeepSeek-R1 and its distilled models."""


@dataclass(frozen=True)
class Reply:
    """A generated text in its two parts, without the tags."""

    thinking: str
    answer: str
    unfinished: bool = False
    """Whether the text ends inside the thinking: the model gave no answer."""


def split(text: str, tags: Tags = THINK, *, opened: bool = False) -> Reply:
    """The thinking and the answer of a generated text; the answer of an unfinished thought is empty.

    `opened` says that the prompt already ends with the opening tag.
    """
    before, closed, rest = text.rpartition(tags.closing)
    unfinished = rest.lstrip().startswith(tags.opening) or (opened and not closed)
    if unfinished:
        return Reply(_thought(text, tags), "", unfinished=True)
    return Reply(_thought(before, tags), rest.lstrip() if closed else text)


def until(answer: str, stops: Sequence[str]) -> str:
    """The answer up to the first of the stop sequences; an empty one is ignored."""
    ends = [end for stop in stops if stop and (end := answer.find(stop)) >= 0]
    return answer[: min(ends)] if ends else answer


def _thought(text: str, tags: Tags) -> str:
    """The text without any tags around and between its blocks."""
    blocks = text.replace(tags.closing, tags.opening).split(tags.opening)
    return "\n".join(block.strip() for block in blocks if block.strip())
