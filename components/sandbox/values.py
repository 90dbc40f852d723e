"""Values as text, between a model's program and the tests that judge it: each message is one line of JSON.

A value is data: the receiver builds it from the types below, never from what the sender's classes say. So a result that
claims to equal everything arrives as what it is. A value of another type (a function, an object of the program's own
class) stays in its process; only its number travels.
"""

import json
import os
from collections import deque
from collections.abc import Callable
from typing import Any

LONGEST_MESSAGE = 16 << 20
"""Bytes of one message."""
EXACT_IN_JSON = 1 << 53
"""A larger integer travels as hexadecimal digits: Python limits the length of decimal ones."""
NO_MEMORY = b'{"raised": "MemoryError"}\n'

COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)
}
TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)}
PARTS: dict[tuple[str, str], Callable[[Any], list[Any]]] = {
    ("builtins", "complex"): lambda value: [value.real, value.imag],
    ("builtins", "bytes"): lambda value: [value.hex()],
    ("builtins", "bytearray"): lambda value: [value.hex()],
    ("builtins", "range"): lambda value: [value.start, value.stop, value.step],
    ("decimal", "Decimal"): lambda value: [str(value)],
    ("fractions", "Fraction"): lambda value: [value.numerator, value.denominator],
}
"""Module and name of a type, and the values that it is made of."""


class InvalidMessageError(Exception):
    """The program's process sent something that is not a message, or a message that is too long."""


class ClosedError(Exception):
    """The other process ended, or closed the connection."""


class UnsentError(Exception):
    """The tests pass an object to the program that only exists in their own process, e.g. a lambda."""


def encode(value: object, number: Callable[[object], int]) -> Any:
    """The value as JSON's types; `number` gives the number of an object that stays in its process.

    A value of a subclass of these types, e.g. a named tuple, travels as the type itself.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        plain = int(value)
        return plain if abs(plain) < EXACT_IN_JSON else ["int", hex(plain)]
    if isinstance(value, type) and value in TYPES.values():
        return ["type", value.__name__]
    if isinstance(value, dict):
        return ["dict", *([encode(key, number), encode(item, number)] for key, item in value.items())]
    for name, kind in COLLECTIONS.items():
        if isinstance(value, kind):  # type: ignore[arg-type]
            return [name, *(encode(item, number) for item in value)]  # type: ignore[attr-defined]
    for kind in type(value).__mro__:
        if parts := PARTS.get((kind.__module__, kind.__name__)):
            return [kind.__name__, *(encode(part, number) for part in parts(value))]
    return ["object", number(value)]


def decode(content: Any, of_number: Callable[[int], Any]) -> Any:
    """The value; `of_number` gives the object with a number. Raises InvalidMessageError if the content is no value."""
    if not isinstance(content, list):
        if content is None or isinstance(content, bool | int | float | str):
            return content
        raise InvalidMessageError(type(content).__name__)
    try:
        name, *parts = content
        if name == "dict":
            return {decode(key, of_number): decode(item, of_number) for key, item in parts}
        if name == "object":
            (number,) = parts
            return of_number(number)
        values = [decode(part, of_number) for part in parts]
        return COLLECTIONS[name](values) if name in COLLECTIONS else built(name, values)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise InvalidMessageError(str(error)) from error


def built(name: str, values: list[Any]) -> Any:
    """A value that is not a collection, from its parts."""
    if name == "int":
        return int(values[0], 16)
    if name == "type":
        return TYPES[values[0]]
    if name == "Decimal":
        from decimal import Decimal

        return Decimal(*values)
    if name == "Fraction":
        from fractions import Fraction

        return Fraction(*values)
    if name == "bytes":
        return bytes.fromhex(*values)
    if name == "bytearray":
        return bytearray.fromhex(*values)
    return {"complex": complex, "range": range}[name](*values)


class Conversation:
    """One side of a connection of two pipes."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer, self.waiting = reader, writer, b""

    def send(self, message: Any) -> None:
        """Send one message; raises ClosedError."""
        try:
            self.write(json.dumps(message).encode() + b"\n")
        except MemoryError:
            self.write(NO_MEMORY)

    def write(self, line: bytes) -> None:
        """Write the whole line; raises ClosedError."""
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self.writer, left) :]
        except OSError as error:
            raise ClosedError(str(error)) from error

    def receive(self) -> Any:
        """The next message; raises ClosedError or InvalidMessageError."""
        parts, size = [self.waiting], len(self.waiting)
        while b"\n" not in parts[-1]:
            parts.append(os.read(self.reader, 1 << 16))
            if not parts[-1]:
                raise ClosedError("the connection ended")
            size += len(parts[-1])
            if size > LONGEST_MESSAGE:
                raise InvalidMessageError("the message is too long")
        line, _, self.waiting = b"".join(parts).partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidMessageError(str(error)) from error

    def close(self) -> None:
        """Close both pipes."""
        os.close(self.reader)
        os.close(self.writer)
