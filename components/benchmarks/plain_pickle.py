"""Read a pickle of plain containers, numbers and numpy arrays, and refuse every other name.

A pickle is a program: it names functions, and `pickle.load` imports and calls them. Here it finds only those that numpy
writes for arrays. The caller checks the file's sha256 first, so this stands behind that check.
Source: https://docs.python.org/3/library/pickle.html#restricting-globals
"""

import io
import pickle

from components.errors import PrerequisiteError

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
"""What Python's unpickler raises for bytes that are not a whole pickle."""


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows only what arrays need."""

    def find_class(self, module: str, name: str) -> object:
        """The function or class of that name; raises PrerequisiteError for one that arrays do not need."""
        module = module.replace("numpy.core.", "numpy._core.")  # as numpy 1 called it
        if (module, name) not in ALLOWED:
            raise PrerequisiteError(f"It asks for {module}.{name}, which plain containers and arrays do not need.")
        return super().find_class(module, name)


def load(data: bytes, file: str) -> object:
    """What the pickle holds; raises PrerequisiteError, naming `file`, when it asks for more or is not whole."""
    try:
        return PlainUnpickler(io.BytesIO(data)).load()
    except PrerequisiteError as error:
        raise PrerequisiteError(f"{file} was not loaded. {error} Fetch the file from its publisher again.") from error
    except MALFORMED as error:
        raise PrerequisiteError(f"{file} is not a whole pickle: {error}. Fetch the file again.") from error
