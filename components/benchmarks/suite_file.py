"""A suite file: a suite of the user's own, as YAML.

    name: ours
    description: What our assistant does.
    include_path: tasks            # optional: a folder of lm-eval definitions of one's own, beside the file
    tasks:
      - task: gsm8k                # lm-eval's name of a task or group
        metric: exact_match
        filter: strict-match
        shots: 5
        sensitive_to: sums in several steps

In a plan, the suite is one text: the names of shipped suites, then each file's text after a line `--- # FILE`. So the
files travel to the cluster, and every error names them.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.yaml_file import parse

SUFFIXES = (".yaml", ".yml")
SEPARATOR = re.compile(r"^--- # (.+)\n", re.MULTILINE)


def as_text(value: Any) -> Any:
    """A whole number as text: RULER's metrics are numbers."""
    return str(value) if type(value) is int else value


def as_tasks(value: Any) -> Any:
    """The list; raises ValueError for what is none, or empty."""
    if not isinstance(value, list) or not value:
        raise ValueError("a list of tasks is expected, each with the key task")
    return value


def as_chat(value: Any) -> Any:
    """YAML reads `no` and `yes` as truth values."""
    return ("no", "yes")[value] if isinstance(value, bool) else value


Chat = Literal["no", "auto", "yes"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class FileTask(BaseModel):
    """A task of a suite file. What it leaves out comes from lm-eval's definition, where that is clear."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    task: Annotated[str, Field(min_length=1)]
    """lm-eval's name of a task or a group."""
    metric: Annotated[str, BeforeValidator(as_text, json_schema_input_type=str | int)] = ""
    """The metric to compare [the definition's, if it has one]."""
    filter: str = ""
    """The filter that extracts the answer [the definition's, if it has one]."""
    shots: Annotated[int | None, Field(ge=0)] = None
    """The number of examples before each question [the definition's]."""
    chance: Annotated[float | None, Field(ge=0, lt=1)] = None
    """What guessing scores."""
    generated: bool | None = None
    """Whether the model writes the answers; the file may say so, and lm-eval's definition must agree."""
    items: Annotated[int | None, Field(ge=1)] = None
    """Items of the full stage [all]."""
    tiny: Annotated[int | None, Field(ge=1)] = None
    """Items of the tiny stage [a fifth of the items, 10 to 100]."""
    sensitive_to: str = ""
    """The ability of a model that the task measures."""
    chat: Annotated[Chat, BeforeValidator(as_chat, json_schema_input_type=Chat | bool)] = "no"
    """Whether a generated answer is asked for in a chat; auto is yes if the model has a chat template."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers that are generated to each item."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """The temperature of generated answers; 0 is that of lm-eval's definition."""
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    """The most tokens of a generated answer [the limit of lm-eval's definition]."""


class SuiteFile(BaseModel):
    """The content of a suite file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    name: Name
    """The suite's name in the report."""
    description: str = ""
    """What the suite tests."""
    include_path: str = ""
    """A folder, relative to the file, or an s3:// prefix."""
    tasks: Annotated[tuple[FileTask, ...], Field(strict=False, min_length=1), BeforeValidator(as_tasks)]
    """The tasks, in the order in which they are scored."""


def split_suite(suite: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The names of shipped suites in a plan's suite, and the path and the text of each file."""
    names, *files = SEPARATOR.split(suite)
    return [name.strip() for name in names.split(",") if name.strip()], list(zip(files[::2], files[1::2], strict=True))


def joined_suite(names: Iterable[str], files: Iterable[tuple[str, str]]) -> str:
    """A plan's suite of these names and files."""
    texts = [f"\n--- # {path}\n{text}" for path, text in files]
    return "".join((",".join(names), *texts))


def read_suite(suite: str) -> str:
    """A plan's suite from the command line's, which names shipped suites and files: `demo,ours.yaml`."""
    if SEPARATOR.search(suite):
        return suite
    parts = list(dict.fromkeys(part.strip() for part in suite.split(",") if part.strip()))
    paths = [Path(part) for part in parts if part.endswith(SUFFIXES)]
    files = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise PrerequisiteError(f"The suite file {path} cannot be read: {error}") from error
        if SEPARATOR.search(text):
            raise PrerequisiteError(f"{path}: a line that starts with `--- #` is not allowed. Remove it.")
        parse(SuiteFile, text, str(path))
        files.append((str(path.absolute()), text))
    return joined_suite([part for part in parts if not part.endswith(SUFFIXES)], files)


def short_suite(suite: str) -> str:
    """A plan's suite as the command line names it: its names and the names of its files."""
    names, files = split_suite(suite)
    return ",".join((*names, *(Path(path).name for path, _ in files)))


def included_paths(suite: str) -> list[str]:
    """The `include_path` of each file of the suite that has one."""
    files = [parse(SuiteFile, text, path) for path, text in split_suite(suite)[1]]
    return [file.include_path for file in files if file.include_path]


def with_files(suite: str, change: Callable[[SuiteFile, str, str], SuiteFile]) -> str:
    """The suite with each of its files changed; `change` takes a file's content, its text and its path."""
    names, files = split_suite(suite)
    changed = [(path, change(parse(SuiteFile, text, path), text, path)) for path, text in files]
    return joined_suite(names, [(path, file.model_dump_json(exclude_none=True) + "\n") for path, file in changed])


def with_items(suite: str, items: dict[str, tuple[int, int]]) -> str:
    """The suite whose files say how many items each task has, in the tiny stage and in the full one."""

    def counted(file: SuiteFile, _text: str, _path: str) -> SuiteFile:
        tasks = [
            task.model_copy(update={"tiny": items[task.task][0] or None, "items": items[task.task][1]})
            for task in file.tasks
        ]
        return file.model_copy(update={"tasks": tuple(tasks)})

    return with_files(suite, counted)
