"""Thinking text is split from the answer before the answer is scored."""

import pytest

from quantgate.components.benchmarks.thinking import THINK, Reply, Tags, split, until


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\n2 + 2 is 4.\n</think>\n\n#### 4", Reply("2 + 2 is 4.", "#### 4")),
        ("<think>\n\n</think>\n\n#### 4", Reply("", "#### 4")),
        ("#### 4", Reply("", "#### 4")),
        ("  #### 4\n", Reply("", "  #### 4\n")),
        ("The tag <think> starts a thought.", Reply("", "The tag <think> starts a thought.")),
        ("<think>one</think> so <think>two</think> #### 4", Reply("one\nso\ntwo", "#### 4")),
    ],
)
def test_the_answer_is_what_follows_the_last_closing_tag(text: str, expected: Reply) -> None:
    assert split(text) == expected


def test_the_opening_tag_may_be_in_the_prompt() -> None:
    assert THINK.open_in("<|im_start|>assistant\n<think>\n")
    assert not THINK.open_in("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert split("2 + 2 is 4.\n</think>\n#### 4", opened=True) == Reply("2 + 2 is 4.", "#### 4")
    assert split("2 + 2 is 4.\n</think>\n#### 4") == Reply("2 + 2 is 4.", "#### 4")


@pytest.mark.parametrize(
    ("text", "opened", "thinking"),
    [
        ("<think>\nIt could be #### 5, but", False, "It could be #### 5, but"),
        ("It could be #### 5, but", True, "It could be #### 5, but"),
        ("<think>one</think>\n<think>two", False, "one\ntwo"),
        ("", True, ""),
    ],
)
def test_an_answer_cut_while_thinking_is_empty(text: str, opened: bool, thinking: str) -> None:
    assert split(text, opened=opened) == Reply(thinking, "", unfinished=True)


def test_other_tags_can_be_set() -> None:
    tags = Tags("[THINK]", "[/THINK]")
    assert split("[THINK]a[/THINK]b", tags) == Reply("a", "b")
    assert tags.known_to("… [/THINK] …")
    assert not THINK.known_to("… [/THINK] …")


def test_stop_sequences_end_the_answer_not_the_thinking() -> None:
    reply = split("<think>Question: what is 2 + 2?\n\nFour.</think>\n#### 4\n\nQuestion: next")
    assert until(reply.answer, ["Question:", "\n\n", ""]) == "#### 4"
    assert until("#### 4", ["Question:"]) == "#### 4"
