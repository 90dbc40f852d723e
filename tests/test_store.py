"""Both kinds of store: a folder, and S3 on a real SeaweedFS."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.hashing import recorded_sha256s, sha256_of
from quantgate.components.storage.location import fetch, open_store, split_uri
from quantgate.components.storage.store import MARKER, FolderStore, Store, files_of, made_once
from tests.support.seaweed import S3Server, free_ports

MULTIPART_BYTES = 8 << 20
WEIGHTS = os.urandom(2 * MULTIPART_BYTES + 12345)
NAME = "models/abc"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a nested file, a hidden one and one on each side of the multipart threshold."""
    folder = tmp_path / "model"
    (folder / "nested").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "nested" / "empty.txt").write_text("")
    (folder / ".hidden").write_text("not a part of the model")
    (folder / "one-part.safetensors").write_bytes(WEIGHTS[1:MULTIPART_BYTES])
    (folder / "at-threshold.safetensors").write_bytes(WEIGHTS[:MULTIPART_BYTES])
    (folder / "three-parts.safetensors").write_bytes(WEIGHTS)
    return folder


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store in turn."""
    location = str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3_location")
    return open_store(location)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name not in (".hidden", MARKER)}


def key_of(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]


def objects(server: S3Server, uri: str) -> dict[str, object]:
    """The time of the last change by key, from the server."""
    answer = server.client().list_objects_v2(Bucket=server.bucket, Prefix=key_of(uri))
    return {entry["Key"]: entry["LastModified"] for entry in answer.get("Contents", ())}


def test_a_folder_is_read_back_unchanged_without_hidden_files(store: Store, model: Path, tmp_path: Path) -> None:
    uri = store.put_folder(model, NAME, "d1")
    got = store.get_folder(NAME, tmp_path / "cache")
    assert contents(got).keys() - {MARKER} == visible(model).keys()
    assert visible(got) == visible(model)
    assert fetch(uri, tmp_path / "cache") == got


def test_a_text_is_created_once_and_never_replaced(store: Store) -> None:
    assert store.create_text("first", "attempts/d0/1.json")
    assert not store.create_text("second", "attempts/d0/1.json")
    assert store.get_text("attempts/d0/1.json") == "first"
    assert store.create_text("second", "attempts/d0/2.json")


def test_the_marker_contains_the_digest_and_every_files_sha256_and_size(store: Store, model: Path) -> None:
    store.put_folder(model, NAME, "d1", only=["config.json", "nested/empty.txt"])
    text = store.get_text(f"{NAME}/{MARKER}")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    braces = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert json.loads(text or "") == {
        "digest": "d1",
        "files": {
            "config.json": {"sha256": braces, "size_bytes": 2},
            "nested/empty.txt": {"sha256": empty, "size_bytes": 0},
        },
    }


def test_a_folder_is_available_only_under_its_name_and_digest(store: Store, model: Path) -> None:
    assert not store.has_folder(NAME, "d1")
    store.put_folder(model, NAME, "d1")
    assert store.has_folder(NAME, "d1")
    assert not store.has_folder(NAME, "d2")
    assert not store.has_folder("models/other", "d1")


def test_another_digest_under_the_same_name_replaces_every_file(store: Store, model: Path, tmp_path: Path) -> None:
    store.put_folder(model, NAME, "d1")
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "config.json").write_text('{"new": true}')
    store.put_folder(changed, NAME, "d2")
    assert visible(store.get_folder(NAME, tmp_path / "cache")) == {"config.json": b'{"new": true}'}
    assert not store.has_folder(NAME, "d1")


def test_a_file_is_read_back_unchanged(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "found"
    source.write_bytes(bytes(range(256)) * 99)
    assert not store.get_file("ledger/a.sqlite", target)
    assert not target.exists()
    store.put_file(source, "ledger/a.sqlite")
    assert store.get_file("ledger/a.sqlite", target)
    assert target.read_bytes() == source.read_bytes()


def test_a_missing_folder_or_file_cannot_be_read(store: Store, tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="No complete model"):
        store.get_folder(NAME, tmp_path / "cache")


def test_texts_and_files_are_replaced_and_absent_ones_are_none(store: Store, tmp_path: Path) -> None:
    assert store.get_text("runs/1/decision.json") is None
    store.put_text("erste Fassung", "runs/1/decision.json")
    store.put_text("zweite Fassung: größer", "runs/1/decision.json")
    assert store.get_text("runs/1/decision.json") == "zweite Fassung: größer"
    (tmp_path / "report.md").write_text("# shipped\n")
    uri = store.put_file(tmp_path / "report.md", "runs/1/report.md")
    assert uri.endswith("runs/1/report.md")
    assert store.get_text("runs/1/report.md") == "# shipped\n"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_names_that_leave_the_store_are_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        store.put_text("x", name)


def test_a_folder_store_copies_nothing_twice(model: Path, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    uri = store.put_folder(model, NAME, "d1")
    before = {path: path.stat().st_mtime_ns for path in Path(uri).rglob("*")}
    assert store.put_folder(model, NAME, "d1") == uri
    assert {path: path.stat().st_mtime_ns for path in Path(uri).rglob("*")} == before


def test_a_folder_store_reads_in_place_and_is_independent_of_its_source(model: Path, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    uri = store.put_folder(model, NAME, "d1")
    (model / "config.json").write_text('{"edited": 1}')
    got = store.get_folder(NAME, tmp_path / "cache")
    assert str(got) == uri
    assert (got / "config.json").read_text() == "{}"
    assert [path.name for path in (tmp_path / "cache").rglob("*.safetensors")] == []


@pytest.mark.fault(
    "weights", "weights in a folder store are overwritten, zeroed, cut, deleted or added to", "refused by name"
)
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("overwritten", "three-parts.safetensors has other bytes"),
        ("overwritten, mtime set back", "three-parts.safetensors has other bytes"),
        ("zeroed", "three-parts.safetensors has other bytes"),
        ("truncated", "three-parts.safetensors has another size"),
        ("deleted", "three-parts.safetensors is missing"),
        ("added", "consolidated.safetensors was added"),
    ],
)
@pytest.mark.parametrize("read_before", [False, True])
def test_a_stored_file_that_is_not_what_was_stored_is_found_and_named(
    model: Path, tmp_path: Path, damage: str, named: str, read_before: bool
) -> None:
    store = FolderStore(tmp_path / "store")
    folder = Path(store.put_folder(model, NAME, "d1"))
    weights, cache = folder / "three-parts.safetensors", tmp_path / "cache"
    time.sleep(0.03)
    if read_before:
        store.get_folder(NAME, cache)
    before = weights.stat()
    with weights.open("r+b") as opened:
        if damage.startswith("overwritten"):
            opened.write(b"other")
        elif damage == "zeroed":
            opened.write(bytes(before.st_size))
        elif damage == "truncated":
            opened.truncate(before.st_size - 1)
    if damage == "overwritten, mtime set back":
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    if damage == "deleted":
        weights.unlink()
    if damage == "added":
        (folder / "consolidated.safetensors").write_bytes(b"x")
    with pytest.raises(PrerequisiteError, match=rf"{NAME} is not what was stored: {named}\. Delete"):
        store.get_folder(NAME, cache)


def test_a_file_is_hashed_once_and_again_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"first")
    time.sleep(0.03)
    first = recorded_sha256s(tmp_path, {"a": file}, tmp_path / "cache")
    assert first == {"a": sha256_of(file)}
    (record,) = (tmp_path / "cache" / "hashed").iterdir()
    record.write_text(record.read_text().replace(first["a"], "as recorded"))
    assert recorded_sha256s(tmp_path, {"a": file}, tmp_path / "cache") == {"a": "as recorded"}
    file.write_bytes(b"other")
    assert recorded_sha256s(tmp_path, {"a": file}, tmp_path / "cache") == {"a": sha256_of(file)}


@pytest.mark.fault("weights", "a symbolic link in a model's folder leads out of it", "refused with the link's name")
def test_a_link_out_of_a_folder_is_refused_and_the_hub_caches_own_links_are_followed(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret.json", tmp_path / "hub" / "snapshots" / "abc"
    secret.write_text("secret")
    folder.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    (tmp_path / "hub" / "blobs" / "b1").write_text("{}")
    (folder / "config.json").symlink_to("../../blobs/b1")
    (folder / "same.json").symlink_to("config.json")
    assert [*files_of(folder)] == ["config.json", "same.json"]
    (folder / "tokenizer.json").symlink_to(secret)
    store = FolderStore(tmp_path / "store")
    with pytest.raises(PrerequisiteError, match=rf"{folder}/tokenizer\.json is a symbolic link to {secret}, outside"):
        store.put_folder(folder, NAME, "d1")
    assert contents(tmp_path / "store") == {}


@pytest.mark.fault("weights", "a damaged conversion or download lies in the cache", "made again")
def test_a_cached_folder_is_made_once_and_again_when_its_bytes_have_changed(tmp_path: Path) -> None:
    makings: list[Path] = []

    def make(folder: Path) -> None:
        makings.append(folder)
        (folder / "config.json").write_text("{}")

    target = tmp_path / "converted" / "one"
    for _ in range(2):
        assert made_once(target, tmp_path, 0, make) == target
    assert len(makings) == 1
    (target / "config.json").write_text("[]")
    assert made_once(target, tmp_path, 0, make) == target
    assert (len(makings), (target / "config.json").read_text()) == (2, "{}")


@pytest.mark.fault(
    "weights", "a bucket has the name of one of the cache's folders", "its models get a folder of their own"
)
@pytest.mark.parametrize("bucket", ["converted", "wheels", "s3-plain", "s3-folders"])
def test_a_buckets_name_chooses_no_path_in_the_cache(
    s3_server: S3Server, s3_location: str, model: Path, tmp_path: Path, bucket: str
) -> None:
    s3_server.client().create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}")
    store.put_folder(model, NAME, "d1", only=["config.json"])
    got = store.get_folder(NAME, tmp_path / "cache")
    assert [got.parts[-2], len(got.name)] == ["s3-folders", 64]
    assert store.get_folder(NAME, tmp_path / "other", weights=False).parts[-2] == "s3-without-weights"


@pytest.mark.parametrize("damage", ["marker missing", "marker unreadable", "file missing", "file truncated"])
def test_an_incomplete_folder_is_not_read_and_is_stored_again(model: Path, tmp_path: Path, damage: str) -> None:
    store = FolderStore(tmp_path / "store")
    folder = Path(store.put_folder(model, NAME, "d1"))
    weights = folder / "three-parts.safetensors"
    actions: dict[str, Callable[[], object]] = {
        "marker missing": (folder / MARKER).unlink,
        "marker unreadable": lambda: (folder / MARKER).write_text('{"digest": "d1"'),
        "file missing": weights.unlink,
        "file truncated": lambda: os.truncate(weights, weights.stat().st_size - 1),
    }
    actions[damage]()
    assert not store.has_folder(NAME, "d1")
    with pytest.raises(PrerequisiteError):
        store.get_folder(NAME, tmp_path / "cache")
    store.put_folder(model, NAME, "d1")
    assert visible(store.get_folder(NAME, tmp_path / "cache")) == visible(model)


def test_a_full_disk_is_reported_with_the_bytes_needed_and_leaves_no_partial_copy(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.mkdir()
    size_bytes = 10 << 40
    with (huge / "model.safetensors").open("wb") as sparse:
        sparse.truncate(size_bytes)
    with pytest.raises(PrerequisiteError, match=rf"{tmp_path}/store/models is full: {size_bytes} bytes are needed"):
        FolderStore(tmp_path / "store").put_folder(huge, NAME, "d1")
    assert contents(tmp_path / "store") == {}


def test_a_disk_that_fills_up_during_the_copy_is_reported_and_leaves_no_partial_copy(tmp_path: Path) -> None:
    """A source that grows after it was measured fills a small disk: the error occurs only during the write."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
import pathlib, sys
from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.store import FolderStore, staged
disk = pathlib.Path({str(disk)!r})
try:
    with staged(disk / "models" / "abc", needed_bytes=5) as partial:
        (partial / "weights").write_bytes(bytes(4 << 20))
except PrerequisiteError as error:
    print(error)
print(sorted(path.name for path in disk.rglob("*")))
"""
    mount = f'mount -t tmpfs -o size=1m none {disk} && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"needs a mount namespace: {done.stderr}")
    message, left = done.stdout.splitlines()
    assert message.startswith(f"The disk of {disk}/models is full: 5 bytes are needed")
    assert left == "['models']"


def killed_when(condition: Callable[[], bool], model: Path, location: str) -> None:
    """Put `model` from another process and kill that with SIGKILL as soon as the condition holds."""
    script = "import sys, pathlib; from quantgate.components.storage.location import open_store; "
    script += "open_store(sys.argv[2]).put_folder(pathlib.Path(sys.argv[1]), sys.argv[3], 'd1')"
    command = [sys.executable, "-c", script, str(model), location, NAME]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def big_model(folder: Path, size_bytes: int) -> Path:
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    with (folder / "b.safetensors").open("wb") as sparse:
        sparse.truncate(size_bytes)
    return folder


def test_a_killed_copy_is_not_readable_and_the_next_one_succeeds(tmp_path: Path) -> None:
    model = big_model(tmp_path / "model", 2 << 30)
    root = tmp_path / "store"
    killed_when(lambda: any(root.rglob("b.safetensors")), model, str(root))
    store = FolderStore(root)
    with pytest.raises(PrerequisiteError, match="No complete model"):
        store.get_folder(NAME, tmp_path)
    os.truncate(model / "b.safetensors", 1)
    assert (Path(store.put_folder(model, NAME, "d1")) / "b.safetensors").read_bytes() == b"\0"


def test_leftovers_of_a_killed_process_are_deleted_after_a_day(model: Path, tmp_path: Path) -> None:
    models = tmp_path / "store" / "models"
    for name, age_s in (("old", 25 * 3600), ("new", 23 * 3600)):
        left = models / f".{name}.0.partial"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age_s,) * 2)
    FolderStore(tmp_path / "store").put_folder(model, NAME, "d1", only=["config.json"])
    assert sorted(path.name for path in models.iterdir()) == [".new.0.partial", "abc"]


KILLED_AT_THE_SECOND_FILE = """
import os, pathlib, signal, sys
from quantgate.components.storage.location import open_store
store = open_store(sys.argv[2])
upload = store._upload
def until_the_weights(file, key):
    if key.endswith(".safetensors"):
        os.kill(os.getpid(), signal.SIGKILL)
    upload(file, key)
store._upload = until_the_weights
store.put_folder(pathlib.Path(sys.argv[1]), sys.argv[3], "d1")
"""


def test_a_killed_upload_is_not_read(s3_location: str, s3_server: S3Server, tmp_path: Path) -> None:
    model = big_model(tmp_path / "model", 1 << 20)
    uri = f"{s3_location}/{NAME}"
    command = [sys.executable, "-c", KILLED_AT_THE_SECOND_FILE, str(model), s3_location, NAME]
    assert subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode == -signal.SIGKILL
    assert list(objects(s3_server, uri)) == [f"{key_of(uri)}/a.json"]
    with pytest.raises(PrerequisiteError, match="No complete model"):
        fetch(uri, tmp_path / "cache")


def test_s3_uploads_nothing_twice_and_uploads_a_missing_object_again(
    s3_location: str, s3_server: S3Server, model: Path
) -> None:
    store = open_store(s3_location)
    uri = store.put_folder(model, NAME, "d1")
    before = objects(s3_server, uri)
    assert len(before) == 6
    time.sleep(1.1)
    assert store.put_folder(model, NAME, "d1") == uri
    assert objects(s3_server, uri) == before
    s3_server.client().delete_object(Bucket=s3_server.bucket, Key=f"{key_of(uri)}/config.json")
    assert not store.has_folder(NAME, "d1")
    store.put_folder(model, NAME, "d1")
    assert objects(s3_server, uri).keys() == before.keys()


def test_s3_uploads_large_files_in_parts_and_keeps_the_files_sha256(
    s3_location: str, s3_server: S3Server, model: Path
) -> None:
    uri = open_store(s3_location).put_folder(model, NAME, "d1")

    def parts_of(name: str) -> str:
        key = f"{key_of(uri)}/{name}"
        head = s3_server.client().head_object(Bucket=s3_server.bucket, Key=key, ChecksumMode="ENABLED")
        assert len(head["Metadata"]["sha256"]) == 64
        return str(head["ChecksumSHA256"]).partition("-")[2]

    assert parts_of("one-part.safetensors") == ""
    assert parts_of("at-threshold.safetensors") == "1"
    assert parts_of("three-parts.safetensors") == "3"


def test_s3_without_its_marker_is_not_read(s3_location: str, s3_server: S3Server, model: Path, tmp_path: Path) -> None:
    uri = open_store(s3_location).put_folder(model, NAME, "d1")
    s3_server.client().delete_object(Bucket=s3_server.bucket, Key=f"{key_of(uri)}/{MARKER}")
    with pytest.raises(PrerequisiteError, match="COMPLETE.json is missing"):
        fetch(uri, tmp_path / "cache")


def test_an_object_with_other_bytes_of_the_same_size_is_detected_on_download(
    s3_location: str, s3_server: S3Server, model: Path, tmp_path: Path
) -> None:
    uri = open_store(s3_location).put_folder(model, NAME, "d1")
    s3_server.client().put_object(Bucket=s3_server.bucket, Key=f"{key_of(uri)}/config.json", Body=b"[]")
    with pytest.raises(PrerequisiteError, match=r"config\.json has changed since it was stored"):
        fetch(uri, tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


def test_a_marker_that_names_files_outside_the_folder_is_not_followed(
    s3_location: str, s3_server: S3Server, model: Path, tmp_path: Path
) -> None:
    uri = open_store(s3_location).put_folder(model, NAME, "d1")
    evil = {"digest": "d1", "files": {"../../escaped": {"sha256": "0", "size_bytes": 1}}}
    s3_server.client().put_object(Bucket=s3_server.bucket, Key=f"{key_of(uri)}/{MARKER}", Body=json.dumps(evil))
    with pytest.raises(PrerequisiteError, match="No complete model"):
        fetch(uri, tmp_path / "cache")


def test_a_complete_cached_copy_is_reused_and_a_damaged_one_is_not(
    s3_location: str, model: Path, tmp_path: Path
) -> None:
    uri = open_store(s3_location).put_folder(model, NAME, "d1")
    got = fetch(uri, tmp_path / "cache")
    before = (got / "config.json").stat().st_mtime_ns
    assert (fetch(uri, tmp_path / "cache") / "config.json").stat().st_mtime_ns == before
    os.truncate(got / "three-parts.safetensors", 1)
    assert visible(fetch(uri, tmp_path / "cache")) == visible(model)
    with (got / "three-parts.safetensors").open("r+b") as weights:
        weights.write(b"other")
    assert visible(fetch(uri, tmp_path / "cache")) == visible(model)


@pytest.mark.usefixtures("s3_location")
def test_a_missing_bucket_is_reported_with_what_to_do(model: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"s3://no-such-bucket at http.*Create the bucket"):
        open_store("s3://no-such-bucket/x").put_folder(model, NAME, "d1")


def test_missing_rights_are_reported_with_what_to_do(
    s3_location: str, s3_server: S3Server, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = open_store(s3_location).put_folder(model, NAME, "d1")
    for name, value in s3_server.environment(s3_server.read_only_key).items():
        monkeypatch.setenv(name, value)
    assert visible(fetch(uri, tmp_path / "cache")) == visible(model)
    writes: list[Callable[[], str]] = [
        lambda: open_store(s3_location).put_folder(model, NAME, "d2"),
        lambda: open_store(s3_location).put_file(model / "config.json", "x.json"),
        lambda: open_store(s3_location).put_text("x", "x.txt"),
    ]
    for write in writes:
        with pytest.raises(PrerequisiteError, match="ask for read and write rights"):
            write()


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("AWS_ACCESS_KEY_ID", "unknown", "Check AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "Check AWS_SECRET_ACCESS_KEY"),
        ("AWS_PROFILE", "absent", "Check AWS_ENDPOINT_URL, AWS_PROFILE"),
        ("AWS_ENDPOINT_URL", "no url", "Check AWS_ENDPOINT_URL, AWS_PROFILE"),
    ],
)
def test_wrong_settings_are_reported_with_the_ones_to_check(
    s3_location: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PrerequisiteError, match=advice):
        open_store(s3_location).get_text("x")


def test_missing_credentials_are_reported_with_the_variables_to_set(
    s3_location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PrerequisiteError, match="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3_location).get_text("x")


def test_an_endpoint_without_a_server_is_reported_with_what_to_check(
    s3_location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(PrerequisiteError, match="Check AWS_ENDPOINT_URL, the network"):
        open_store(s3_location).get_text("x")


def test_only_paths_file_uris_and_s3_uris_are_locations(tmp_path: Path) -> None:
    for location in (str(tmp_path), f"file:{tmp_path}"):
        opened = open_store(location)
        assert isinstance(opened, FolderStore)
        assert opened.root == tmp_path
    for location in ("gs://bucket/x", "file:", "", "s3://"):
        with pytest.raises(PrerequisiteError, match="s3://bucket/prefix"):
            open_store(location)
    with pytest.raises(PrerequisiteError, match="is a whole bucket"):
        split_uri("s3://bucket/")


def test_s3_without_boto3_reports_what_to_install_and_a_folder_needs_no_boto3(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["boto3"] = None
from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.location import open_store
open_store({str(tmp_path)!r}).put_text("x", "y")
try:
    open_store("s3://bucket/x")
except PrerequisiteError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout == "s3://bucket/x needs boto3, which is not installed: pip install boto3\n"
