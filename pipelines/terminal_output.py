"""Print to the terminal. Text of a model, a row, a log or a server cannot move its cursor, hide or recolour it."""

import sys
import unicodedata
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

KEPT = "\n\t"
STEERING = ("Cc", "Cf", "Cs")
"""Unicode's control characters, format characters (some reverse a text) and surrogates."""


def visible(text: str) -> str:
    """The text with each control character as JSON writes it, e.g. `\\u001b`: JSON stays JSON."""
    return "".join(as_escape(character) if is_steering(character) else character for character in text)


def is_steering(character: str) -> bool:
    """Whether a terminal acts on the character instead of showing it."""
    return character not in KEPT and unicodedata.category(character) in STEERING


def as_escape(character: str) -> str:
    """The character's UTF-16 code units as JSON escapes."""
    units = character.encode("utf-16-be", "surrogatepass").hex(" ", 2).split()
    return "".join(f"\\u{unit}" for unit in units)


def print_text(text: object, *, to_stderr: bool = False) -> None:
    """Print the text, with visible control characters, at once."""
    print(visible(str(text)), file=sys.stderr if to_stderr else sys.stdout, flush=True)


class VisibleConsole(Console):
    """A console of rich's whose own styles and cursor moves work, and in which those of a text are visible."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of `renderable`: those with text have visible control characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))
