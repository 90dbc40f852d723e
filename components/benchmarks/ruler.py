"""RULER's tasks at one context length: lm-eval's generators write the rows, with the tokenizer of the model under test.

`ruler_4096` is the group of TASKS at 4,096 tokens. A row is as long as the context, counted in the model's own tokens,
so its rows are made once for a tokenizer, in the step `resolve`, and kept in a mirror in the store. TASKS are those of
RULER's 13 tasks that need no text from the web; the others hide their needles in essays or Wikipedia's paragraphs.
Source: https://arxiv.org/abs/2404.06654
"""

import contextlib
import hashlib
import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantgate.components.benchmarks.seeding import seeded
from quantgate.components.benchmarks.splits import Rows, Source, Split
from quantgate.components.errors import PrerequisiteError

if TYPE_CHECKING:
    import transformers

TASKS = ("niah_multikey_2", "niah_multikey_3", "niah_single_1", "ruler_cwe", "ruler_fwe", "ruler_vt")
DATA_SET = "ruler"
ROWS = 100
"""Rows of each task at each length: the first of the 500 that lm-eval's generators write."""
WRITERS = ("generate_samples", "sys_word_pair_random", "sys_kwext", "sys_vartrack_w_noise_random")
"""The function, in the module of each generator of lm-eval, that writes `num_samples` rows."""
MIN_TOKENS = 4096
TEXT = "1. apple 2. river 3. yellow 4. mountain 5. to remember 6. quickly 7. window 8. engineer"
MOST_TOKENS = len(TEXT) // 2


def length_of(task: str) -> int:
    """The context length in a task's name, `ruler_4096`; 0 for another task."""
    number = re.fullmatch(r"ruler_(\d+)", task)
    return int(number[1]) if number and int(number[1]) >= MIN_TOKENS else 0


def changes(name: str, task: str) -> dict[str, Any]:
    """The settings of the task `name` in the group `task`: where its rows are, and how long they are."""
    length = length_of(task)
    metrics = [{"metric": str(length), "aggregation": "mean", "higher_is_better": True}]
    metadata = {"version": 1.0, "max_seq_lengths": [length]}
    return {"dataset_path": DATA_SET, "dataset_name": f"{length}-{name}", "metadata": metadata, "metric_list": metrics}


def split_of(name: str, task: str) -> Split:
    """The split with the rows of the task `name` in the group `task`."""
    return Split(DATA_SET, f"{length_of(task)}-{name}", "test")


def splits_of(tasks: Iterable[str]) -> list[Split]:
    """The splits whose rows must be made for these tasks of a suite."""
    return [split_of(name, task) for task in tasks if length_of(task) for name in TASKS]


def rows_of_tokenizer(store: str, folder: str) -> str:
    """The location, in the store, of the mirror with the rows for the tokenizer in that folder."""
    return f"{store}/made-rows/{tokenizer_digest(folder)[:16]}"


def tokenizer_digest(folder: str) -> str:
    """sha256 of what the tokenizer makes of its vocabulary and of a text."""
    tokenizer = tokenizer_in(folder)
    content = repr((sorted(tokenizer.get_vocab().items()), tokenizer("The quick  brown fox.\n12345").input_ids))
    return hashlib.sha256(content.encode()).hexdigest()


@cache
def tokenizer_in(folder: str) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer in a folder, or of that name on the hub."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@contextlib.contextmanager
def fewer(module: Any) -> Iterator[None]:
    """Let the generator of lm-eval's module write ROWS rows: the first of the 500 that its code fixes.

    All 500 would take five times as long: at 32,768 tokens, an hour instead of minutes.
    """
    name = next(name for name in WRITERS if hasattr(module, name))
    writer = getattr(module, name)

    def write(*values: Any, num_samples: int = ROWS, **settings: Any) -> Any:
        return writer(*values, num_samples=min(num_samples, ROWS), **settings)

    setattr(module, name, write)
    try:
        yield
    finally:
        setattr(module, name, writer)


@dataclass(frozen=True)
class MadeRows:
    """RULER's rows for one tokenizer, as lm-eval's generators write them."""

    tokenizer: str
    """The tokenizer's folder, or its name on the hub."""
    generators: Callable[[str], Callable[..., Any]]
    """lm-eval's generator of each of TASKS by name."""

    @property
    def description(self) -> str:
        """The tokenizer."""
        return f"rows made with the tokenizer {self.tokenizer}"

    def split(self, wanted: Split) -> Rows:
        """The rows of one task at one length, seeded as in lm-eval's own runs."""
        if len(tokenizer_in(self.tokenizer)(TEXT).input_ids) > MOST_TOKENS:  # lm-eval would try forever
            raise PrerequisiteError(
                f"RULER's shortest rows do not fit its contexts, because a token of {self.tokenizer} is about a letter."
                " Choose another suite."
            )
        length, _, name = wanted.name.partition("-")
        with tempfile.TemporaryDirectory() as plain, seeded(), contextlib.ExitStack() as quiet:
            # lm-eval loads a tokenizer with its repository's code, which a saved copy does not have
            tokenizer_in(self.tokenizer).save_pretrained(plain)
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
            generator = self.generators(name)
            quiet.enter_context(fewer(sys.modules[generator.__module__]))
            rows = generator(tokenizer=plain, max_seq_lengths=[int(length)])["test"]
        maker = f"lm-eval's generator, tokenizer {Path(self.tokenizer).name}"
        return Rows(rows, tokenizer_digest(self.tokenizer), maker)


@dataclass(frozen=True)
class WithMade:
    """A source of rows, with the made ones from a mirror of their own."""

    source: Source
    generated: Source

    @property
    def description(self) -> str:
        """As the source's."""
        return self.source.description

    def split(self, wanted: Split) -> Rows | None:
        """The made rows, or the source's."""
        return (self.generated if wanted.path == DATA_SET else self.source).split(wanted)
