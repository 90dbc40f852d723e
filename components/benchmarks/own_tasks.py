"""Tasks of a user's own: the lm-eval definitions in the `include_path` of a suite file.

Such a folder may contain Python functions, which a definition names with `!function`. They run in quantgate's process.
So a definition with one is refused unless the user trusts the folder. Without functions a definition cannot run code:
its templates are rendered in Jinja's sandbox.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import fetch, split_uri
from quantgate.components.storage.store import MARKER, files_of
from quantgate.components.storage.yaml_file import CORRECT, composed

DEFINES = re.compile(r"^\"?(?:task|group)\"?: *[\"']?([^\s\"'#\[{]+)", re.MULTILINE)
MOST_BYTES = 20_000_000
FUNCTION = ("!", "function")
SIZE_ADVICE = "Keep the definitions in it, and put rows where `quantgate mirror` finds them"


@dataclass(frozen=True)
class OwnTasks:
    """A folder of a user's own definitions."""

    folder: Path
    trusted: bool = False
    """Whether the functions in it may be loaded."""

    @cached_property
    def digest(self) -> str:
        """sha256 over the names and the content of the folder's files."""
        files = [f"{name} {sha256_of(path)}" for name, path in self.files().items()]
        return hashlib.sha256("\n".join(files).encode()).hexdigest()

    @cached_property
    def names(self) -> set[str]:
        """The names of the tasks and groups that the folder defines."""
        yaml_files = [path for name, path in self.files().items() if name.endswith(".yaml")]
        return {name for path in yaml_files for name in names_in(path)}

    def files(self) -> dict[str, Path]:
        """The files by relative name; raises PrerequisiteError for a missing or a large folder."""
        if not self.folder.is_dir():
            raise PrerequisiteError(f"include_path: {self.folder} is not a directory.")
        files = {name: path for name, path in files_of(self.folder).items() if "__pycache__" not in path.parts}
        if (size_bytes := sum(path.stat().st_size for path in files.values())) > MOST_BYTES:
            raise PrerequisiteError(
                f"include_path: {self.folder} has {size_bytes / 1e6:.0f} MB of files, and at most "
                f"{MOST_BYTES / 1e6:.0f} MB are copied for a run. {SIZE_ADVICE}."
            )
        return files


def names_in(file: Path) -> list[str]:
    """The names of the tasks and groups that a YAML file defines."""
    return DEFINES.findall(file.read_text(encoding="utf-8"))


def own_tasks(location: str, trusted: bool) -> OwnTasks:
    """The definitions in a folder, below an s3:// prefix, or in a run's copy of either."""
    if "://" not in location:
        return OwnTasks(Path(location.removeprefix("file:")).resolve(), trusted)
    store, name = split_uri(location)
    if store.get_text(f"{name}/{MARKER}") is not None:
        return OwnTasks(fetch(location, cache_dir()).resolve(), trusted)
    from quantgate.components.storage.s3 import plain_folder

    return OwnTasks(plain_folder(location, lambda names, _read: names, cache_dir()).resolve(), trusted)


def check_trust(files: Iterable[Path], own: OwnTasks) -> None:
    """Raise PrerequisiteError for a function in an own definition that is not trusted."""
    for file in files:
        for included in with_includes(file, own.folder) if file.is_relative_to(own.folder) else ():
            if (line := check_yaml(included)) and not own.trusted:
                raise PrerequisiteError(
                    f"{included}, line {line}: !function runs Python code from this folder. Read that code, then "
                    "trust it with --trust-tasks."
                )


def check_yaml(file: Path) -> int:
    """The line of the file's first function, or 0; raises PrerequisiteError for faulty YAML and for any other tag."""
    nodes_in(file)
    tags = [token for token in yaml.scan(file.read_text(encoding="utf-8")) if isinstance(token, yaml.TagToken)]
    for token in tags:
        if token.value != FUNCTION:
            name = "".join(part or "" for part in token.value)
            raise PrerequisiteError(
                f"{file}, line {token.start_mark.line + 1}: the YAML tag {name} is not allowed. Remove it."
            )
    return tags[0].start_mark.line + 1 if tags else 0


def with_includes(file: Path, folder: Path, seen: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The file and the files that it includes, which must lie in the folder."""
    path = file.resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise PrerequisiteError(f"{seen[-1]} includes {file}, which is not a file below {folder}. Copy it there.")
    if path in seen:
        raise PrerequisiteError(f"{path} includes itself. Remove the include.")
    yield path
    node = nodes_in(path)
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    for value in (value for key, value in pairs if key.value == "include"):
        for name in [value] if isinstance(value, yaml.ScalarNode) else value.value:
            yield from with_includes(path.parent / str(name.value), folder, (*seen, path))


def nodes_in(file: Path) -> yaml.Node | None:
    """The file's YAML; raises PrerequisiteError with the line where it is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PrerequisiteError(f"{file}: this is not YAML: {error}. {CORRECT}") from error
    return composed(text, str(file))
