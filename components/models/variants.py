"""The variants that a run can make of a model, one row each; the baseline is a row too."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from quantgate.components.errors import PrerequisiteError


@dataclass(frozen=True)
class Variant:
    """One way to store a model's weights, in the terms of compressed-tensors and llm-compressor."""

    name: str
    scheme: str
    """A preset of compressed-tensors: W4A16 has weights of 4 bits and activations of 16."""
    bits: int = 16
    """Of a stored weight."""
    group_size: int | None = None
    """Number of weights that share a scale; None: one scale per channel, or no scale."""
    symmetric: bool = True
    """False: each scale has a zero point beside it."""
    observer: str = "minmax"
    """How a scale is found: `minmax` from the largest weights, `mse` by the smallest squared error."""
    transform: str = ""
    """What moves difficult channels into other weights before: `SmoothQuant`, `AWQ`, or rotations (`SpinQuant`)."""
    algorithm: str = "GPTQ"
    """How weights are rounded: by `GPTQ` in the static order of activations, `AutoRound`, or to the nearest (`RTN`)."""
    quantized: bool = True
    default: bool = False
    """Made by a run that names no variants."""
    number: str = "int"
    """The kind of number of a stored weight: `int` or `float`."""
    block_size: int | None = None
    """Height and width of the blocks of weights that share a scale, in place of a channel or a group."""
    on_cpus: bool = True
    """Whether vLLM's CPU build has a kernel for it."""
    on_gpus_since: tuple[int, int] | None = (7, 5)
    """The least compute capability with a kernel for it, by vLLM's compressed-tensors schemes; None: no GPU has."""
    on_gpus_before: tuple[int, int] | None = None
    """The first compute capability that has no kernel for it any more."""
    sensitive_share: float = 0.0
    """At most this share of the weights has 8 bits (W8A8): the layers that change most in the row without that."""
    seed: int = 0
    """Of the recipe, and of the order in which the calibration texts are drawn; 0 is the order of their file."""
    calibration: int = 0
    """The place of its calibration texts among the run's sets; 0 are those of `--calibration`."""
    recipe: str = ""
    """The text of a recipe of the user's own; empty for a row of the table."""
    checkpoint: str = ""
    """The source of a quantized checkpoint of the user's own; empty for weights that a run makes."""
    kv_cache_dtype: str = ""
    """In which vLLM keeps keys and values while it serves, which leaves the weights as they are; empty: the model's."""

    @property
    def method(self) -> str:
        """E.g. `GPTQ` or `RTN after AWQ`; empty for the baseline."""
        return " after ".join(part for part in (self.algorithm, self.transform) if part)

    @property
    def packed(self) -> bool:
        """Whether a stored number has several weights; else each has a byte of its own."""
        return self.scheme not in ("W8A8", "W4A8") and (self.number == "int" or self.bits < 8)

    @property
    def stored_bits(self) -> float:
        """Of a weight on the disk, with its share of a scale: what orders variants by size, whatever the model is."""
        scale, zero_point = 8 if self.number == "float" else 16, 0 if self.symmetric else self.bits
        bits = (self.bits if self.packed else 8) + ((scale + zero_point) / self.group_size if self.group_size else 0.0)
        return bits + (8 - bits) * self.sensitive_share if self.quantized else 16.0

    @property
    def one_size(self) -> bool:
        """Whether its format has no other group size, so that a smaller one cannot be used where a width needs it."""
        return self.number == "float" or self.scheme == "W4AFP8"

    @property
    def of_integers(self) -> bool:
        """Whether all its weights are integers; a recipe of the user's own may have floats of 8 or 4 bits."""
        return self.number == "int" and not self.recipe

    @property
    def even(self) -> "Variant":
        """The row in which no layer has more bits than another: its errors say which layers of this one get 8."""
        return variant_named(self.name.replace(MIXED, ""))

    @property
    def stored(self) -> "Variant":
        """The variant whose weights it has."""
        return replace(self, name=self.name.removesuffix(FP8_CACHE), kv_cache_dtype="")

    @property
    def calibrated(self) -> bool:
        """Whether its weights, or the scales of its activations, depend on calibration texts."""
        measured = self.algorithm != "RTN" or bool(self.transform) or self.scheme == "NVFP4"
        return self.quantized and not self.checkpoint and measured


BASELINE = "bf16"
AUTO_ROUND = "AutoRound"
MIXED, MIXED_SCHEME = "-mixed", "W4A16 + W8A8"
BLACKWELL = (10, 0)
"""The compute capability from which vLLM multiplies no INT8: its documentation of W8A8, and vllm-project/vllm#54311."""

VARIANTS = {
    row.name: row
    for row in (
        Variant(BASELINE, scheme="BF16", algorithm="", quantized=False),
        Variant("int8", scheme="W8A8", bits=8, default=True, on_gpus_before=BLACKWELL),
        Variant("int4-g128", scheme="W4A16", bits=4, group_size=128, default=True),
        Variant("int4-g64", scheme="W4A16", bits=4, group_size=64, default=True),
        Variant("int4-g128-mixed", MIXED_SCHEME, 4, 128, on_gpus_before=BLACKWELL, sensitive_share=0.2),
        Variant("int4-g32", scheme="W4A16", bits=4, group_size=32),
        Variant("int4-channel", scheme="W4A16", bits=4),
        Variant("int4-g128-asym", scheme="W4A16_ASYM", bits=4, group_size=128, symmetric=False),
        Variant("int4-g64-asym", scheme="W4A16_ASYM", bits=4, group_size=64, symmetric=False),
        Variant("int4-g128-mse", scheme="W4A16", bits=4, group_size=128, observer="mse"),
        Variant("int4-awq-g128", "W4A16", 4, 128, transform="AWQ", algorithm="RTN"),
        Variant("int4-awq-g64", "W4A16", 4, 64, transform="AWQ", algorithm="RTN"),
        Variant("int4-autoround-g128", "W4A16", 4, 128, algorithm=AUTO_ROUND),
        Variant("int4-spinquant-g128", "W4A16", 4, 128, transform="SpinQuant"),
        Variant("int4-a8-channel-mse", "W4A8", 4, observer="mse", algorithm="RTN", on_gpus_since=None),
        Variant("int4-a8-g32", "W4A8", 4, 32, algorithm="RTN", on_gpus_since=None),
        Variant("int4-afp8-g128", "W4AFP8", 4, 128, on_cpus=False, on_gpus_since=(9, 0), on_gpus_before=(9, 1)),
        Variant("int8-smooth", scheme="W8A8", bits=8, transform="SmoothQuant", on_gpus_before=BLACKWELL),
        Variant("int8-w8a16", scheme="W8A16", bits=8, on_cpus=False),
        Variant("fp8-dynamic", "FP8_DYNAMIC", 8, number="float", algorithm="RTN", on_cpus=False),
        Variant("fp8-block", "FP8_BLOCK", 8, number="float", algorithm="RTN", on_cpus=False, block_size=128),
        Variant("nvfp4", "NVFP4", 4, 16, number="float", algorithm="RTN", on_cpus=False),
        Variant("nvfp4-a16", "NVFP4A16", 4, 16, number="float", algorithm="RTN", on_cpus=False),
        Variant("mxfp4", "MXFP4", 4, 32, number="float", algorithm="RTN", on_cpus=False),
        Variant("mxfp4-a16", "MXFP4A16", 4, 32, number="float", algorithm="RTN", on_cpus=False),
    )
}

NATIVE = {
    "fp8": Variant("fp8-native", scheme="FP8", bits=8, number="float", algorithm="", quantized=False),
    "mxfp4": Variant("mxfp4-native", "MXFP4", 4, 32, number="float", algorithm="", quantized=False),
}
"""The baselines of models whose own weights are quantized, by the quant_method of their configuration."""
BASELINES = (BASELINE, *(row.name for row in NATIVE.values()))

DEFAULT = [name for name, row in VARIANTS.items() if row.default]
"""The variants that a run makes unless it names others."""


FP8_CACHE = ".kv-fp8"
NAMED = re.compile(r"(?P<row>[^.]+)(\.seed(?P<seed>[1-9]))?(\.calib(?P<calib>[1-9]))?(?P<cache>\.kv-fp8)?")


def variant_named(name: str, own: Mapping[str, Variant] | None = None) -> Variant:
    """The row of that name; raises PrerequisiteError for other names.

    `ROW.seedN` is a row with another seed, `.calibN` means other calibration texts, and any with `.kv-fp8` is served
    with keys and values in FP8. `own` are the rows of the user's own recipes.
    """
    rows = {**VARIANTS, **(own or {})}
    known = rows | {native.name: native for native in NATIVE.values()}
    if (parts := NAMED.fullmatch(name)) and parts["row"] in known:
        row = known[parts["row"]]
        row = with_seed(row, int(parts["seed"])) if parts["seed"] else row
        row = with_calibration(row, int(parts["calib"])) if parts["calib"] else row
        return replace(row, name=name, kv_cache_dtype="fp8") if parts["cache"] else row
    raise PrerequisiteError(f"Unknown variant {name!r}. Choose from: {', '.join(rows)}.")


def known_variant(name: str) -> Variant | None:
    """The row of that name; None for a name that is not a run's own, e.g. that of a folder with saved results."""
    try:
        return variant_named(name)
    except PrerequisiteError:
        return None


def with_seed(row: Variant, seed: int) -> Variant:
    """The row with that seed; raises PrerequisiteError for a row whose weights depend on no data."""
    check_seeds(row.name, calibrated=row.calibrated)
    return replace(row, name=f"{row.name}.seed{seed}", seed=seed, default=False) if seed else row


def with_calibration(row: Variant, number: int) -> Variant:
    """The row with the calibration texts of that number; raises PrerequisiteError if its weights depend on none."""
    if not row.calibrated:
        raise PrerequisiteError(f"{row.name} has no .calib{number}: its weights depend on no calibration texts.")
    return replace(row, name=f"{row.name}.calib{number}", calibration=number, default=False) if number else row


def check_seeds(name: str, *, calibrated: bool) -> None:
    """Raise PrerequisiteError for a variant whose weights depend on no data."""
    if not calibrated:
        raise PrerequisiteError(
            f"{name} has no seeds: its weights depend on no calibration texts, so every seed gives the same. Leave"
            " it out, or leave --seeds out and name the others' seeds, as in --variants int8,int8.seed1."
        )


def with_baseline(
    names: Iterable[str],
    seeds: int = 1,
    own: Mapping[str, Variant] | None = None,
    calibrations: int = 1,
    baseline: str = BASELINE,
) -> list[str]:
    """The checked variant names, without duplicates: the baseline first, then the others in their order.

    Each quantized row is followed by the same row with the other seeds, if there are more than one, and each of these
    by itself with the other calibration texts, if there are several sets and its weights depend on them. Whatever the
    `baseline` is, `bf16` means it.
    """
    called = {BASELINE: baseline, f"{BASELINE}{FP8_CACHE}": f"{baseline}{FP8_CACHE}"}
    rows = [variant_named(called.get(name, name), own) for name in dict.fromkeys([BASELINE, *names])]
    seeded = [seed for row in rows for seed in (_seeds(row, seeds) if seeds > 1 else [row])]
    several = [other for row in seeded for other in (_calibrations(row, calibrations) if calibrations > 1 else [row])]
    return list(dict.fromkeys(row.name for row in several))


def _seeds(row: Variant, seeds: int) -> list[Variant]:
    alone = not row.quantized or row.seed or row.calibration or row.kv_cache_dtype or row.checkpoint
    return [row] if alone else [with_seed(row, seed) for seed in range(seeds)]


def _calibrations(row: Variant, calibrations: int) -> list[Variant]:
    alone = not row.calibrated or row.calibration or row.kv_cache_dtype
    return [row] if alone else [with_calibration(row, number) for number in range(calibrations)]
