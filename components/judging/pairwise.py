"""Compare a variant's replies with the baseline's, question by question, each pair in both orders.

If the two verdicts disagree, the pair is a tie, as in MT-Bench's pairwise protocol. If one of them is missing, the
question is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quantgate.components.judging.arena import PositionBias, position_bias, share_of
from quantgate.components.judging.chat_questions import ChatQuestion
from quantgate.components.judging.grading import Failure, failed_replies
from quantgate.components.judging.judge_endpoint import Judge
from quantgate.components.judging.judge_prompts import JudgeTask, compare_task, read_choice
from quantgate.components.judging.replies import ChatReplies

Advance = Callable[[int, int, str], None]
BASELINE_FIRST, VARIANT_FIRST = "baseline first", "variant first"


@dataclass(frozen=True)
class PairVerdicts:
    """Each variant's share of a win by question, None where a verdict is missing, and what is missing."""

    shares: Mapping[str, Mapping[str, float | None]]
    bias: PositionBias
    failures: tuple[Failure, ...]


def compared(
    judge: Judge,
    questions: Sequence[ChatQuestion],
    replies: Mapping[str, Mapping[str, ChatReplies]],
    advance: Advance,
) -> PairVerdicts:
    """The judge's comparisons; `replies` are by model and question, the baseline's first."""
    baseline, *variants = replies
    tasks: dict[tuple[str, str, str], JudgeTask] = {}
    for variant in variants:
        for question in questions:
            one, other = replies[baseline][question.id], replies[variant][question.id]
            if one.failure or other.failure:
                continue
            tasks[variant, question.id, BASELINE_FIRST] = compare_task(question, one.turns, other.turns)
            tasks[variant, question.id, VARIANT_FIRST] = compare_task(question, other.turns, one.turns)

    def about(name: tuple[str, str, str]) -> dict[str, object]:
        variant, question, order = name
        return {"kind": "compare", "baseline": baseline, "model": variant, "question": question, "order": order}

    asked = judge.ask_all(tasks, read_choice, about, advance)
    both: dict[tuple[str, str], tuple[str, str]] = {}
    for variant, name, _ in tasks:
        first, second = (asked[variant, name, order] for order in (BASELINE_FIRST, VARIANT_FIRST))
        if not first.failure and not second.failure:
            both[variant, name] = first.verdict, second.verdict
    failures = failed_replies(questions, replies)
    failures += [Failure(task[0], task[1], f"{task[2]}: {one.failure}") for task, one in asked.items() if one.failure]
    shares = {
        variant: {
            question.id: share_of(*both[variant, question.id]) if (variant, question.id) in both else None
            for question in questions
        }
        for variant in variants
    }
    return PairVerdicts(shares, position_bias(list(both.values())), tuple(failures))
