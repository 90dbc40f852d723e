"""Read a pickle of plain containers, numbers and numpy arrays; refuse one that needs any other class or function.

A pickle is a program: it names functions, and `pickle.load` imports and calls them. Here only the functions that numpy
needs for arrays are allowed. This is the second barrier: the caller checks the file's sha256 first.
Source: https://docs.python.org/3/library/pickle.html#restricting-globals
"""

import io
import pickle

from quantgate.components.errors import PrerequisiteError

ALLOWED = frozenset(
    {
        ("__builtin__", "bytes"),  # before protocol 3: an empty array's
        ("_codecs", "encode"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    }
)
MALFORMED = (pickle.UnpicklingError, AttributeError, EOFError, LookupError, TypeError, ValueError)
"""The errors of Python's unpickler for bytes that are not a complete pickle."""


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that allows only the classes and functions that arrays need."""

    def find_class(self, module: str, name: str) -> object:
        """The function or class of that name; raises PrerequisiteError for one that arrays do not need."""
        module = module.replace("numpy.core.", "numpy._core.")  # numpy 1's name
        if (module, name) not in ALLOWED:
            raise PrerequisiteError(f"It needs {module}.{name}, which plain containers and arrays do not.")
        return super().find_class(module, name)


def load(data: bytes, file: str) -> object:
    """The pickle's content; raises PrerequisiteError, naming `file`, if it is incomplete or needs more than ALLOWED."""
    try:
        return PlainUnpickler(io.BytesIO(data)).load()
    except PrerequisiteError as error:
        raise PrerequisiteError(f"{file} was not loaded. {error} Fetch the file from its publisher again.") from error
    except MALFORMED as error:
        raise PrerequisiteError(f"{file} is not a complete pickle: {error}. Fetch the file again.") from error
