import builtins
import copyreg
import importlib
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.benchmarks import plain_pickle
from components.benchmarks.plain_pickle import MAX_BYTES, MAX_MADE, MAX_OPCODES, MAX_TUPLES, content, load
from components.errors import PrerequisiteError

CODE = 0xF0
"""A code of the extension registry that is kept for private use."""


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def registered() -> Iterator[None]:
    copyreg.add_extension("posix", "system", CODE)
    yield
    copyreg.remove_extension("posix", "system", CODE)


def test_plain_values_come_back_from_every_protocol() -> None:
    shared = [1, 2]
    value = {"a": [None, True, False, -1, 2**70, 0.5, 1e300], ("b", 2): (), 3: shared, "again": shared, "β\n": "\udcff"}
    for protocol in range(6):
        found = load(pickle.dumps(value, protocol))
        assert found == value
        assert isinstance(found, dict)
        assert found[3] is found["again"]


def test_bytes_come_back_from_every_protocol() -> None:
    for protocol in range(6):
        assert load(pickle.dumps([b"", b"\x00\xff", b"x" * 300], protocol)) == [b"", b"\x00\xff", b"x" * 300]


@pytest.mark.parametrize("kind", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">f8", ">i4"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3), (1, 2, 3)])
def test_arrays_and_scalars_come_back_from_every_protocol(kind: str, shape: tuple[int, ...]) -> None:
    array = np.arange(1, 1 + int(np.prod(shape))).reshape(shape).astype(kind)
    for protocol in range(6):
        for each in (array, np.asfortranarray(array), array[..., ::-1] if shape else array):
            found = load(pickle.dumps(each, protocol))
            assert isinstance(found, np.ndarray)
            assert (found.shape, found.dtype.newbyteorder("=")) == (each.shape, each.dtype.newbyteorder("="))
            np.testing.assert_array_equal(found, each)
            assert not found.flags.writeable
        scalar = np.dtype(kind).type(1)
        found = load(pickle.dumps(scalar, protocol))
        assert (found, type(found)) == (1, type(scalar))


def test_numpy_1_names_its_modules_otherwise() -> None:
    for protocol in (0, 2, 3):
        written = pickle.dumps([np.arange(4.0), np.int64(7)], protocol).replace(b"cnumpy._core.", b"cnumpy.core.")
        found = load(written)
        assert b"numpy.core.multiarray" in written
        assert isinstance(found, list)
        assert (found[0].tolist(), found[1]) == ([0, 1, 2, 3], 7)


def attacks(canary: Path) -> dict[str, bytes]:
    """Pickles that write the canary when Python's own unpickler reads them."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    line = touch.encode()
    shell = b"(" + text(touch)
    module = Call(importlib.import_module, "os")
    return {
        **{f"os.system, protocol {each}": pickle.dumps(Call(os.system, touch), each) for each in range(6)},
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
        "EXT1": b"\x80\x02\x82" + bytes([CODE]) + shell + b"tR.",
        "EXT2": b"\x80\x02\x83" + struct.pack("<H", CODE) + shell + b"tR.",
        "EXT4": b"\x80\x02\x84" + struct.pack("<i", CODE) + shell + b"tR.",
    }


def map_first(function: Callable[[str], object], argument: str) -> object:
    """Calls: the last link of a chain."""
    return function(argument)


@pytest.mark.parametrize("name", attacks(Path("canary")))
@pytest.mark.usefixtures("registered")
def test_what_executes_under_pickle_is_refused_and_not_executed(name: str, canary: Path) -> None:
    written = attacks(canary)[name]
    with pytest.raises(PrerequisiteError, match=r"The pickle asks for .*nothing that it names was called"):
        load(written)
    assert not canary.exists()
    pickle.loads(written)
    assert canary.exists()
    canary.unlink()
    # The extension registry now remembers what it looked up.
    with pytest.raises(PrerequisiteError, match="The pickle asks for "):
        load(written)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        (pickle.dumps(Call(os.system, "true")), "posix.system"),
        (pickle.dumps(Call(builtins.eval, "1"), 2), "__builtin__.eval"),
        (pickle.dumps(OrderedDict(a=1)), "collections.OrderedDict"),
        (pickle.dumps(np.array([None])), "the dtype 'O8'"),
        (b"\x80\x02cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n(" + text("O8") + b"tRN\x86R.", "the dtype 'O8'"),
        (pickle.dumps(np.array(["text"])), "the dtype 'U4'"),
        (pickle.dumps(np.zeros(2, [("a", "f8")])), "the dtype 'V8'"),
        (pickle.dumps(np.array(0, "M8[s]")), "the dtype 'M8'"),
        (pickle.dumps(Path("x")), "pathlib."),
        (pickle.dumps({1}), "the opcode EMPTY_SET"),
        (b"\x80\x02Ppersistent\n.", "the opcode PERSID"),
        (b"\x80\x02K\x01Q.", "the opcode BINPERSID"),
        (b"\x80\x05\x97.", "the opcode NEXT_BUFFER"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "the opcode NEWOBJ"),
        (b"\x80\x02cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"\x80\x04" + text("numpy") + text("dtype.__class__") + b"\x93.", "numpy.dtype.__class__"),
        (b"\x80\x04" + text("numpy.ndarray") + text("__setstate__") + b"\x93.", "numpy.ndarray.__setstate__"),
    ],
)
def test_a_refusal_names_what_was_asked_for(written: bytes, asked: str) -> None:
    with pytest.raises(PrerequisiteError, match=rf"The pickle asks for {asked}"):
        load(written)


DTYPE = b"cnumpy\ndtype\n(" + text("i8") + b"tR"
STATE = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
BLANK = b"cnumpy._core.multiarray\n_reconstruct\n)R"
FILL = b"(K\x01K\x02\x85" + DTYPE + STATE + b"b\x89C\x10" + bytes(16) + b"t"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"cnumpy\ndtype\n}" + text("make") + b"Nsb", "it sets the state of numpy.dtype"),
        (b"cnumpy\ndtype\nN}" + text("make") + b"Ns\x86b", "it sets the state of numpy.dtype"),
        (b"cnumpy\nndarray\nN}" + text("__setstate__") + b"Ns\x86b", "it sets the state of numpy.ndarray"),
        (b"cnumpy\nndarray\n(K\x05\x85tR", "it calls numpy.ndarray"),
        (DTYPE + STATE.replace(b"K\x00t", b"K\x3ft") + b"b", "not the state of a plain dtype"),
        (DTYPE + STATE.replace(b"NNN", b"N(" + text("a") + b"t}") + b"b", "not the state of a plain dtype"),
        (DTYPE + b"}" + text("text") + text("O8") + b"sb", "not the state of a plain dtype"),
        (BLANK + b"}" + text("check") + b"Nsb", "an array's state is not"),
        (BLANK + FILL + b"b" + FILL + b"b", "an array's state is not"),
        (BLANK + FILL.replace(b"K\x02\x85", b"K\x03\x85") + b"b", r"16 bytes are not the array of shape \(3,\)"),
        (BLANK + FILL.replace(b"K\x02\x85", b"J\xfe\xff\xff\xff\x85") + b"b", "16 bytes are not the array"),
        (BLANK + FILL.replace(b"C\x10" + bytes(16), b"]") + b"b", "an array's state is not"),
        (b"cnumpy._core.multiarray\nscalar\n" + text("O8") + b"C\x08" + bytes(8) + b"\x86R", "an array is not made of"),
        (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R", "not written as latin1"),
    ],
)
def test_an_admitted_name_does_only_what_an_array_needs(body: bytes, complaint: str) -> None:
    with pytest.raises(PrerequisiteError, match=complaint):
        load(b"\x80\x04" + body + b".")
    assert load(pickle.dumps(np.int64(3))) == 3


def test_an_array_written_by_hand_is_read() -> None:
    assert np.array_equal(load(b"\x80\x04" + BLANK + FILL + b"b."), [0, 0])  # type: ignore[arg-type]


def test_a_pickle_that_is_cut_off_or_none_is_refused() -> None:
    whole = pickle.dumps({"a": np.arange(5), "b": [np.float64(1)] * 3})
    for end in range(len(whole)):
        with pytest.raises(PrerequisiteError, match=r"The pickle is not a whole pickle: .*Fetch the file again"):
            load(whole[:end])
    for written in (b"no pickle", b"\x80\x09.", b".", b"\x80\x04]}s.", b"\x80\x04h\x00."):
        with pytest.raises(PrerequisiteError, match="is not a whole pickle"):
            load(written)


def test_a_file_is_read_up_to_its_bound_and_named_when_it_is_larger(tmp_path: Path) -> None:
    path = tmp_path / "some.pkl"
    path.touch()
    os.truncate(path, MAX_BYTES)
    assert len(content(path)) == MAX_BYTES
    os.truncate(path, MAX_BYTES + 1)
    for read in (content, load):
        with pytest.raises(PrerequisiteError, match=rf"some.pkl is larger than {MAX_BYTES} bytes"):
            read(path)
    with pytest.raises(PrerequisiteError, match="The pickle is larger"):
        load(bytes(MAX_BYTES + 1))
    with pytest.raises(PrerequisiteError, match=r"other.pkl cannot be read: .*No such file"):
        load(tmp_path / "other.pkl")


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "some.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert load(path) == {"a": 1}


def test_the_number_of_opcodes_is_bounded() -> None:
    pairs = (MAX_OPCODES - 2) // 2
    assert load(b"N0" * pairs + b"N.") is None
    with pytest.raises(PrerequisiteError, match=f"more than {MAX_OPCODES} opcodes"):
        load(b"N0" * pairs + b"N0N.")


def test_tuples_cannot_be_nested_until_hashing_one_overflows_the_stack() -> None:
    as_key = b"\x80\x02})%sNs."
    assert isinstance(load(as_key % (b"\x85" * MAX_TUPLES)), dict)
    with pytest.raises(PrerequisiteError, match=f"or {MAX_TUPLES} tuples"):
        load(as_key % (b"\x85" * (MAX_TUPLES + 1)))


def test_a_few_opcodes_cannot_make_many_bytes() -> None:
    size = 2**20
    once = b"c_codecs\nencode\nh\x00h\x01\x86R0"
    begun = b"\x80\x02" + text("a" * size) + b"q\x000" + text("latin1") + b"q\x010"
    assert load(begun + once * (MAX_MADE // size) + b"N.") is None
    with pytest.raises(PrerequisiteError, match=f"more than {MAX_MADE} bytes of arrays"):
        load(begun + once * (MAX_MADE // size + 1) + b"N.")


@pytest.mark.parametrize(
    "written",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x02Np2147483647\n.",
        b"\x80\x04N\x8e" + struct.pack("<Q", 2**50) + b".",
        b"\x80\x05N\x96" + struct.pack("<Q", 2**50) + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"N.",
        b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(C\x00" + DTYPE + b"J\xff\xff\xff\x7f\x85" + text("C") + b"tR.",
    ],
)
def test_a_length_that_the_file_only_claims_allocates_nothing(written: bytes) -> None:
    with pytest.raises(PrerequisiteError):
        load(written)


def test_nothing_is_left_behind_in_the_module() -> None:
    before = dict(vars(plain_pickle))
    for written in attacks(Path("canary")).values():
        with pytest.raises(PrerequisiteError):
            load(written)
    assert vars(plain_pickle) == before
