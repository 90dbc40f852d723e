"""A file of JSON lines under keys: what was asked once is read from it and not asked again.

Each line is written whole when its answer arrives, so an interrupted command loses only the requests in flight. A line
that is cut off or damaged counts as missing. Of two lines with one key the later counts.
"""

import json
import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from quantgate.components.errors import PrerequisiteError


def key_of(*parts: object) -> str:
    """The hex sha256 of the parts, which are JSON values."""
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


class KeptLines:
    """The lines of `file`, which is created with its first line."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.writing = threading.Lock()
        self.lines: dict[str, dict[str, Any]] = {}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes() if file.exists() else b""
        except OSError as error:
            raise PrerequisiteError(f"{file} cannot be used: {error.strerror}. Choose another --out.") from error
        self.ends_cleanly = not content or content.endswith(b"\n")
        for line in content.split(b"\n"):
            try:
                value = json.loads(line)
                self.lines[value["key"]] = value
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, key: str) -> dict[str, Any] | None:
        """The line with this key, or None."""
        return self.lines.get(key)

    def put(self, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Append the value under the key, and return the line."""
        line = {"key": key, **value}
        with self.writing:
            try:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(("" if self.ends_cleanly else "\n") + json.dumps(line) + "\n")
            except OSError as error:
                raise PrerequisiteError(
                    f"{self.file} cannot be written: {error.strerror}. Make room, and run it again."
                ) from error
            self.ends_cleanly = True
            self.lines[key] = line
        return line
