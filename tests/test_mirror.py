"""A mirror: complete, checked to the byte, resumable, and read without any network."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pytest

from quantgate.components.benchmarks.mirror import JOURNAL, MANIFEST, Manifest, check, make, parquet_of, read_manifest
from quantgate.components.benchmarks.row_sources import Folder, Mirror
from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.errors import PrerequisiteError
from tests.support.benchmark_data import laid_out, lines_of
from tests.support.seaweed import S3Server

pytestmark = pytest.mark.slow

A, B, C = (Split("org/set", name, "test") for name in ("", "b", "c"))
TRAIN = Split("org/set", "b", "train")
ROOT = Path(__file__).parents[1]


@dataclass
class Origin:
    """A source with rows by split that records the requested splits and fails after `breaks_after` of them."""

    rows: dict[Split, list[dict[str, object]]]
    breaks_after: int = 99
    requested: list[Split] = field(default_factory=list)
    description: str = "the test's own rows"

    def split(self, wanted: Split) -> Rows | None:
        if len(self.requested) == self.breaks_after:
            raise PrerequisiteError("The network is gone.")
        self.requested.append(wanted)
        if wanted not in self.rows:
            return None
        return Rows(datasets.Dataset.from_list(self.rows[wanted]), "", "commit-1")


def origin(breaks_after: int = 99) -> Origin:
    rows: dict[Split, list[dict[str, object]]] = {
        split: [{"question": f"{split.name} {number}", "answer": number} for number in range(50)] for split in (A, B, C)
    }
    return Origin(rows, breaks_after)


def make_mirror(
    location: Path | str, wanted: Sequence[Split] = (A, B, C), source: Origin | Folder | None = None
) -> Manifest:
    return make(wanted, source or origin(), str(location), lambda *_: None)


def rows_of(location: Path | str, wanted: Split, cache: Path) -> list[dict[str, object]]:
    read = Mirror(str(location), cache).split(wanted)
    assert read is not None
    rows: list[dict[str, object]] = read.dataset.to_list()
    return rows


def files_in(folder: Path) -> dict[str, int]:
    """Name to time of last change of every Parquet file."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


def splits_in(folder: Path) -> list[Split]:
    """Every split that a Folder has."""
    names = [path.relative_to(folder).with_suffix("").parts for path in sorted(folder.rglob("*.jsonl"))]
    return [Split(f"{org}/{data}", name, split) for org, data, name, split in names]


@pytest.mark.slow
def test_a_mirror_of_every_benchmark_has_all_their_rows(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = laid_out(tmp_path_factory)
    wanted = splits_in(folder)
    manifest = make_mirror(tmp_path, wanted, Folder(folder))
    assert len(manifest.files) == len(wanted) == 194
    assert check(str(tmp_path)) == []
    mirror, plain = Mirror(str(tmp_path), tmp_path), Folder(folder)
    for split in wanted:
        copy, rows = mirror.split(split), plain.split(split)
        assert copy is not None
        assert rows is not None
        assert copy.dataset.features == rows.dataset.features
        assert copy.dataset.to_list() == rows.dataset.to_list()
        assert len(rows.dataset) == manifest.files[split.file].rows
    assert (
        sum(file.rows for name, file in manifest.files.items() if name.startswith("cais/mmlu/")) == 14042 + 285 + 1531
    )


def test_rows_from_a_mirror_equal_those_of_the_published_file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = laid_out(tmp_path_factory)
    mmlu = [Split("cais/mmlu", subject, "test") for subject in ("abstract_algebra", "virology")]
    truthful = Split("truthfulqa/truthful_qa", "multiple_choice", "validation")
    ifeval = Split("google/IFEval", "", "train")
    make_mirror(tmp_path, [*mmlu, truthful, ifeval], Folder(folder))
    for split in (*mmlu, truthful):
        published = [json.loads(line) for line in lines_of(folder / f"{split.stem}.jsonl")]
        assert rows_of(tmp_path, split, tmp_path) == published
    kwargs = [row["kwargs"] for row in rows_of(tmp_path, ifeval, tmp_path)]
    published = [json.loads(line)["kwargs"] for line in lines_of(folder / f"{ifeval.stem}.jsonl")]
    assert [[without_none(value) for value in row] for row in kwargs if isinstance(row, list)] == published


def without_none(values: dict[str, object]) -> dict[str, object]:
    """The row's own values, without the None for keys of other rows."""
    return {key: value for key, value in values.items() if value is not None}


def test_a_mirror_preserves_features_including_class_labels(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "parts": datasets.List({"text": datasets.Value("large_string"), "score": datasets.Value("float32")}),
        }
    )
    rows = {"label": [1, 0], "parts": [[{"text": "a", "score": 0.5}], []]}
    target = tmp_path / "origin/org/set/default/test.parquet"
    target.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(target)
    make([A], Folder(tmp_path / "origin"), str(tmp_path / "mirror"), lambda *_: None)
    read = Mirror(str(tmp_path / "mirror"), tmp_path).split(A)
    assert read is not None
    assert read.dataset.features == features
    assert read.dataset.features["label"].int2str(read.dataset[0]["label"]) == "yes"
    assert read.dataset.to_dict() == rows


def test_the_same_rows_give_the_same_bytes_regardless_of_chunks_and_selection() -> None:
    rows = [{"text": f"row {number % 7}", "number": number} for number in range(1000)]
    whole = datasets.Dataset.from_list(rows)
    chunked = datasets.concatenate_datasets([whole.select(range(10)), whole.select(range(10, 1000))])
    backwards = datasets.Dataset.from_list(rows[::-1]).select(range(999, -1, -1))
    assert parquet_of(whole) == parquet_of(chunked) == parquet_of(backwards)
    assert parquet_of(whole) != parquet_of(whole.select(range(999)))


def test_the_manifest_describes_each_file_and_lists_missing_splits(tmp_path: Path) -> None:
    manifest = make_mirror(tmp_path, [B, TRAIN])
    assert read_manifest(str(tmp_path)) == manifest
    written = json.loads((tmp_path / MANIFEST).read_text())
    data = (tmp_path / B.file).read_bytes()
    file = written["files"]["org/set/b/test.parquet"]
    assert file == {"sha256": file["sha256"], "bytes": len(data), "rows": 50, "of": "commit-1"}
    assert written["missing"] == ["org/set/b/train.parquet"]
    assert written["form"] == 1
    assert written["made_by"].startswith("quantgate")
    mirror = Mirror(str(tmp_path), tmp_path)
    assert mirror.split(TRAIN) is None
    assert mirror.description == f"mirror {tmp_path}, manifest sha256 {manifest.sha256[:16]}"


def test_a_split_that_was_not_mirrored_is_not_treated_as_missing(tmp_path: Path) -> None:
    make_mirror(tmp_path, [A])
    with pytest.raises(PrerequisiteError, match=r"was made without org/set/b/test\.parquet.*quantgate mirror SUITE"):
        Mirror(str(tmp_path), tmp_path).split(B)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (flip, "was changed: its sha256 is not"),
        (Path.unlink, "is missing"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), r"has \d+ bytes and not the manifest's"),
        (lambda path: path.write_bytes(b""), "has 0 bytes and not"),
    ],
    ids=["one byte changed", "deleted", "one byte short", "emptied"],
)
def test_a_damaged_file_is_refused_by_name_and_written_again(
    tmp_path: Path, damage: Callable[[Path], object], what: str
) -> None:
    manifest = make_mirror(tmp_path)
    mirror = Mirror(str(tmp_path), tmp_path)
    assert mirror.split(B) is not None
    damage(tmp_path / B.file)
    with pytest.raises(PrerequisiteError, match=rf"{B.file} {what}.*Make the mirror again"):
        mirror.split(B)
    assert mirror.split(C) is not None
    (trouble,) = check(str(tmp_path))
    assert re.match(f"{B.file} {what}", trouble)
    again = origin()
    assert make_mirror(tmp_path, source=again) == manifest
    assert again.requested == [B]
    assert check(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: text[: len(text) // 2], "is not whole"),
        (lambda text: text[:0], "is not whole"),
        (lambda text: text.replace('"form": 1', '"form": 2'), "is of form 2, and this quantgate reads form 1"),
        (lambda text: text.replace(A.file, "../outside.parquet"), r"is not whole: .*\.\./outside\.parquet"),
        (lambda text: text.replace('"sha256": "', '"sha256": "../'), r"is not whole: files\..*\.sha256: "),
    ],
    ids=["cut in half", "empty", "another form", "a name outside", "no sha256"],
)
def test_an_unusable_manifest_is_refused_and_written_again(
    tmp_path: Path, change: Callable[[str], str], what: str
) -> None:
    manifest = make_mirror(tmp_path)
    (tmp_path / MANIFEST).write_text(change(manifest.text))
    for read in (lambda: Mirror(str(tmp_path), tmp_path).split(A), lambda: check(str(tmp_path))):
        with pytest.raises(PrerequisiteError, match=rf"manifest.json {what}.*Make the mirror again"):
            read()
    assert make_mirror(tmp_path) == manifest
    assert check(str(tmp_path)) == []


def test_without_a_mirror_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=rf"No mirror at {tmp_path}.*quantgate mirror SUITE {tmp_path}"):
        Mirror(str(tmp_path), tmp_path).split(A)


def test_an_interrupted_mirror_is_not_readable_and_the_next_attempt_resumes(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="The network is gone"):
        make_mirror(tmp_path, source=origin(breaks_after=2))
    with pytest.raises(PrerequisiteError, match="No mirror"):
        read_manifest(str(tmp_path))
    before = files_in(tmp_path)
    assert before.keys() == {A.file, B.file}
    seen: list[tuple[str, int, int]] = []
    again = origin()
    manifest = make([A, B, C], again, str(tmp_path), lambda *progress: seen.append(progress))
    assert again.requested == [C]
    assert {name: changed for name, changed in files_in(tmp_path).items() if name != C.file} == before
    assert manifest == make_mirror(tmp_path / "at-once")
    assert seen == [(A.file, 1, 3), (B.file, 2, 3), (C.file, 3, 3)]


def test_a_file_damaged_after_an_interruption_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError):
        make_mirror(tmp_path, source=origin(breaks_after=2))
    flip(tmp_path / A.file)
    again = origin()
    make_mirror(tmp_path, source=again)
    assert again.requested == [A, C]
    assert check(str(tmp_path)) == []


def test_another_suite_extends_a_mirror_and_removes_nothing(tmp_path: Path) -> None:
    make_mirror(tmp_path, [A, TRAIN])
    before = files_in(tmp_path)
    with pytest.raises(PrerequisiteError):
        make_mirror(tmp_path, [B, C], origin(breaks_after=1))
    assert read_manifest(str(tmp_path)).files.keys() == {A.file}
    manifest = make_mirror(tmp_path, [C, A])
    assert manifest.files.keys() == {A.file, C.file}
    assert manifest.missing == (TRAIN.file,)
    assert files_in(tmp_path)[A.file] == before[A.file]
    again = origin()
    assert make_mirror(tmp_path, [B], again).files.keys() == {A.file, B.file, C.file}
    assert again.requested == [], "what an interrupted call had written is still known"
    assert json.loads((tmp_path / JOURNAL).read_text())["files"] == {}


def test_a_split_that_the_origin_gets_later_is_no_longer_missing(tmp_path: Path) -> None:
    assert make_mirror(tmp_path, [B, TRAIN]).missing == (TRAIN.file,)
    later = origin()
    later.rows[TRAIN] = [{"question": "new", "answer": 1}]
    manifest = make_mirror(tmp_path, [TRAIN], later)
    assert manifest.missing == ()
    assert manifest.files.keys() == {B.file, TRAIN.file}


def test_a_split_that_two_tasks_use_is_written_once(tmp_path: Path) -> None:
    source = origin()
    make_mirror(tmp_path, [A, Split("org/set", "default", "test"), A], source)
    assert len(source.requested) == 1


def test_a_location_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for location in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PrerequisiteError, match=f"{tmp_path}/file"):
            make_mirror(location)


def test_a_full_disk_is_named_and_leaves_no_mirror(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from quantgate.components.errors import PrerequisiteError
from tests.test_mirror import A, Origin, make_mirror
rows = [{{"text": str(number ** 9)}} for number in range(300_000)]
try:
    make_mirror({str(tmp_path)!r}, [A], Origin({{A: rows}}))
except PrerequisiteError as error:
    print(error)
"""
    mount = f'mount -t tmpfs -o size=200k none {tmp_path} && "$0" -c "$1" && ls -A {tmp_path}'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"needs a mount namespace: {done.stderr}")
    message, *left = done.stdout.splitlines()
    assert message.startswith(f"The disk of {tmp_path}/org/set/default is full")
    assert left == ["org"]


def test_a_local_mirror_is_read_and_checked_without_a_connection(tmp_path: Path) -> None:
    manifest = make_mirror(tmp_path)
    script = f"""
import socket, sys
def refuse(*arguments, **_):
    raise AssertionError(f"a connection: {{arguments}}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from pathlib import Path
from quantgate.components.benchmarks.mirror import check
from quantgate.components.benchmarks.row_sources import Mirror, Split
mirror = Mirror({str(tmp_path)!r}, Path({str(tmp_path / "cache")!r}))
print(mirror.split(Split("org/set", "b", "test")).sha256, len(mirror.description), check({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    sha256, version, troubles = done.stdout.strip().split(" ", 2)
    assert sha256 == manifest.files[B.file].sha256
    assert int(version) > len(str(tmp_path))
    assert troubles == "[]"
    assert not (tmp_path / "cache").exists(), "a local mirror is read in place"


@pytest.mark.slow
def test_a_mirror_in_a_bucket_is_made_resumed_read_and_checked_like_a_folder(
    s3_location: str, s3_server: S3Server, tmp_path: Path
) -> None:
    with pytest.raises(PrerequisiteError, match="The network is gone"):
        make_mirror(s3_location, source=origin(breaks_after=2))
    with pytest.raises(PrerequisiteError, match="No mirror"):
        Mirror(s3_location, tmp_path).split(A)
    again = origin()
    manifest = make_mirror(s3_location, [A, B, C, TRAIN], again)
    assert again.requested == [C, TRAIN]
    assert manifest.files == make_mirror(tmp_path / "local").files
    assert check(s3_location) == []
    assert rows_of(s3_location, B, tmp_path / "cache") == rows_of(tmp_path / "local", B, tmp_path)
    assert Mirror(s3_location, tmp_path).split(TRAIN) is None
    assert Mirror(s3_location, tmp_path).description == f"mirror {s3_location}, manifest sha256 {manifest.sha256[:16]}"

    key = s3_location.removeprefix(f"s3://{s3_server.bucket}/")
    s3_server.client().delete_object(Bucket=s3_server.bucket, Key=f"{key}/{A.file}")
    data = (tmp_path / "local" / B.file).read_bytes()
    s3_server.client().put_object(Bucket=s3_server.bucket, Key=f"{key}/{B.file}", Body=data[:-1] + b"?")
    assert {key.split(":")[0] for key in check(s3_location)} == {f"{A.file} is missing", f"{B.file} was changed"}
    for wanted, what in ((A, "is missing"), (B, "was changed")):
        with pytest.raises(PrerequisiteError, match=f"{wanted.file} {what}"):
            Mirror(s3_location, tmp_path / "other-cache").split(wanted)
    assert list((tmp_path / "other-cache" / "mirror").iterdir()) == []
    (copy,) = (tmp_path / "cache" / "mirror").iterdir()
    assert copy.name == f"{manifest.files[B.file].sha256}.parquet"
    assert rows_of(s3_location, B, tmp_path / "cache")[0] == {"question": "b 0", "answer": 0}, "from the copy"
    flip(copy)
    with pytest.raises(PrerequisiteError, match="was changed"):
        Mirror(s3_location, tmp_path / "cache").split(B)
