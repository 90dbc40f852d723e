"""llm-compressor's recipe for a variant, and the layout that each layer gets by it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform import AWQModifier, SmoothQuantModifier, SpinQuantModifier

from quantgate.components.models import variants
from quantgate.components.models.layers import Layout, describe_layout, groups_for, layouts
from quantgate.components.models.parts import IGNORED
from quantgate.components.models.recipe_file import method_of, modifiers_of, transforms
from quantgate.components.models.variants import Variant
from quantgate.components.quantize.sensitive import Together, names_in, together

SMOOTHING = 0.8
"""The strength that llm-compressor's own examples use for W8A8."""
ACTIVATIONS = {
    "W8A8": ", activations per token",
    "W4A8": ", activations per token",
    "W4AFP8": ", activations per token in FP8",
    "FP8_DYNAMIC": ", activations per token",
    "FP8_BLOCK": ", activations in groups of 128",
    "NVFP4": ", activations too",
    "MXFP4": ", activations too",
}
"""How a scheme's activations are quantized; the others' are not."""
ANY_TRANSFORM = "any"
"""That of a recipe of the user's own."""


@dataclass(frozen=True)
class Recipe:
    """What llm-compressor applies, and what comes of it."""

    modifiers: list[Modifier]
    layers: dict[str, Layout]
    """By name; in the order of the model."""
    layout: str
    """The layers' layouts in words."""
    method: str
    """E.g. `RTN after AWQ`."""
    transform: str
    """What changes other weights than those that are quantized; empty: nothing."""


def recipe_for(variant: Variant, widths: dict[str, int]) -> Recipe:
    """The recipe for linear layers of these input widths; raises PrerequisiteError if no group size fits one."""
    groups = groups_for(widths, variant)
    if variant.group_size is None or variant.one_size:
        layout = f"{_scales(variant)} on all {len(widths)} layers"
    else:
        layout = describe_layout(groups, widths, variant.group_size)
    layout += ACTIVATIONS.get(variant.scheme, "")
    # GPTQModifier(group_size=...) raises, so the size is in config_groups.
    schemes = {f"g{group.group_size}": scheme_for(variant, group.targets, group.group_size) for group in groups}
    modifiers = [*_transforms(variant), _rounding(variant, schemes)]
    return Recipe(modifiers, layouts(groups, widths, variant), layout, variant.method, variant.transform)


def mixed_recipe(variant: Variant, widths: dict[str, int], sensitive: Collection[Together]) -> Recipe:
    """The recipe in which these layers get 8 bits, and the others those of the row without them."""
    chosen, even = names_in(sensitive), variant.even
    rest = {name: width for name, width in widths.items() if name not in chosen}
    groups = groups_for(rest, even)
    sizes = {kind: group.group_size for group in groups for kind in group.kinds}
    eight = variants.VARIANTS["int8"]
    schemes = {"sensitive": scheme_for(eight, [group.target for group in sensitive], None)}
    for size in dict.fromkeys(sizes.values()):
        others = (group for group in together(rest) if sizes[group.layers[0].rsplit(".", 1)[-1]] == size)
        schemes[f"g{size}"] = scheme_for(even, [group.target for group in others], size)
    byte = Layout(eight.bits, None, packed=eight.packed)
    layout = (
        f"8 bits on {len(chosen)} of {len(widths)} layers, which change most in {even.name}; on the rest"
        f" {describe_layout(groups, rest, variant.group_size or 0)}"
    )
    layers = {**layouts(groups, rest, even), **dict.fromkeys(chosen, byte)}
    return Recipe([_rounding(variant, schemes)], layers, layout, variant.method, "")


def _scales(variant: Variant) -> str:
    if variant.block_size:
        return f"a scale for each block of {variant.block_size} x {variant.block_size}"
    return f"g{variant.group_size}" if variant.group_size else "one scale a channel"


def own_recipe(variant: Variant) -> Recipe:
    """The user's own recipe; which layout a layer gets is said by the checkpoint."""
    modifiers = modifiers_of(variant.recipe, f"The recipe of {variant.name}")
    return Recipe(modifiers, {}, "", method_of(modifiers), ANY_TRANSFORM if transforms(modifiers) else "")


def _rounding(variant: Variant, schemes: dict[str, QuantizationScheme]) -> Modifier:
    settings = {"config_groups": schemes, "ignore": IGNORED}
    match variant.algorithm:
        case "GPTQ":
            return GPTQModifier(**settings)
        case variants.AUTO_ROUND:
            from llmcompressor.modifiers.autoround import AutoRoundModifier  # takes seconds

            return AutoRoundModifier(**settings, enable_torch_compile=False)  # which needs a C compiler
        case _:
            return QuantizationModifier(**settings)


def _transforms(variant: Variant) -> list[Modifier]:
    match variant.transform:
        case "AWQ":
            return [AWQModifier(duo_scaling="both")]
        case "SmoothQuant":
            return [SmoothQuantModifier(smoothing_strength=SMOOTHING)]
        case "SpinQuant":  # a Hadamard matrix that is not random has a power of two for its size
            return [SpinQuantModifier(rotations=["R1", "R2"], transform_type="random-hadamard")]
        case _:
            return []


def scheme_for(variant: Variant, targets: list[str], group_size: int | None) -> QuantizationScheme:
    """The variant's preset with its settings, for the layers that match `targets`; a group_size of None: a channel."""
    preset = preset_name_to_scheme(variant.scheme, targets)
    if variant.number == "float":
        return preset
    settings = {
        "symmetric": variant.symmetric,
        "observer": variant.observer,
        "strategy": "channel" if group_size is None else "group",
        "group_size": group_size,
    }
    changed: dict[str, Any] = {"weights": QuantizationArgs.model_validate(preset.weights.model_dump() | settings)}
    if variant.scheme == "W4A8":  # as in Arm's guide; vLLM's Arm kernel has zero points for activations
        inputs = preset.input_activations.model_dump() | {"symmetric": False}
        changed["input_activations"] = QuantizationArgs.model_validate(inputs)
    if variant.scheme == "W4AFP8":  # else a byte a weight is written, which vLLM's scheme does not read
        changed["format"] = "pack-quantized"
    return preset.model_copy(update=changed)
