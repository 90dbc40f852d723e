"""Refuse calibration texts that contain what is scored: a variant that was calibrated on a question may remember it.

Texts are compared in one form: Unicode's NFKC, no case, one space for any white space. A sample overlaps if it contains
a whole scored text of at least SHORTEST characters, or is equal to a scored text of any length.

The first SHORTEST characters of each scored text are the key to its lengths. Each position of a sample is looked up
once, and only where a key is found are hashes compared: the time grows with the samples' characters and not with the
number of questions, of which only keys and hashes are in memory.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from quantgate.components.benchmarks.suites import STAGES
from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve.calibration_texts import CalibrationSample

if TYPE_CHECKING:
    from quantgate.components.benchmarks.harness import Leaf, Prepared

SHORTEST = 40
"""Characters of the shortest text that counts when it is only part of a sample: shorter ones recur by chance."""


class ScoredTexts:
    """The texts that are scored, in a form that samples can be compared with."""

    def __init__(self) -> None:
        self.whole: dict[bytes, str] = {}
        """The item by the hash of its text."""
        self.lengths: defaultdict[str, set[int]] = defaultdict(set)
        """The lengths of the texts by their first SHORTEST characters."""

    def add(self, text: str, item: str) -> None:
        """Add one text of the item, as `compared` gives it."""
        if text:
            self.whole.setdefault(hash_of(text), item)
        if len(text) >= SHORTEST:
            self.lengths[text[:SHORTEST]].add(len(text))

    def found_in(self, sample: CalibrationSample) -> str:
        """The first scored item that the sample contains or equals; "" for none."""
        for part in sample.row.parts:
            if item := self.whole.get(hash_of(compared(part))):
                return item
        text = compared(sample.used)
        for at in range(len(text) - SHORTEST + 1):
            for length in self.lengths.get(text[at : at + SHORTEST], ()):
                if item := self.whole.get(hash_of(text[at : at + length])):
                    return item
        return ""


def check_disjoint(samples: Sequence[CalibrationSample], tasks: "Iterable[Prepared]") -> None:
    """Raise PrerequisiteError if a calibration sample contains an item that one of the tasks scores."""
    if not samples:
        return
    scored = scored_texts(tasks)
    overlapping = [(sample, item) for sample in samples if (item := scored.found_in(sample))]
    if overlapping:
        first, item = overlapping[0]
        raise PrerequisiteError(
            f"{len(overlapping)} of {len(samples)} calibration samples contain what is scored: {first.row.where}, has"
            f" {item}. Remove such rows, or give other texts (--calibration)."
        )


def scored_texts(tasks: "Iterable[Prepared]") -> ScoredTexts:
    """The texts of the items in every stage of the tasks."""
    from quantgate.components.benchmarks.templates import fitting

    scored = ScoredTexts()
    for task in tasks:
        chosen = {item for stage in STAGES for item in task.chosen(stage)}
        for number, leaf in enumerate(task.leaves):
            leaf.task.pick([position for of_leaf, position in chosen if of_leaf == number])
            with fitting(leaf.name):
                for position in leaf.task.items:
                    for text in texts_of(leaf, leaf.task.doc(position)):
                        scored.add(text, f"item {position} of {leaf.name}")
    return scored


def texts_of(leaf: "Leaf", doc: Any) -> Iterator[str]:
    """The texts of one item, as `compared`: its prompt without shots, and the fields of its row that the prompt shows.

    Of a row's short fields only the longest counts, the question itself: an equal sample may be a short answer. Of a
    document, each paragraph counts. Where the choices are alternative contexts (WinoGrande), each with its end.
    """
    if leaf.task.OUTPUT_TYPE == "loglikelihood_rolling":
        documents = [leaf.task.doc_to_target(doc), *doc.values()]  # lm-eval cleans Wikipedia's texts
        lines = [compared(line) for text in documents if isinstance(text, str) for line in text.split("\n")]
        yield from (line for line in lines if len(line) >= SHORTEST)
        return
    prompt = leaf.task.doc_to_text(doc)
    if isinstance(prompt, int):
        end = leaf.task.doc_to_target(doc)
        yield from (compared(f"{context} {end}") for context in leaf.task.doc_to_choice(doc))
        return
    prompt = compared(str(prompt))
    yield prompt
    fields = (compared(value) for value in doc.values() if isinstance(value, str))
    shown = sorted((text for text in fields if text in prompt), key=len, reverse=True)
    yield from (text for text in shown if len(text) >= SHORTEST or text is shown[0])


def compared(text: str) -> str:
    """The text in the form in which texts are compared."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def hash_of(text: str) -> bytes:
    """The hash by which a text is found."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
