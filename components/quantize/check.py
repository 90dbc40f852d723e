"""Check llm-compressor's checkpoint before it is served: read from its files and the baseline's, not from the recipe.

each layer      has the format that its name has in the checkpoint's own configuration, and the variant asks for
its scales      are finite and positive, one for each group or channel
its weights     are close to the baseline's
all the rest    has the baseline's bytes
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.layers import Layout
from quantgate.components.models.parts import ROUTERS, is_expert, part_of
from quantgate.components.models.tokenizer_files import GENERATION_CONFIG, tokenizer_files
from quantgate.components.quantize.packed import fp4_in, integers_in
from quantgate.components.quantize.rotation import OUTPUT, ROTATED, not_rotated
from quantgate.components.quantize.tensors import NAMED, WEIGHT, tensors_of
from quantgate.components.storage.hashing import sha256s

if TYPE_CHECKING:
    import torch

    from quantgate.components.quantize.tensors import Tensors

PARTS = (
    *(".weight", ".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point"),
    *(".weight_global_scale", ".input_global_scale"),
)
"""What compressed-tensors stores for a layer."""
OWN_PARTS = (
    *(f".{what}_{part}" for what in ("input", "output") for part in ("scale", "zero_point", "global_scale")),
    ".weight_g_idx",
)
"""What it stores beside them for some recipes of the user's own."""
KV_SCALES = re.compile(r"\.[kv]_(scale|zero_point)$")
LARGEST_ERROR = 0.9
"""Of the relative error of a layer's weights. GPTQ with INT4 is at 0.1 to 0.3, zeros at 1, another layer's at 1.4."""
MX_BIAS, MX_NAN = 127, 255
"""Of the exponents of MXFP4's scales (OCP Microscaling Formats, E8M0)."""
NORM, ANYTHING = re.compile(r"norm[^.]*\.weight$"), re.compile("")
FREE = {"": None, "AWQ": NORM, "SmoothQuant": NORM, "SpinQuant": ROTATED}
"""The names of the tensors that a transform changes beside the quantized ones."""


def check_compressed(
    folder: Path, baseline: Path, layers: Mapping[str, Layout | None], *, transform: str = "", own: bool = False
) -> dict[str, float]:
    """The relative error of each layer's weights: the norm of their change divided by the norm of the baseline's.

    `layers` has the layout that each layer should have; experts must be among them. After a `transform` the tensors of
    FREE may differ, and there are no errors: the scales of channels have moved between layers, or weights are rotated.
    With the user's `own` recipe the layouts are what the checkpoint itself says, None is a format of which only the
    scales are checked, and a transform may have changed anything. Raises PrerequisiteError with the layers' names
    unless the checkpoint in `folder` is what it should be.
    """
    if own and not layers:
        raise PrerequisiteError(f"llm-compressor quantized no layer: the recipe's targets match none, in {folder}.")
    known = {name: layout for name, layout in layers.items() if layout}
    _check_config(folder, known)
    _check_files(folder, baseline)
    with tensors_of(folder) as compressed, tensors_of(baseline) as original:
        wanted = dict.fromkeys([*layers, *(() if own else _experts(original))])
        _refuse("did not quantize", [name for name in wanted if f"{name}.weight_scale" not in compressed], folder)
        scaled = [name.removesuffix(".weight_scale") for name in compressed if name.endswith(".weight_scale")]
        others = [name for name in scaled if name not in layers or (part_of(name) and not own)]
        _refuse("quantized what it should leave alone:", others, folder)
        errors, faults = {}, []
        for name, layout in known.items():
            try:
                errors[name] = _layer_error(name, layout, compressed, original)
            except ValueError as error:
                faults.append(f"{name} ({error})")
        if own:
            scales = [name for name in compressed if name.endswith("_scale") and name.rpartition(".")[0] not in known]
            faults += [f"{name} (not finite and positive)" for name in scales if not _is_scale(compressed[name]())]
        _refuse("wrote wrong layers:", faults, folder)
        free = ANYTHING if own and transform else FREE[transform]
        parts = _parts(folder, layers, compressed) if own else {name + part for name in layers for part in PARTS}
        _check_rest(folder, parts, {name + WEIGHT for name in layers}, compressed, original, free)
        if free is ROTATED:
            _refuse("changed more than a rotation does:", not_rotated(compressed, original), folder)
    if transform:
        return {}
    far = [f"{name} ({error:.0%})" for name, error in worst(errors).items() if error > LARGEST_ERROR]
    _refuse("wrote weights that are far from the model's:", far, folder)
    return errors


def worst(errors: Mapping[str, float], count: int = NAMED) -> dict[str, float]:
    """The layers whose weights changed most, the worst first."""
    return dict(sorted(errors.items(), key=lambda item: (-item[1], item[0]))[:count])


def _experts(tensors: "Tensors") -> list[str]:
    """The layers of a model's experts, whatever the recipe has for them."""
    names = [name.removesuffix(WEIGHT) for name in tensors if name.endswith(WEIGHT) and not NORM.search(name)]
    return [name for name in names if is_expert(name)]


def _check_config(folder: Path, layers: Mapping[str, Layout]) -> None:
    """The configuration, by which a server reads the weights, names each layer's layout."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config", {})
    if config.get("quant_method") != "compressed-tensors":
        raise PrerequisiteError(f"llm-compressor wrote a checkpoint without a quantization config to {folder}.")
    groups = [
        (group.get("targets", []), group.get("weights") or {}) for group in config.get("config_groups", {}).values()
    ]
    faults = []
    for name, layout in layers.items():
        if any(matches(target, name) for target in config.get("ignore", [])):
            faults.append(f"{name} (ignored)")
            continue
        weights = next((args for targets, args in groups if any(matches(target, name) for target in targets)), {})
        said = Layout(
            bits=int(weights.get("num_bits") or 0),
            group_size=weights.get("group_size") or None,
            symmetric=bool(weights.get("symmetric")),
            packed=layout.packed,
            signed=layout.signed,
            number=str(weights.get("type")),
            block_size=(weights.get("block_structure") or [None])[0],
        )
        if said != layout:
            faults.append(f"{name} ({said}, not {layout})")
    _refuse("wrote another configuration for", faults, folder)


def matches(target: str, name: str) -> bool:
    """Whether a target of compressed-tensors means the linear layer of that name."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), name) is not None
    return target in ("Linear", name)


def _check_files(folder: Path, baseline: Path) -> None:
    """Tokenizer, chat template and generation settings are the baseline's."""
    ours, theirs = (
        sha256s(tokenizer_files(place) | {path.name: path for path in place.glob(GENERATION_CONFIG)})
        for place in (folder, baseline)
    )
    others = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    _refuse("wrote files that are not the model's:", others, folder)


def _check_rest(
    folder: Path,
    parts: Set[str],
    replaced: Set[str],
    compressed: "Tensors",
    original: "Tensors",
    free: re.Pattern[str] | None,
) -> None:
    """What is not a part of a quantized layer has the baseline's bytes, but for names that match `free`.

    The parts are those of the checkpoint, in place of the baseline's `replaced` weights. A tied output layer may be
    left out, and a rotation adds it; a transform that may change anything may also add its own tensors.
    """
    rest, kept = compressed.keys() - parts, original.keys() - replaced
    added = {ANYTHING: set(rest), ROTATED: {OUTPUT}}.get(free or NORM, set())
    _refuse("added tensors:", sorted(rest - kept - added), folder)
    tied = {name for name in kept if name.endswith("lm_head.weight") and _is_tied(folder)}
    _refuse("left out tensors:", sorted(kept - rest - tied), folder)
    fixed = [name for name in sorted(rest & kept) if not (free and _may_change(name, free))]
    changed = [name for name in fixed if not _same_bytes(compressed[name](), original[name]())]
    _refuse("changed tensors that it should leave alone:", changed, folder)


def _may_change(name: str, free: re.Pattern[str]) -> bool:
    """Whether a transform may change the tensor; it never changes a vision tower or another part that is left."""
    part = part_of(name.removesuffix(WEIGHT))
    if free in (ANYTHING, ROTATED):
        return free.search(name) is not None
    return part is ROUTERS or (part is None and free.search(name) is not None)


def _parts(folder: Path, layers: Iterable[str], compressed: "Tensors") -> set[str]:
    """The names of all parts of layers that the user's own recipe may have quantized."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    cache = [name for name in compressed if config.get("kv_cache_scheme") and KV_SCALES.search(name)]
    return {*cache, *(name + part for name in layers for part in (*PARTS, *OWN_PARTS))}


def _is_scale(tensor: "torch.Tensor") -> bool:
    """Whether the scales are finite and positive; an exponent of 8 bits is always."""
    values = tensor.float()
    return not tensor.dtype.is_floating_point or bool(values.isfinite().all() and (values > 0).all())


def _is_tied(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any(part.get("tie_word_embeddings") for part in (config, config.get("text_config") or {}))


def _same_bytes(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    import torch

    same_form = one.dtype == other.dtype and one.shape == other.shape
    return same_form and torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _layer_error(name: str, layout: Layout, compressed: "Tensors", original: "Tensors") -> float:
    """The relative error of one layer's weights; raises ValueError with what is wrong with the layer."""
    if name + WEIGHT not in original:
        raise ValueError("the model has no weights of that name")
    weights = original[name + WEIGHT]().float()
    rows, columns = weights.shape
    scale = _scales(name, compressed)
    if not _is_scale(scale.abs() if layout.signed else scale):
        raise ValueError("a scale is not finite and positive")
    expected = layout.scales_of(rows, columns)
    if tuple(scale.shape) != expected:
        raise ValueError(f"its scales are {tuple(scale.shape)}, not {expected}")
    stored = _floats if layout.number == "float" else _integers
    numbers = stored(name, layout, (rows, columns), compressed)
    if not layout.symmetric:
        numbers = numbers - _for_each_weight(_zero_points(name, layout, expected, compressed), (rows, columns), layout)
    restored = numbers.float() * _for_each_weight(scale, (rows, columns), layout)
    return float((restored - weights).norm() / weights.norm().clamp(min=1e-30))


def _for_each_weight(scale: "torch.Tensor", shape: tuple[int, int], layout: Layout) -> "torch.Tensor":
    """The scale of each weight of a matrix of that shape."""
    rows, columns = shape
    if layout.block_size:
        wide = scale.repeat_interleave(layout.block_size, 0).repeat_interleave(layout.block_size, 1)
        return wide[:rows, :columns]
    return scale.repeat_interleave(columns // scale.shape[1], dim=1)


def _scales(name: str, compressed: "Tensors") -> "torch.Tensor":
    """The scales of a layer in float32; NVFP4's are stored as multiples of a tensor's, MXFP4's as exponents of two."""
    import torch

    scale = compressed[f"{name}.weight_scale"]()
    if scale.dtype == torch.uint8:
        powers = (scale.float() - MX_BIAS).exp2()
        return powers.masked_fill(scale == MX_NAN, math.nan)
    whole = compressed.get(f"{name}.weight_global_scale")
    return scale.float() / whole().float() if whole else scale.float()


def _floats(name: str, layout: Layout, shape: tuple[int, int], compressed: "Tensors") -> "torch.Tensor":
    """The numbers of a layer of FP8 or FP4, without their scales; raises ValueError if they are not of the layout."""
    import torch

    rows, columns = shape
    if not layout.packed:
        return _stored(name + WEIGHT, torch.float8_e4m3fn, shape, compressed)
    return fp4_in(_stored(f"{name}.weight_packed", torch.uint8, (rows, columns // 2), compressed))


def _integers(name: str, layout: Layout, shape: tuple[int, int], compressed: "Tensors") -> "torch.Tensor":
    """The integers of a layer's weights; raises ValueError if they are not of the layout."""
    import torch

    rows, columns = shape
    if not layout.packed:
        return _stored(name + WEIGHT, torch.int8, shape, compressed)
    width = math.ceil(columns * layout.bits / 32)
    return integers_in(_stored(f"{name}.weight_packed", torch.int32, (rows, width), compressed), layout.bits, columns)


def _zero_points(name: str, layout: Layout, shape: tuple[int, int], compressed: "Tensors") -> "torch.Tensor":
    """The zero point of each scale; they are packed by column."""
    import torch

    height = math.ceil(shape[0] * layout.bits / 32)
    packed = _stored(f"{name}.weight_zero_point", torch.int32, (height, shape[1]), compressed)
    return integers_in(packed.T, layout.bits, shape[0]).T


def _stored(name: str, kind: "torch.dtype", shape: tuple[int, int], compressed: "Tensors") -> "torch.Tensor":
    """A tensor of the checkpoint; raises ValueError if it is missing or has another type or shape."""
    part = name.rsplit(".", 1)[-1]
    if name not in compressed:
        raise ValueError(f"it has no {part}")
    tensor = compressed[name]()
    if tensor.dtype != kind or tuple(tensor.shape) != shape:
        raise ValueError(f"{part} is {tensor.dtype} {tuple(tensor.shape)}, not {kind} {shape}")
    return tensor


def _refuse(what: str, names: Sequence[str], folder: Path) -> None:
    """Raise PrerequisiteError if there are names."""
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise PrerequisiteError(f"llm-compressor {what} {', '.join(names[:NAMED])}{more}, in {folder}.")
