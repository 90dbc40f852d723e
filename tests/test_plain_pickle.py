"""A pickle's plain values and arrays are read, and no function that it names is called."""

import importlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantgate.components.benchmarks.plain_pickle import load
from quantgate.components.errors import PrerequisiteError


class Call:
    """An object whose pickle calls the function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_are_read_from_every_protocol(protocol: int) -> None:
    value = {"a": [None, True, -1, 2**70, 0.5], ("b", 2): (), "bytes": b"\x00\xff", "number": np.float64(0.25)}
    arrays = [np.arange(6).reshape(2, 3), np.array([]), np.array([[1.5]], np.float32), np.asfortranarray(np.eye(2))]
    assert load(pickle.dumps(value, protocol), "a.pkl") == value
    read_back = load(pickle.dumps(arrays, protocol), "a.pkl")
    assert isinstance(read_back, list)
    for array, expected in zip(map(np.asarray, read_back), arrays, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_arrays_of_numpy_1_are_read() -> None:
    written = pickle.dumps([np.arange(4.0), np.int64(7)], 2).replace(b"cnumpy._core.", b"cnumpy.core.")
    values = load(written, "a.pkl")
    assert b"numpy.core.multiarray" in written
    assert isinstance(values, list)
    assert (values[0].tolist(), values[1]) == ([0, 1, 2, 3], 7)


def attacks(canary: Path) -> dict[str, bytes]:
    """Pickles that write the canary when Python's own unpickler reads them."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    line = touch.encode()
    shell = b"(" + text(touch)
    module = Call(importlib.import_module, "os")
    return {
        **{f"os.system, protocol {protocol}": pickle.dumps(Call(os.system, touch), protocol) for protocol in range(6)},
        "eval": pickle.dumps(Call(eval, python)),
        "exec": pickle.dumps([np.arange(3), {"deep": [Call(exec, python)]}]),
        "a chain of getattr": pickle.dumps(Call(map_first, Call(getattr, module, "system"), touch)),
        "numpy writes": pickle.dumps(Call(np.ndarray.tofile, np.arange(3), str(canary))),
        "numpy saves": pickle.dumps(Call(np.savetxt, str(canary), [1.0])),
        "numpy opens": pickle.dumps(Call(np.memmap, str(canary), "u1", "w+", 0, (3,))),
        "an array of objects": pickle.dumps(np.array([Call(os.system, touch)], dtype=object)),
        "INST": b"(S'" + line + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(touch) + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + shell + b"tR.",
        "a dotted name": b"\x80\x04" + text("pathlib") + text("os.system") + b"\x93" + shell + b"tR.",
        "a dotted name of an admitted module": b"\x80\x04"
        + text("numpy")
        + text("lib._npyio_impl.os.system")
        + b"\x93"
        + shell
        + b"tR.",
        "NEWOBJ_EX": b"\x80\x04cpathlib\nPath\n(" + text(str(canary)) + b"t}\x920cos\nsystem\n" + shell + b"tR.",
        "BUILD sets a __setstate__": b"\x80\x02ccollections\nUserDict\n)R}"
        + text("__setstate__")
        + b"cos\nsystem\nsb"
        + text(touch)
        + b"b.",
    }


def map_first(function: Callable[[str], object], argument: str) -> object:
    """Call the function: the last link of a chain."""
    return function(argument)


@pytest.mark.parametrize("name", attacks(Path("canary")))
def test_a_function_that_pickle_would_call_is_refused_and_not_called(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    written = attacks(canary)[name]
    with pytest.raises(PrerequisiteError, match=r"a.pkl was not loaded. It needs .*Fetch the file"):
        load(written, "a.pkl")
    assert not canary.exists()
    pickle.loads(written)
    assert canary.exists(), "the attack works on pickle itself"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy.core.multiarray", "fromfile"),
        ("numpy", "dtype.__class__"),
        ("numpy.ndarray", "__setstate__"),
        ("collections", "OrderedDict"),
    ],
)
def test_a_refusal_names_the_function_that_the_pickle_needs(module: str, name: str) -> None:
    needed = f"{module.replace('core', '_core')}.{name}"
    with pytest.raises(PrerequisiteError, match=f"It needs {needed},"):
        load(b"\x80\x04" + text(module) + text(name) + b"\x93.", "a.pkl")


def test_an_incomplete_or_invalid_pickle_is_refused() -> None:
    whole = pickle.dumps({"a": np.arange(5), "b": [np.float64(1)] * 3})
    for written in (whole[:-1], whole[:20], b"", b"no pickle", b"\x80\x09.", b"\x80\x04h\x00."):
        with pytest.raises(PrerequisiteError, match=r"a.pkl is not a complete pickle: .*Fetch the file again"):
            load(written, "a.pkl")
