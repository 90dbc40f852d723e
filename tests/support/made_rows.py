"""A few made rows for each data set of the shipped suites, in the shape of the real ones."""

from collections.abc import Callable
from typing import Any

import datasets

from quantgate.components.benchmarks import ifeval
from quantgate.components.benchmarks.splits import Rows, Split

NUMBERS = ("one", "two", "three", "four", "five", "six")
SOLVED = "We add. The result is $\\boxed{%d}$."


def gpqa(n: int) -> dict[str, Any]:
    wrong = {f"Incorrect Answer {k}": f"wrong {k} of {n}" for k in (1, 2, 3)}
    return {"Question": f"Question {n}?", "Correct Answer": f"right of {n}", **wrong}


def mmlu_pro(n: int) -> dict[str, Any]:
    options = [f"option {k} of {n}" for k in range(10)]
    return {"question": f"Question {n}?", "options": options, "answer": "C", "answer_index": 2, "category": "law"}


def math(n: int) -> dict[str, Any]:
    solution = SOLVED % n
    return {"problem": f"What is {n}?", "level": f"Level {n % 5 + 1}", "solution": solution, "answer": str(n)}


def instruction(n: int) -> dict[str, Any]:
    return {
        "key": n,
        "prompt": f"Write about {NUMBERS[n]} without commas.",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{"num_words": None}, {"num_words": None}],
    }


def mystery(n: int) -> dict[str, Any]:
    choices = ["Ada", "Ben", "Cleo"]
    answer = {"answer_index": n % 3, "answer_choice": choices[n % 3]}
    return {"narrative": f"Story {n}.", "question": "Who was it?", "choices": str(choices), **answer}


def word_problem(n: int) -> dict[str, Any]:
    return {"question": f"Sum {n}?", "answer": f"It is {n}.\n#### {n}"}


def haystack(length: int, n: int) -> dict[str, Any]:
    return {
        "index": n,
        "input": f"Hay and {NUMBERS[n]}. What is the number?",
        "outputs": [NUMBERS[n], "hay"],
        "length": length - 10,
        "max_length": length,
        "gen_prefix": "The number is",
    }


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "TIGER-Lab/MMLU-Pro": mmlu_pro,
    "Idavidrein/gpqa": gpqa,
    "DigitalLearningGmbH/MATH-lighteval": math,
    "HuggingFaceH4/MATH-500": math,
    "wis-k/instruction-following-eval": instruction,
    "SaylorTwift/bbh": lambda n: {"input": f"Question {n}?", "target": "(A)"},
    "TAUR-Lab/MuSR": mystery,
    "openai/gsm8k": word_problem,
    "gsm8k": word_problem,
    "madrylab/gsm8k-platinum": word_problem,
    "allenai/ai2_arc": lambda n: {
        "question": f"Question {n}?",
        "choices": {"text": ["yes", "no"], "label": ["A", "B"]},
        "answerKey": "AB"[n % 2],
    },
    "our/words": lambda n: {"word": NUMBERS[n], "plural": f"{NUMBERS[n]}s", "kept": n != 1},
}


class MadeRows:
    """A source with six rows of every split, and no more than the names of the model that IFEval's checks load."""

    description = "made rows"

    def split(self, wanted: Split) -> Rows | None:
        """Six rows in the shape of the split's data set."""
        if wanted == ifeval.PUNKT:
            rows = [{"file": name, "text": ""} for name in ifeval.FILES]
        elif wanted.path == "ruler":
            rows = [haystack(int(wanted.name.partition("-")[0]), n) for n in range(6)]
        else:
            rows = [SHAPES[wanted.path](n) for n in range(6)]
        return Rows(datasets.Dataset.from_list(rows), wanted.split.ljust(64, "0"), "the tests")
