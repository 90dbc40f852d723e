"""The answer ledger's speed: answers read and written per second, for questions as long as few-shot prompts.

    python benchmarks/ledger_speed.py [--questions 50000] [--tokens 300] [--choices 4]

Reading is everything between lm-eval's token ids and the answer: hashing the keys, the query, the checksums. Writing
commits each answer by itself, as an evaluation does; its share of an evaluation depends on the server's answers a
second.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quantgate.components.evaluate.ledger import Key, Ledger, pack, question_keys, unpack
from quantgate.components.servers.scoring_requests import Loglik, Question

ROUNDS = 3
ANSWERS_PER_S = (10, 100)


def write_each(ledger: Ledger, keys: list[Key], answer: bytes) -> None:
    """Write the answer under every key, one commit each."""
    for key in keys:
        ledger.put([(key, answer)])


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--choices", type=int, default=4)
    arguments = parser.parse_args()
    questions = random_questions(arguments.questions, arguments.tokens, arguments.choices)
    answer = pack(Loglik(-1.5, False))
    table = Table("operation", "answers", "answers/s", "µs per answer")
    with tempfile.TemporaryDirectory() as folder:
        with closing(Ledger(Path(folder) / "ledger.sqlite", "a model")) as ledger:
            keys = question_keys(questions)
            written = keys[:2000]
            writing_s = median(lambda: write_each(ledger, written, answer)) / len(written)
            ledger.put((key, answer) for key in keys)
        with closing(Ledger(Path(folder) / "ledger.sqlite", "a model")) as ledger:
            reading_s = median(lambda: read(ledger, questions)) / len(questions)
    table.add_row("write, one commit each", str(len(written)), f"{1 / writing_s:,.0f}", f"{writing_s * 1e6:.0f}")
    table.add_row("read", str(len(questions)), f"{1 / reading_s:,.0f}", f"{reading_s * 1e6:.0f}")
    console = Console()
    console.print(table)
    for rate in ANSWERS_PER_S:
        console.print(f"With a server of {rate} answers/s, writing takes {writing_s * rate:.2%} of the evaluation.")


def random_questions(count: int, tokens: int, choices: int) -> list[Question]:
    """Questions of random token ids; each context has `choices` of them."""
    source = random.Random(0)
    questions = []
    for _ in range(count // choices):
        context = tuple(source.choices(range(50_000), k=tokens))
        questions += [Question((*context, *source.choices(range(50_000), k=5)), tokens) for _ in range(choices)]
    return questions


def read(ledger: Ledger, questions: list[Question]) -> None:
    """Every question's answer, as the endpoint looks it up."""
    keys = question_keys(questions)
    packed = ledger.get(keys)
    answers = [unpack(packed[key]) for key in keys]
    assert len(answers) == len(questions)


def median(work: Callable[[], object]) -> float:
    """The median of the rounds' seconds."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
