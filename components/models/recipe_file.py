"""Variants of one's own: by a recipe, llm-compressor's YAML, or a checkpoint that is quantized already.

A plan has a recipe as `NAME=` and the text of the file, a checkpoint as `NAME=` and its source.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models import gguf_file, sources
from quantgate.components.models.gguf_file import is_gguf
from quantgate.components.models.rungs import AUTO, by_size
from quantgate.components.models.variants import (
    BASELINE,
    BASELINES,
    FP8_CACHE,
    NATIVE,
    VARIANTS,
    Variant,
    check_seeds,
    variant_named,
    with_baseline,
)
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage.yaml_file import Where, composed, duplicates, fault, readable

if TYPE_CHECKING:
    from llmcompressor.modifiers import Modifier

NAME = re.compile(r"(?!run-)[a-z][a-z0-9]*(-[a-z0-9]+)*")
CALIBRATION = re.compile(r"\.calib(\d)")
LONGEST_NAME = 20
"""With a seed and what else a name says, the names of Kubernetes' objects have room for it."""
EXAMPLES = {"recipe": "recipe.yaml", "checkpoint": "hf:org/name"}
SETTINGS = ("args", "run_type")
"""What a recipe may have beside its stages and groups of modifiers; llm-compressor 0.14 does not need them."""


def with_texts(options: Iterable[str]) -> tuple[str, ...]:
    """`NAME=` and the text, for each NAME=FILE; raises PrerequisiteError for a recipe that llm-compressor refuses."""
    entries = []
    for option in options:
        name, equals, path = option.partition("=")
        if not equals or not path:
            raise PrerequisiteError(f"--variant-recipe is {option!r}. Write it like --variant-recipe NAME=recipe.yaml.")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PrerequisiteError(f"The recipe {path} of {name} cannot be read: {error}") from error
        check_recipe(text, path)
        entries.append(f"{name}={text}")
    own_rows(entries)
    return tuple(entries)


def own_rows(recipes: Iterable[str], checkpoints: Iterable[str] = ()) -> dict[str, Variant]:
    """A row for each recipe and checkpoint, by name; raises PrerequisiteError for a name that no variant may have."""
    rows: dict[str, Variant] = {}
    kinds = [*(("recipe", entry) for entry in recipes), *(("checkpoint", entry) for entry in checkpoints)]
    for kind, entry in kinds:
        name, equals, content = entry.partition("=")
        if not equals or not content:
            raise PrerequisiteError(f"The {kind} {entry!r} names no variant. Write it like NAME={EXAMPLES[kind]}.")
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise PrerequisiteError(
                f"A {kind}'s variant cannot be called {name!r}. Give at most {LONGEST_NAME} lower-case letters and"
                " digits, with single hyphens between them. It begins with a letter, and not with run-."
            )
        if name in (*VARIANTS, *BASELINES, *rows, AUTO):
            whose = "given twice" if name in rows else "a variant of quantgate's own"
            raise PrerequisiteError(f"The name {name} is {whose}. Choose another for the {kind}.")
        rows[name] = Variant(name, scheme="", algorithm="", **{kind: content})  # type: ignore[arg-type]
    return rows


def all_variants(plan: EvaluationPlan) -> tuple[str, ...]:
    """The variants that the plan names, checked: the baseline first, then the others, those of one's own last.

    Those of a search are from the smallest to the largest. `auto` stays where nobody has said what it stands for.
    """
    own = own_rows(plan.variant_recipe, plan.variant)
    for row in own.values():
        if is_gguf(row.checkpoint):
            gguf_file.check_source(row.checkpoint)
        elif row.checkpoint:
            sources.check_source(row.checkpoint, quantized=True)
    check_calibrations(plan)
    named = [name for name in plan.variants if name != AUTO]
    names = with_baseline([*named, *own], plan.seeds, own, 1 + len(plan.calibration_also), baseline_of(plan))
    check_native(plan, [variant_named(name, own) for name in names])
    for row in (variant_named(name, own) for name in names):
        if row.kv_cache_dtype and is_gguf(row.checkpoint):
            raise PrerequisiteError(f"{row.name}: only vLLM keeps keys and values in FP8, not llama.cpp. Leave it out.")
    check_search(plan, names)
    for name, row in own.items():
        if not row.recipe:
            continue
        modifiers = check_recipe(row.recipe, f"The recipe of {name}")
        seeded = any(variant_named(other, own).seed for other in names if other.partition(".")[0] == name)
        if seeded and modifiers and not any(modifier.requires_calibration_data for modifier in modifiers):
            check_seeds(name, calibrated=False)
    in_order = by_size(names, own, plan.variant_kept) if plan.search else names
    return (*in_order, *([AUTO] if AUTO in plan.variants else []))


def baseline_of(plan: EvaluationPlan) -> str:
    """The baseline's name by the model's own weights; while they are not known, the one that is named."""
    if plan.native:
        return NATIVE[plan.native].name
    named = (name for name in plan.variants if name in BASELINES and plan.native is None)
    return next(named, BASELINE)


def check_native(plan: EvaluationPlan, rows: Iterable[Variant]) -> None:
    """Raise PrerequisiteError for rows that cannot be made of the model, and for another model's baseline."""
    rows, baseline = list(rows), baseline_of(plan)
    made = [row.name for row in rows if row.quantized and not row.checkpoint]
    if baseline != BASELINE and made:
        raise PrerequisiteError(
            f"The model's own weights are {variant_named(baseline).scheme} already, and llm-compressor quantizes"
            f" weights of 16 bits alone: {', '.join(made)} cannot be made of it. Compare it with checkpoints that are"
            f" quantized already (--variants {baseline} --variant NAME=SOURCE) or with {baseline}{FP8_CACHE}, or"
            " run the model in 16 bits, if there is one."
        )
    others = [row.name for row in rows if row.stored.name in BASELINES and row.stored.name != baseline]
    if others:
        raise PrerequisiteError(
            f"{others[0]} is the baseline of a model whose own weights have that format, and this one's are not. Leave"
            " it out."
        )


def check_calibrations(plan: EvaluationPlan) -> None:
    """Raise PrerequisiteError for calibration texts that are named twice, or that a variant's name lacks."""
    sources = (plan.calibration, *plan.calibration_also)
    if twice := next((source for source in sources if sources.count(source) > 1), None):
        raise PrerequisiteError(f"The calibration texts {twice} are named twice. Name each set once.")
    most = len(plan.calibration_also)
    numbers = ((name, int(match[1])) for name in plan.variants if (match := CALIBRATION.search(name)))
    for name in (name for name, number in numbers if number > most):
        raise PrerequisiteError(
            f"{name} needs further calibration texts, and --calibration-also names {most or 'none'}. Each occurrence of"
            " it adds a set: .calib1, .calib2 and so on."
        )


def check_search(plan: EvaluationPlan, names: Sequence[str]) -> None:
    """Raise PrerequisiteError for a search through other seeds or calibration texts, or without variants."""
    several = {"--seeds": plan.seeds > 1, "--calibration-also": bool(plan.calibration_also)}
    for option in (option for option, given in several.items() if plan.search and given):
        raise PrerequisiteError(
            f"--search ends with the first variant that may be promoted, and {option} asks for several of each. Leave"
            " one of the two out."
        )
    if plan.search and AUTO not in plan.variants and len(names) < 2:
        raise PrerequisiteError(
            f"--search has no variants to try: --variants names the baseline alone. Name some, or {AUTO}."
        )


def check_recipe(text: str, source: str) -> "list[Modifier]":
    """The recipe's modifiers; raises PrerequisiteError, with `source` and the line, for one that does not quantize.

    Where llm-compressor is not installed, only the form is checked, and the list is empty.
    """
    content = _content(text, source)
    paths = list(_paths(content, text, source))
    return modifiers_of(text, source, paths) if find_spec("llmcompressor") else []


def modifiers_of(text: str, source: str, paths: Iterable[Where] = ()) -> "list[Modifier]":
    """llm-compressor's modifiers of a recipe; `paths` are their places in the text, for the line of an error."""
    from llmcompressor.modifiers.quantization import QuantizationMixin
    from llmcompressor.recipe import Recipe
    from loguru import logger

    for package in ("llmcompressor", "compressed_tensors"):
        logger.disable(package)  # they speak of accelerators and of the recipe's creation
    try:
        modifiers: list[Any] = Recipe.from_dict(yaml.safe_load(text)).modifiers
        quantizing = [modifier for modifier in modifiers if isinstance(modifier, QuantizationMixin)]
        for modifier in quantizing:
            modifier.resolved_config  # noqa: B018 - raises for settings that contradict each other
    except ValidationError as error:
        first = error.errors()[0]
        where = (*_place(error.title, paths), *first["loc"])
        name = ".".join(map(str, (error.title, *first["loc"])))
        raise fault(text, source, where, f"llm-compressor refuses {name}: {first['msg']}") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise fault(text, source, _place(str(error), paths), f"llm-compressor refuses it: {error}") from error
    finally:
        for package in ("llmcompressor", "compressed_tensors"):
            logger.enable(package)
    if not quantizing:
        raise fault(text, source, (), "it quantizes nothing: add a GPTQModifier or a QuantizationModifier")
    return modifiers


def transforms(modifiers: "Iterable[Modifier]") -> bool:
    """Whether a modifier changes weights in another way than by quantizing them."""
    from llmcompressor.modifiers.quantization import QuantizationMixin

    return any(not isinstance(modifier, QuantizationMixin) for modifier in modifiers)


def method_of(modifiers: "Iterable[Modifier]") -> str:
    """E.g. `GPTQ after SmoothQuant`."""
    names = [type(modifier).__name__.removesuffix("Modifier") for modifier in modifiers]
    return " after ".join("RTN" if name == "Quantization" else name for name in reversed(names))


def _content(text: str, source: str) -> Mapping[str, Any]:
    node = composed(text, source)
    if not isinstance(node, yaml.MappingNode):
        raise PrerequisiteError(f"{source}, line 1: a recipe of llm-compressor is expected, with stages of modifiers.")
    if twice := next(duplicates(node), None):
        raise PrerequisiteError(f"{source}, line {twice[0]}: {twice[1]}.")
    with readable(source):
        content: Mapping[str, Any] = yaml.SafeLoader("").construct_document(node)
    return content


def _paths(content: Mapping[str, Any], text: str, source: str) -> Iterable[Where]:
    """The place of each modifier; raises PrerequisiteError for a part that llm-compressor would leave out silently."""
    for stage, groups in content.items():
        if stage in SETTINGS:
            continue
        if not str(stage).endswith("_stage") or not isinstance(groups, dict):
            message = f"llm-compressor does not read {stage}: a stage's name ends in _stage, and it has modifiers"
            raise fault(text, source, (stage,), message)
        for group, modifiers in groups.items():
            if group in SETTINGS:
                continue
            if not str(group).endswith("_modifiers") or not isinstance(modifiers, dict):
                message = f"llm-compressor does not read {stage}.{group}: a group's name ends in _modifiers"
                raise fault(text, source, (stage, group), message)
            for modifier, settings in modifiers.items():
                if not isinstance(settings, dict):
                    message = f"{modifier} has no settings; for none write {modifier}: {{}}"
                    raise fault(text, source, (stage, group, modifier), message)
                yield stage, group, modifier


def _place(message: str, paths: Iterable[Where]) -> Where:
    """The place of the modifier that the message names; the whole recipe if it names none."""
    return next((path for path in paths if str(path[-1]) in message), ())
