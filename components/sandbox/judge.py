"""The judge's process: run a benchmark's tests where the model's program cannot reach them.

The tests run here as they are. Each name that they use and do not define (HumanEval's entry point, the function in
MBPP's assertions) stands for the program's object: a call sends the arguments to the program's process and returns the
result as data. So every comparison happens here.
"""

import ast
import builtins
import importlib
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from quantgate.components.sandbox.values import (
    ClosedError,
    Conversation,
    InvalidMessageError,
    UnsentError,
    decode,
    encode,
)


class Remote:
    """An object of the program's process. It equals only itself, whatever its class says."""

    def __init__(self, program: "RemoteProgram", number: int) -> None:
        object.__setattr__(self, "_origin", (program, number))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the program's object returns; raises what it raises."""
        return ask(self, "call", list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        """The attribute of the program's object."""
        return ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the attribute of the program's object."""
        ask(self, "set", name, value)

    def __iter__(self) -> Iterator[Any]:
        """The items of the program's object."""
        items = ask(self, "items")
        return iter(items if isinstance(items, list) else ())


def origin(remote: Remote) -> tuple["RemoteProgram", int]:
    """The program of the object, and the object's number there."""
    program, number = object.__getattribute__(remote, "_origin")
    return program, number


def ask(remote: Remote, action: str, *values: Any) -> Any:
    """The program's answer about the object."""
    return origin(remote)[0].ask(action, remote, *values)


class RemoteProgram:
    """The model's program in its own process."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.broken: Exception | None = None
        """Why there is no verdict: no `except` of a test may hide it."""

    def ask(self, action: str, *values: Any) -> Any:
        """The result of one request; raises an exception of the same name as the program's."""
        try:
            self.conversation.send([encode(value, self.number) for value in (action, *values)])
            match self.conversation.receive():
                case {"value": content}:
                    return decode(content, self.of_number)
                case {"raised": str(name)}:
                    raised = exception(name)
                case _:
                    raise InvalidMessageError("no reply")
        except (ClosedError, InvalidMessageError, UnsentError) as error:
            self.broken = self.broken or error
            raise
        raise raised

    def number(self, value: object) -> int:
        """The number of the program's object; raises UnsentError for an object of the tests."""
        if type(value) is Remote:
            return origin(value)[1]
        raise UnsentError(type(value).__name__)

    def of_number(self, number: Any) -> Remote:
        """The program's object with that number."""
        if type(number) is not int:
            raise InvalidMessageError("no number")
        return Remote(self, number)


ENDS_A_LOOP = ("StopIteration", "StopAsyncIteration")
"""With these, `map` and `zip` of a test would end early, and the test would compare nothing."""


def exception(name: str) -> Exception:
    """An exception with that name: Python's own, or a new class; RuntimeError for what ends a loop, as in a generator.

    Source: https://peps.python.org/pep-0479
    """
    if name in ENDS_A_LOOP:
        return RuntimeError(f"the program raised {name}")
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception) and name == known.__name__:
        try:
            return known("raised by the program")
        except TypeError:  # UnicodeDecodeError takes more
            pass
    error: Exception = type(name[:100] if name.isidentifier() else "ProgramError", (Exception,), {})()
    return error


def judge(source: str, tests: str, program: RemoteProgram) -> None:
    """Run the program, then its tests; returns only if all hold, else raises what they or the program raise."""
    program.ask("run", source)
    tree = ast.parse(tests)
    scope: dict[str, Any] = {"__name__": "tests"}
    for name in free_names(tree):
        if name in modules(tree):
            scope[name] = importlib.import_module(name)
            continue
        try:
            scope[name] = program.ask("name", name)
        except NameError:
            continue  # the test that uses it raises NameError
    try:
        exec(compile(tree, "<tests>", "exec", dont_inherit=True), scope)
    finally:
        if program.broken:
            reraise(program.broken)


def reraise(error: Exception) -> NoReturn:
    """Raise the error in place of what the tests made of it."""
    raise error from None


def free_names(tree: ast.Module) -> list[str]:
    """The names that the tests use and do not define: the program's; sorted.

    A benchmark may call its function like a built-in one, e.g. `sum` in MBPP. Such a name is the program's only if the
    tests use no other free name and an assertion calls it first.
    """
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    defined |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    free = used - defined - set(dir(builtins))
    return sorted(free or {name for node in tree.body if isinstance(node, ast.Assert) for name in called(node)})


def called(assertion: ast.Assert) -> list[str]:
    """The function whose result the assertion compares or takes as true, if it has a plain name."""
    test = assertion.test
    while not isinstance(test, ast.Call):
        if isinstance(test, ast.Compare):
            test = test.left
        elif isinstance(test, ast.UnaryOp):
            test = test.operand
        else:
            return []
    return [test.func.id] if isinstance(test.func, ast.Name) else []


def modules(tree: ast.Module) -> set[str]:
    """The modules of the standard library whose functions the tests use without an import."""
    bases = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {base.id for base in bases if isinstance(base, ast.Name)} & sys.stdlib_module_names
