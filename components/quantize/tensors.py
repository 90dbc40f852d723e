"""The tensors of a checkpoint by the names of its layers, read one by one; experts in one tensor are taken apart."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from quantgate.components.models.content import WEIGHTS
from quantgate.components.models.digest import model_files

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, Callable[[], torch.Tensor]]

WEIGHT = ".weight"
NAMED = 5
"""How many layers a message names."""
FUSED = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)")
"""A tensor with the weights of all experts of a layer."""


@contextmanager
def tensors_of(folder: Path) -> "Iterator[Tensors]":
    """How to read each tensor in the folder's weight files, by name.

    Where all experts of a layer are in one tensor, each has the names that llm-compressor gives them when it makes
    them linear layers.
    """
    with ExitStack() as stack:
        found: dict[str, Any] = {}
        fused: dict[str, dict[str, Any]] = {}
        for file in (path for name, path in model_files(folder).items() if name.endswith(WEIGHTS)):
            opened = stack.enter_context(safe_open(file, framework="pt"))
            for name in opened.keys():  # noqa: SIM118 - no mapping
                if match := FUSED.fullmatch(name):
                    fused.setdefault(match[1], {})[match[2]] = opened.get_slice(name)
                found[name] = partial(opened.get_tensor, name)
        for experts, parts in fused.items():
            if apart := _apart(experts, parts):
                for kind in parts:
                    del found[f"{experts}.{kind}"]
                found |= apart
        yield found


def check_stored(folder: Path, layers: Iterable[str]) -> None:
    """Exit with the layers that the files in the folder do not have: their checkpoint could not be compared with it."""
    with tensors_of(folder) as tensors:
        unknown = [name for name in layers if name + WEIGHT not in tensors]
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise SystemExit(
            f"quantgate cannot quantize this kind of model: its files do not have the weights of"
            f" {', '.join(unknown[:NAMED])}{more} as matrices of their own."
        )


def _apart(experts: str, fused: Mapping[str, Any]) -> "Tensors":
    """The weights of each expert; empty for shapes that do not say which half is whose."""
    if len(fused) < 2 or any(len(part.get_shape()) != 3 for part in fused.values()):
        return {}
    (count, high, wide), (_, rows, columns) = (fused[kind].get_shape() for kind in ("gate_up_proj", "down_proj"))
    turned = (high, wide) == (columns, 2 * rows)
    if not turned and (high, wide) != (2 * columns, rows):
        return {}
    half = rows if turned else columns

    def read(kind: str, expert: int, start: int, end: int | None) -> "torch.Tensor":
        part = fused[kind]
        matrix: torch.Tensor = part[expert, :, start:end].T.contiguous() if turned else part[expert, start:end, :]
        return matrix

    places = {"gate_proj": ("gate_up_proj", 0, half), "up_proj": ("gate_up_proj", half, None)}
    places["down_proj"] = ("down_proj", 0, None)
    return {
        f"{experts}.{expert}.{name}{WEIGHT}": partial(read, kind, expert, start, end)
        for expert in range(count)
        for name, (kind, start, end) in places.items()
    }
