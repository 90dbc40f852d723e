"""Choose the calibration texts, and copy them into the run's results: no later step reads their source."""

import hashlib
import itertools
import json
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from quantgate.components.benchmarks.calibration_rows import (
    FIRST_ROWS,
    HUB_PREFIX,
    CalibrationRow,
    hub_split,
    passages,
    rows_of_dataset,
    rows_of_file,
)
from quantgate.components.benchmarks.selection import EMBEDDED, HUB
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.recipe_file import own_rows
from quantgate.components.models.variants import Variant, variant_named
from quantgate.components.models.window import model_window
from quantgate.components.run.calibration import CHAT, EMBEDDED_SIZE, FEWEST_TOKENS, PASSAGES, USUAL_SIZE, Calibration
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import local_file

if TYPE_CHECKING:
    from quantgate.components.benchmarks.splits import Split

SEED = 0
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class CalibrationSample:
    """One calibration text."""

    row: CalibrationRow
    text: str
    """With the chat template where there is one."""
    templated: bool
    """Whether the text has its special tokens already."""
    tokens: int
    used: str
    """The part of the text that those tokens cover."""


@dataclass(frozen=True)
class TextSource:
    """The rows from which samples are drawn."""

    name: str
    """For readers, as in `row 3 of NAME`."""
    rows: Sequence[CalibrationRow]
    size: tuple[int, int] = USUAL_SIZE
    """The default number of samples, and of tokens."""
    in_order: bool = False
    """Whether the first rows are the samples; else they are drawn."""
    note: str = ""

    def drawn(self, count: int, further: int = 0) -> list[CalibrationRow]:
        """That many rows in their order, the same ones each time, then `further` ones; all if there are no more."""
        places = list(range(len(self.rows)))
        if self.in_order or len(places) <= count:
            return [self.rows[at] for at in places[: count + further]]
        first = sorted(random.Random(SEED).sample(places, count))
        others = sorted(set(places) - set(first))
        more = sorted(random.Random(SEED).sample(others, min(further, len(others))))
        return [self.rows[at] for at in (*first, *more)]


def is_needed(plan: EvaluationPlan) -> bool:
    """Whether the plan quantizes anything."""
    return any(row.quantized and not row.checkpoint for row in rows_of(plan))


def highest_seed(plan: EvaluationPlan) -> int:
    """The highest seed of the plan's variants."""
    return max(row.seed for row in rows_of(plan))


def rows_of(plan: EvaluationPlan) -> list[Variant]:
    """The plan's variants."""
    own = own_rows(plan.variant_recipe, plan.variant)
    return [variant_named(name, own) for name in plan.variants]


def check_calibration(plan: EvaluationPlan) -> None:
    """Raise PrerequisiteError for calibration texts that are not there or not valid; reads no data set of the hub."""
    if not is_needed(plan):
        return
    if 0 < plan.calibration_tokens < FEWEST_TOKENS:
        raise PrerequisiteError(
            f"--calibration-tokens is {plan.calibration_tokens}. Give at least {FEWEST_TOKENS}, or 0 for the default."
        )
    for named in (plan.calibration, *plan.calibration_also):
        if named.startswith(HUB_PREFIX):
            split = hub_split(named)
            if not in_mirror(plan, split):
                check_hub_has(named, split)
        elif named not in ("", PASSAGES):
            file_source(named)


def copy_calibration(
    plan: EvaluationPlan, tokenizer: Any, folder: Path
) -> tuple[EvaluationPlan, list[CalibrationSample]]:
    """The plan with its calibration texts, now in the run's results, and these texts; no texts if nothing is quantized.

    `folder` is the model's, and `tokenizer` is from there.
    """
    if not is_needed(plan):
        return plan, []
    window, chosen, samples = model_window(folder), list[Calibration](), list[CalibrationSample]()
    for number, named in enumerate((plan.calibration, *plan.calibration_also)):
        calibration, texts = copied(plan, source_of_texts(plan, named), number, tokenizer, window)
        chosen.append(calibration)
        samples += texts
    for one, other in itertools.combinations(chosen, 2):
        if one.identity == other.identity:
            raise PrerequisiteError(
                f"The calibration texts {one.name} and {other.name} are the same, and so would be the variants. Leave"
                " one of the two out."
            )
    sets = {"calibration_set": chosen[0], "calibration_sets_also": tuple(chosen[1:])}
    return plan.model_copy(update=sets), samples


def copied(
    plan: EvaluationPlan, source: TextSource, number: int, tokenizer: Any, window: int
) -> tuple[Calibration, list[CalibrationSample]]:
    """The set of that number, whose texts are now in the run's results; and these texts, cut to the model's window."""
    count, length = plan.calibration_samples or source.size[0], plan.calibration_tokens or source.size[1]
    tokens = min(length, window)
    rows = source.drawn(count, further=count * highest_seed(plan))  # from which the other seeds draw
    samples = [sample_of(row, tokenizer, tokens) for row in rows]
    content = "".join(json.dumps({"text": sample.text, "templated": sample.templated}) + "\n" for sample in samples)
    RunResults(plan.results).calibration_file(number).put_text(content)
    notes = {
        source.note: True,
        f"fewer than the {count} asked for": len(samples) < count,
        f"other seeds draw theirs from {len(samples)}": len(samples) > count,
        f"the model's window is less than {length} tokens": tokens < length,
        "chats without roles, for the tokenizer has no chat template": any(
            sample.row.roles and not sample.templated for sample in samples
        ),
    }
    chosen = Calibration(
        name=source.name,
        samples=min(count, len(samples)),
        tokens=tokens,
        used_tokens=sum(sample.tokens for sample in samples[:count]),
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        note="; ".join(note for note, holds in notes.items() if holds and note),
        number=number,
    )
    return chosen, samples


def source_of_texts(plan: EvaluationPlan, named: str) -> TextSource:
    """The rows of that name, from where the plan has its rows; without a name the default's."""
    if named == PASSAGES:
        return embedded_source()
    if not named:
        return default_source(plan)
    if named.startswith(HUB_PREFIX):
        return hub_source(plan, hub_split(named))
    return file_source(named)


def default_source(plan: EvaluationPlan) -> TextSource:
    """General chats where the source of the plan's rows has them; else the embedded passages, with the reason."""
    split = hub_split(CHAT)
    if in_mirror(plan, split):
        return hub_source(plan, split)
    instead = f"not {split.path}:"
    if plan.data != HUB:
        return embedded_source(f"{instead} {'no hub is used' if plan.data == EMBEDDED else 'the mirror lacks it'}")
    try:
        check_hub_has(CHAT, split)
    except PrerequisiteError:
        return embedded_source(f"{instead} the hub does not give it")
    return hub_source(plan, split)


def embedded_source(note: str = "") -> TextSource:
    """The embedded passages; the first ones are used."""
    return TextSource(f"{PASSAGES} passages", passages(), EMBEDDED_SIZE, in_order=True, note=note)


def file_source(location: str) -> TextSource:
    """The rows of a JSONL file on this machine or in a bucket; raises PrerequisiteError for an invalid one."""
    with tempfile.TemporaryDirectory() as scratch:
        file = local_file(location, Path(scratch))
        if not file.is_file():
            raise PrerequisiteError(
                f"--calibration is {location}, and there is no such file. Give {PASSAGES}, a JSONL file or {CHAT}."
            )
        return TextSource(file.name, rows_of_file(file, location))


def hub_source(plan: EvaluationPlan, split: "Split") -> TextSource:
    """The first rows of a data set, from the plan's mirror if it has them, else from the hub."""
    from quantgate.components.benchmarks.row_sources import Hub, Mirror

    name = f"{split.path}{split.name and f'/{split.name}'}:{split.split}"
    mirrored = Mirror(plan.data, cache_dir()).split(split) if in_mirror(plan, split) else None
    if mirrored:
        rows, of = mirrored.dataset.select(range(min(FIRST_ROWS, len(mirrored.dataset)))), mirrored.of
    else:
        rows, of = Hub(cache_dir()).first_rows(split, FIRST_ROWS)
    where = f"commit {of[:12]}" if COMMIT.fullmatch(of) else of
    return TextSource(f"{name} from {where}", rows_of_dataset(rows, name))


def in_mirror(plan: EvaluationPlan, split: "Split") -> bool:
    """Whether the plan's rows come from a mirror that has this split too."""
    from quantgate.components.benchmarks.mirror import read_manifest

    is_mirror = plan.data not in ("", HUB, EMBEDDED)
    return is_mirror and split.file in read_manifest(plan.data).files


def check_hub_has(name: str, split: "Split") -> None:
    """Raise PrerequisiteError when the hub does not answer, or refuses this user the data set."""
    from quantgate.components.benchmarks.row_sources import hub_info

    try:
        hub_info(split.path)
    except PrerequisiteError as error:
        raise PrerequisiteError(
            f"--calibration {name}: {error} (`quantgate mirror SUITE DIR --calibration {name}` copies it too.)"
        ) from error


def sample_of(row: CalibrationRow, tokenizer: Any, most_tokens: int) -> CalibrationSample:
    """The text of a row, in the tokenizer's chat template if it is a chat, and its tokens."""
    text, templated = row.plain, False
    if row.roles and tokenizer.chat_template:
        try:
            text, templated = str(tokenizer.apply_chat_template(row.messages, tokenize=False)), True
        except (TemplateError, ValueError) as error:
            raise PrerequisiteError(
                f"{row.where}: the model's chat template refuses its messages: {error}. Correct them, or"
                " choose other calibration texts."
            ) from error
    encoded = tokenizer(
        text,
        truncation=True,
        max_length=most_tokens,
        add_special_tokens=not templated,
        return_offsets_mapping=tokenizer.is_fast,
    )
    end = max((end for _, end in encoded.offset_mapping), default=0) if tokenizer.is_fast else len(text)
    return CalibrationSample(row, text, templated, len(encoded.input_ids), text[:end])
