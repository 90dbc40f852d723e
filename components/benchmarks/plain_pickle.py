"""Read a pickle of plain containers, numbers and numpy arrays, and call nothing that it names.

A pickle is a program: `pickle.load` imports and calls what the file says. Here its opcodes are checked before one of
them is executed, and the few names that arrays need stand for functions of this module, never for numpy's own: those
can be talked into huge allocations, object arrays and dtypes with forged flags.

What a file may cost: MAX_BYTES are read of it, MAX_OPCODES executed, and MAX_MADE bytes made by what it calls, so
memory stays below 1 GiB whatever the file says. Time is bounded by these, not by a clock.
"""

import math
import pickle
import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np

from components.errors import PrerequisiteError

MAX_BYTES = 64 * 2**20
MAX_MADE = 2 * MAX_BYTES
"""Before protocol 3 an array is made twice: its bytes from text, then itself."""
MAX_OPCODES = 500_000
"""An empty dict is one byte of a file and 64 of memory."""
MAX_TUPLES = 50_000
"""Hashing a tuple recurses on the C stack: one that is nested deep enough ends the process."""

PLAIN = """PROTO FRAME STOP MARK POP POP_MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    GLOBAL STACK_GLOBAL REDUCE BUILD"""
OPCODES = frozenset(PLAIN.split())
"""All but those of classes, sets, Python 2's strings, persistent ids, buffers out of band and the extension registry.

The registry has to go: what a process has once looked up there comes back without a question to find_class.
"""

MALFORMED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Python's unpickler raises for a file that is none, or no whole one."""


def content(path: Path) -> bytes:
    """The bytes of a file of at most MAX_BYTES; raises PrerequisiteError for a larger or an unreadable one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error}. Correct the path or fetch the file.") from error
    if len(data) > MAX_BYTES:
        raise PrerequisiteError(f"{path} is larger than {MAX_BYTES} bytes and was not read. Fetch the right file.")
    return data


def load(source: Path | bytes, name: str = "The pickle") -> object:
    """What a pickle of protocol 0 to 5 holds: None, numbers, text, bytes, lists, tuples, dicts, arrays and scalars.

    Arrays are read-only and of booleans, integers or floats. `name` is what PrerequisiteError calls bytes; it is
    raised for whatever else the pickle asks for, naming it, before that is looked up.
    """
    if isinstance(source, Path):
        source, name = content(source), str(source)
    if len(source) > MAX_BYTES:
        raise PrerequisiteError(f"{name} is larger than {MAX_BYTES} bytes and was not read. Fetch the right file.")
    try:
        check_opcodes(source, name)
        return PlainUnpickler(source, name).load()
    except MALFORMED as error:
        raise PrerequisiteError(f"{name} is not a whole pickle: {error}. Fetch the file again.") from error


def refusal(name: str, wants: str) -> PrerequisiteError:
    """The error for a pickle that asks for more than plain data."""
    return PrerequisiteError(
        f"{name} asks for {wants}, which plain containers and arrays do not need; nothing that it names was"
        " called. Do not load it by other means: fetch the file from its publisher again."
    )


def check_opcodes(data: bytes, name: str) -> None:
    """Raise PrerequisiteError unless every opcode is plain and their number bounded, without executing one."""
    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data), start=1):
        if opcode.name not in OPCODES:
            raise refusal(name, f"the opcode {opcode.name}")
        tuples += opcode.name.startswith("TUPLE")
        if count > MAX_OPCODES or tuples > MAX_TUPLES:
            raise refusal(name, f"more than {MAX_OPCODES} opcodes or {MAX_TUPLES} tuples")
        # The unpickler's memo is an array as long as the largest index: one opcode could ask for 32 GiB.
        if opcode.name.endswith("PUT") and not 0 <= int(argument or 0) < MAX_OPCODES:
            raise refusal(name, f"the memo's place {argument}")


class Constructor:
    """What a name of the pickle stands for: it can be called, and not be changed."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., object]) -> None:
        self.name = name
        self.make = make

    def __call__(self, *arguments: object) -> object:
        return self.make(*arguments)

    def __setstate__(self, state: object) -> None:
        # Without this the opcode BUILD would set attributes of what find_class returned.
        raise pickle.UnpicklingError(f"it sets the state of {self.name}")


class Dtype:
    """A dtype of one boolean, integer or float, as a pickle describes it: kind and size, then the byte order."""

    __slots__ = ("order", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.order = "="

    def __setstate__(self, state: object) -> None:
        # Version, byte order, then subarray, names, fields, size, alignment and flags, which say nothing here.
        match state:
            case (3, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                self.order = order
            case _:
                raise pickle.UnpicklingError(f"{state!r:.100} is not the state of a plain dtype")

    def native(self) -> "np.dtype[np.generic]":
        """numpy's dtype; 1-byte kinds have no byte order."""
        return np.dtype(self.text if self.text.endswith("1") else self.order + self.text)


class Array(np.ndarray[tuple[int, ...], np.dtype[np.generic]]):
    """A numpy array whose state a pickle sets once, through the check that PlainUnpickler gives it."""

    check: "Callable[[object, Dtype, object], np.dtype[np.generic]] | None"

    def __array_finalize__(self, parent: object) -> None:
        self.check = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, tuple(shape), Dtype() as dtype, bool(fortran), bytes(raw)) if self.check:
                super().__setstate__((1, shape, self.check(raw, dtype, shape), fortran, raw))  # type: ignore[arg-type]
                self.check = None
                self.flags.writeable = False
            case _:
                raise pickle.UnpicklingError("an array's state is not shape, plain dtype, order and bytes, once")


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows what an array's pickle names, and nothing else."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(BytesIO(data))
        self.name = name
        self.left = MAX_MADE

    def find_class(self, module: str, name: str, /) -> Constructor:
        """What stands for the name; raises PrerequisiteError for every name that arrays do not need."""
        known: dict[str, Callable[..., object]] = {
            "numpy._core.multiarray._reconstruct": self.blank,
            "numpy._core.multiarray.scalar": self.scalar,
            "numpy._core.numeric._frombuffer": self.array,
            "numpy.dtype": self.dtype,
            "numpy.ndarray": self.no_call,
            "_codecs.encode": self.encoded,
            "__builtin__.bytes": self.no_bytes,
        }
        # numpy 2 renamed numpy.core.
        asked = re.sub(r"^numpy\.core\.", "numpy._core.", f"{module}.{name}")
        if asked not in known:
            raise refusal(self.name, f"{module}.{name}")
        return Constructor(asked, known[asked])

    def spend(self, size: int) -> None:
        """Raise PrerequisiteError once the file has made more than MAX_MADE bytes: a few opcodes can repeat many."""
        self.left -= size
        if self.left < 0:
            raise refusal(self.name, f"more than {MAX_MADE} bytes of arrays")

    def fitting(self, raw: object, dtype: Dtype, shape: object) -> "np.dtype[np.generic]":
        """numpy's dtype of an array whose bytes are as many as its shape needs."""
        if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, Dtype) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array is not made of bytes, a plain dtype and a shape")
        native = dtype.native()
        if any(type(each) is not int or each < 0 for each in shape) or math.prod(shape) * native.itemsize != len(raw):
            raise pickle.UnpicklingError(f"{len(raw)} bytes are not the array of shape {shape!r:.100}")
        self.spend(len(raw))
        return native

    def array(self, raw: bytes, dtype: Dtype, shape: tuple[int, ...], order: str) -> "np.ndarray[tuple[int, ...]]":
        """An array as protocol 5 writes it; `order` is C or F."""
        found = np.frombuffer(raw, self.fitting(raw, dtype, shape)).reshape(shape, order=order)  # type: ignore[call-overload]
        found.flags.writeable = False
        return found  # type: ignore[no-any-return]

    def blank(self, *_: object) -> Array:
        """An array that waits for its state, as protocols 0 to 4 write it."""
        waiting = np.empty(0, np.int8).view(Array)
        waiting.check = self.fitting
        return waiting

    def scalar(self, dtype: Dtype, raw: bytes) -> object:
        """A numpy scalar."""
        return self.array(raw, dtype, (), "C")[()]

    def dtype(self, text: object, *_: object) -> Dtype:
        """A plain dtype; raises PrerequisiteError for objects, records, text and dates."""
        if not isinstance(text, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
            raise refusal(self.name, f"the dtype {text!r:.100}")
        return Dtype(text)

    def encoded(self, text: object, codec: object) -> bytes:
        """Bytes that protocols 0 to 2 write as text."""
        if codec != "latin1" or not isinstance(text, str):
            raise pickle.UnpicklingError("bytes are not written as latin1 text")
        self.spend(len(text))
        return text.encode("latin1")

    def no_bytes(self) -> bytes:
        """No bytes, as protocols 0 to 2 write them."""
        return b""

    def no_call(self, *arguments: object) -> object:
        """Nothing: the class of an array is named in its pickle, never called."""
        raise pickle.UnpicklingError(f"it calls numpy.ndarray with {len(arguments)} arguments")
