"""Which files beside a model are its own: only these count in its size, are hashed, stored and served."""

import json
import os
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import check_stored, digest_of, fetch_model, stored_state, weights_size
from quantgate.components.models.sources import check_source, resolve
from quantgate.components.storage.location import open_store
from quantgate.components.storage.store import FolderStore
from tests.support.seaweed import S3Server
from tests.support.smallest_model import safetensors, smallest_model

SINGLE = ["COMPLETE.json", "config.json", "model.safetensors", "tokenizer.json"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SHARDED = ["COMPLETE.json", "config.json", *SHARDS, "model.safetensors.index.json", "tokenizer.json"]
UNREAD = {
    "Mistral's own weights, which vLLM prefers": [
        "consolidated.safetensors",
        "consolidated-00001-of-00001.safetensors",
    ],
    "an adapter beside merged weights": ["adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"],
    "shards of an earlier save": ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return smallest_model(tmp_path / "model")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def sharded(model: Path) -> Path:
    """The model in two shards, of 100 and 5 bytes."""
    (model / "model.safetensors").rename(model / SHARDS[0])
    (model / SHARDS[1]).write_bytes(safetensors(5))
    index(model, dict(zip("ab", SHARDS, strict=True)))
    return model


def index(model: Path, shards: object) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def names_at(uri: str) -> list[str]:
    return sorted(path.name for path in Path(uri).iterdir())


@pytest.mark.fault(
    "weights",
    "weight files that the model's index does not name lie beside it: consolidated ones, an adapter, old shards",
    "they do not count, are not hashed, not stored and not served",
)
@pytest.mark.parametrize("files", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("shards", [False, True])
def test_files_that_no_loader_should_read_neither_count_nor_travel(
    model: Path, store: FolderStore, tmp_path: Path, files: list[str], shards: bool
) -> None:
    weights_bytes = len(safetensors(100)) + (len(safetensors(5)) if shards else 0)
    digest = digest_of(sharded(model) if shards else model)
    for name in files:
        (model / name).write_bytes(b"{}" if name.endswith(".json") else b"not even whole")
    resolved = resolve(str(model), store, tmp_path / "cache")
    assert (resolved.digest, resolved.size_bytes) == (digest, weights_bytes)
    assert (digest_of(model), weights_size(model)) == (digest, weights_bytes)
    assert names_at(resolved.uri) == (SHARDED if shards else SINGLE)
    assert fetch_model(resolved.uri, digest, tmp_path / "cache") == Path(resolved.uri)


def test_a_single_file_beside_an_index_that_does_not_name_it_is_not_served(
    model: Path, store: FolderStore, tmp_path: Path
) -> None:
    sharded(model)
    digest = digest_of(model)
    (model / "model.safetensors").write_bytes(safetensors(7))
    resolved = resolve(str(model), store, tmp_path / "cache")
    assert (resolved.digest, names_at(resolved.uri)) == (digest, SHARDED)


def test_extra_files_in_s3_are_not_even_downloaded(
    s3_location: str, s3_server: S3Server, model: Path, store: FolderStore, tmp_path: Path
) -> None:
    digest = digest_of(model)
    (model / "consolidated.safetensors").write_bytes(safetensors(9))
    (model / "adapter_config.json").write_text("{}")
    prefix = f"{s3_location}/plain".removeprefix(f"s3://{s3_server.bucket}/")
    for path in model.iterdir():
        s3_server.client().upload_file(str(path), s3_server.bucket, f"{prefix}/{path.name}")
    resolved = resolve(f"{s3_location}/plain", store, tmp_path / "cache")
    assert (resolved.digest, resolved.size_bytes) == (digest, len(safetensors(100)))
    (downloaded,) = (tmp_path / "cache" / "s3-plain").iterdir()
    assert names_at(str(downloaded)) == SINGLE
    marked = open_store(s3_location).put_folder(model, "marked", "any")  # by another program, whole
    resolved = resolve(marked, store, tmp_path / "cache")
    assert (resolved.digest, names_at(resolved.uri)) == (digest, SINGLE)


@pytest.mark.fault(
    "weights",
    "a stored model gets another weight file, chat template or tokenizer, and a marker that names it",
    "it is another model, and refused",
)
@pytest.mark.parametrize(
    "added", ["consolidated.safetensors", "additional_chat_templates/default.jinja", "tokenizer.model.v3"]
)
def test_a_stored_model_with_one_more_file_is_another_one(
    model: Path, store: FolderStore, tmp_path: Path, added: str
) -> None:
    digest = digest_of(model)
    (model / added).parent.mkdir(exist_ok=True)
    (model / added).write_bytes(safetensors(9))
    uri = store.put_folder(model, f"models/{digest}", digest)
    for read in (fetch_model, check_stored):
        with pytest.raises(PrerequisiteError, match=f"is another one: .*and the run has {digest}"):
            read(uri, digest, tmp_path / "cache")


def test_a_variant_of_an_earlier_version_has_its_recipe_beside_it(
    model: Path, store: FolderStore, tmp_path: Path
) -> None:
    digest = digest_of(model)
    (model / "recipe.yaml").touch()
    uri = store.put_folder(model, f"models/{digest}", digest)
    assert fetch_model(uri, digest, tmp_path / "cache") == Path(uri)


def test_a_folder_that_is_linked_into_a_stored_model_is_named(model: Path, store: FolderStore, tmp_path: Path) -> None:
    digest = digest_of(model)
    uri = store.put_folder(model, f"models/{digest}", digest)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "default.jinja").touch()
    Path(uri, "additional_chat_templates").symlink_to(tmp_path / "templates")
    with pytest.raises(PrerequisiteError, match="not what was stored: additional_chat_templates was added"):
        fetch_model(uri, digest, tmp_path / "cache")


MISTAKES = [
    (dict(zip("ab", SHARDS, strict=True)), f"names missing files: {SHARDS[1]}"),
    ({"a": "weights/model.safetensors"}, "names files that are not *.safetensors files beside it: weights/model"),
    ({"a": "../model.safetensors"}, "names files that are not *.safetensors files beside it: ../model.safetensors"),
    ({"a": "pytorch_model.bin"}, "names files that are not *.safetensors files beside it: pytorch_model.bin"),
    ({}, "names no weights"),
    (["model.safetensors"], "names no weights"),
]


@pytest.mark.fault(
    "weights", "the model's index names a shard that is missing, or a file elsewhere", "refused by name before copying"
)
@pytest.mark.parametrize(("shards", "reason"), MISTAKES)
def test_an_index_that_names_other_files_than_its_shards_is_refused(model: Path, shards: object, reason: str) -> None:
    (model / "model.safetensors").rename(model / SHARDS[0])
    index(model, shards)
    with pytest.raises(PrerequisiteError) as refused:
        check_source(str(model))
    assert str(refused.value).startswith(f"{model} cannot be used: model.safetensors.index.json {reason}")


def test_weights_that_neither_an_index_nor_the_usual_name_points_out_are_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "consolidated.safetensors")
    with pytest.raises(PrerequisiteError) as refused:
        check_source(str(model))
    assert str(refused.value) == (
        f"{model} cannot be used: The model has neither model.safetensors nor model.safetensors.index.json, which say "
        "what its weights are, only consolidated.safetensors. If one file holds all weights, name it model.safetensors;"
        " otherwise save the model again with save_pretrained."
    )


@pytest.mark.fault(
    "weights",
    "weights in S3 are overwritten, zeroed, deleted or joined by another file",
    "refused by name before they are promoted or served through KServe",
)
def test_the_weights_in_s3_are_read_again_where_they_lie(
    s3_location: str, s3_server: S3Server, model: Path, tmp_path: Path
) -> None:
    good = resolve(str(model), open_store(s3_location), tmp_path / "cache")
    client, bucket = s3_server.client(), s3_server.bucket
    prefix = good.uri.removeprefix(f"s3://{bucket}/")
    whole = (model / "model.safetensors").read_bytes()

    def put(name: str, body: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=body)

    fetch_model(good.uri, good.digest, tmp_path / "cache")  # a good copy does not count
    check_stored(good.uri, good.digest, tmp_path / "cache")
    unchanged = stored_state(good.uri)
    assert stored_state(good.uri) == unchanged
    for name, body, reason in (
        ("model.safetensors", whole[:-1] + b"1", "model.safetensors has changed since it was stored"),
        ("model.safetensors", bytes(len(whole)), "model.safetensors has changed since it was stored"),
        ("tokenizer.json", b"[]", "tokenizer.json has changed since it was stored"),
    ):
        put(name, body)
        assert stored_state(good.uri) != unchanged
        with pytest.raises(PrerequisiteError, match=reason):
            check_stored(good.uri, good.digest, tmp_path / "cache")
        put(name, (model / name).read_bytes())
    check_stored(good.uri, good.digest, tmp_path / "cache")
    put("consolidated.safetensors", whole)
    with pytest.raises(PrerequisiteError, match="is not what was stored: consolidated.safetensors was added"):
        check_stored(good.uri, good.digest, tmp_path / "cache")
    for name in ("consolidated.safetensors", "config.json"):
        client.delete_object(Bucket=bucket, Key=f"{prefix}/{name}")
    with pytest.raises(PrerequisiteError, match="is not what was stored: config.json is missing"):
        check_stored(good.uri, good.digest, tmp_path / "cache")
    with pytest.raises(PrerequisiteError, match=f"and the run has {'0' * 64}"):
        check_stored(good.uri, "0" * 64, tmp_path / "cache")


def test_the_state_of_a_stored_folder_changes_with_every_write(model: Path, store: FolderStore, tmp_path: Path) -> None:
    weights = Path(resolve(str(model), store, tmp_path / "cache").uri) / "model.safetensors"
    uri, before = str(weights.parent), stored_state(str(weights.parent))
    assert stored_state(uri) == before
    whole, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(whole)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stored_state(uri) != before
