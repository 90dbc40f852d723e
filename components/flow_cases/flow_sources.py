"""Where flows come from: a shipped pack by its name, a file, or a folder with files.

In a plan each entry is a pack's name or the JSON of a flow file: so a user's files travel to the cluster.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.bfcl_rows import ENTRY, bfcl_file
from quantgate.components.flow_cases.canopy_file import is_canopy, read_canopy_file
from quantgate.components.flow_cases.flow_checks import RUBRIC
from quantgate.components.flow_cases.flow_file import Flow, FlowFile, FlowSet, read_flow_file, read_flow_json
from quantgate.components.storage.cache import cache_dir

if TYPE_CHECKING:
    from quantgate.components.benchmarks.splits import Source

PACKS = Path(__file__).with_name("packs")
SUFFIXES = (".yaml", ".yml")
MOST_CHARACTERS = 90_000
"""All flow files of a plan: Kubeflow refuses longer parameters."""


def pack_names() -> list[str]:
    """The names of the shipped packs."""
    return sorted(folder.name for folder in PACKS.iterdir() if folder.is_dir())


def read_flows(given: Iterable[str], data: str = "") -> tuple[str, ...]:
    """A plan's flows from the command line's: names of packs, files, folders, `bfcl:N`; raises PrerequisiteError.

    `data` is the source of the rows of `bfcl`, as for a benchmark: a mirror, a folder, or the hub if it is empty.
    """
    entries: list[str] = []
    for entry in given:
        if entry in pack_names() or entry.startswith("{"):
            entries.append(entry)
            continue
        if rows := ENTRY.fullmatch(entry):
            file = bfcl_file(int(rows.group(1)), _rows_source(data))
            entries.append(file.model_dump_json(exclude_defaults=True))
            continue
        files = _files(Path(entry).expanduser())
        entries += [read_file(file).model_dump_json(exclude_defaults=True) for file in files]
    if (total := sum(map(len, entries))) > MOST_CHARACTERS:
        raise PrerequisiteError(
            f"The flow files have {total:,} characters, and a run takes {MOST_CHARACTERS:,}. Run them in two runs."
        )
    flow_set(entries)  # raises for a name that is given twice
    return tuple(entries)


def _rows_source(data: str) -> "Source":
    from quantgate.components.benchmarks.row_sources import Hub, Mirror

    return Mirror(data, cache_dir()) if data not in ("", "hub", "embedded") else Hub(cache_dir())


def _files(path: Path) -> list[Path]:
    """The flow file, or the flow files in the folder; raises PrerequisiteError for neither."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise PrerequisiteError(
            f"{path} is neither a pack nor a file or folder with flows. The packs are {', '.join(pack_names())}."
        )
    try:
        next(path.iterdir(), None)  # rglob passes over a folder that it cannot read
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror}.") from None
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    canopy = [file for file in files if is_canopy(file)]
    if not (canopy or files):
        raise PrerequisiteError(f"The folder {path} has no flow file: no file in it ends with {' or '.join(SUFFIXES)}.")
    return canopy or files  # a course's folder has other YAML files too


def read_file(path: Path) -> FlowFile:
    """The flow file at the path, in either form; raises PrerequisiteError with file and line."""
    text = _text(path)
    if not is_canopy(path):
        return read_flow_file(text, str(path))

    def beside(name: str) -> str | None:
        file = path.parent / Path(name).name
        return _text(file) if file.is_file() else None

    return read_canopy_file(text, str(path), beside)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"The flow file {path} cannot be read: {error}") from error


def flow_files(entries: Sequence[str]) -> list[FlowFile]:
    """The flow files of a plan's entries; raises PrerequisiteError for an unknown name or an invalid file."""
    files = []
    for entry in entries:
        if entry.startswith("{"):
            files.append(read_flow_json(entry, "A flow file of this run"))
        elif entry in pack_names():
            files += [read_file(file) for file in sorted((PACKS / entry).glob("*.yaml"))]
        else:
            raise PrerequisiteError(f"Unknown flows {entry!r}. The packs are {', '.join(pack_names())}.")
    return files


def flow_set(entries: Sequence[str]) -> FlowSet:
    """All flows of a plan; raises PrerequisiteError for two files of the same name."""
    files = flow_files(entries)
    names = [file.name for file in files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PrerequisiteError(
            f"Two flow files have the name {', '.join(twice)}. Rename one: cases are told apart by it."
        )
    return FlowSet(
        names=tuple(names),
        flows=tuple(flow for file in files for flow in file.flows()),
        notes=tuple(f"{file.name}: {note}" for file in files for note in file.notes),
    )


def need_judge(flows: Iterable[Flow]) -> list[str]:
    """The ids of the flows that have a rubric."""
    return [flow.id for flow in flows if any(check.kind == RUBRIC for _, check in flow.checks)]
