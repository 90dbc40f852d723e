"""The process of a model's program: run it once, then call its functions with the values that the judge sends."""

import sys
import types
from itertools import islice
from typing import Any

from quantgate.components.sandbox.values import ClosedError, Conversation, decode, encode

MOST_ITEMS = 1_000_000
"""Of an iterator that a test reads to its end."""


class ServedProgram:
    """A program's module, and its objects that the judge knows by number."""

    def __init__(self) -> None:
        self.module, self.objects = types.ModuleType("program"), list[Any]()
        sys.modules["program"] = self.module
        sys.argv = ["program"]

    def number(self, value: object) -> int:
        """A number for the object, by which the judge can name it."""
        self.objects.append(value)
        return len(self.objects) - 1

    def answer(self, request: list[Any]) -> Any:
        """The result of one request, as JSON's types; raises what the program raises."""
        action, *values = (decode(value, self.objects.__getitem__) for value in request)
        return encode(getattr(self, action)(*values), self.number)

    def run(self, source: str) -> None:
        """Run the program as a module of its own, which is not `__main__`, as in HumanEval's harness."""
        exec(compile(source, "<program>", "exec", dont_inherit=True), self.module.__dict__)

    def name(self, name: str) -> Any:
        """The program's object of that name; raises NameError, as a test in the same process would."""
        if name not in self.module.__dict__:
            raise NameError(name)
        return self.module.__dict__[name]

    def call(self, function: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        """What the function returns."""
        return function(*arguments, **named)

    def get(self, value: Any, attribute: str) -> Any:
        """The attribute of the object."""
        return getattr(value, attribute)

    def set(self, value: Any, attribute: str, content: Any) -> None:
        """Change the attribute of the object."""
        setattr(value, attribute, content)

    def items(self, value: Any) -> list[Any]:
        """The items of the object."""
        return list(islice(value, MOST_ITEMS))


def serve(judge: Conversation) -> None:
    """Answer the judge's requests until it has no more."""
    served = ServedProgram()
    while True:
        try:
            request = judge.receive()
        except ClosedError:
            return
        try:
            reply = {"value": served.answer(request)}
        except BaseException as error:  # noqa: BLE001 - whatever a program raises, SystemExit included, is its result
            reply = {"raised": type(error).__name__}
        judge.send(reply)
