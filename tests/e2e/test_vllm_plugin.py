"""quantgate's plugin in the real vLLM, without a server: what it makes vLLM choose, and what the API then answers."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from quantgate.components.servers import local_vllm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # importing vLLM takes a minute on a busy machine
PLUGIN = Path(local_vllm.__file__).with_name("vllm_plugin")
PROGRAM = """
import json, sys, types
from pathlib import Path
import torch
import quantgate_vllm
import vllm.entrypoints.openai.api_server
from fastapi import FastAPI
from fastapi.testclient import TestClient
from vllm.config.model import _resolve_auto_dtype
from vllm.entrypoints.serve import register_vllm_serve_api_routers

quantgate_vllm.CPUINFO = Path(sys.argv[1])
quantgate_vllm.register()
dtype = _resolve_auto_dtype("llama", torch.bfloat16, is_pooling_model=False)
app = FastAPI()
app.state.args = types.SimpleNamespace(profiler_config=None)
app.state.engine_client = types.SimpleNamespace(model_config=types.SimpleNamespace(dtype=dtype))
register_vllm_serve_api_routers(app)
print(json.dumps([str(dtype), TestClient(app).get("/quantgate").json()]))
"""


@pytest.mark.parametrize(("flags", "dtype"), [("avx2", "float32"), ("avx512_bf16", "bfloat16")])
def test_vllm_chooses_float32_on_a_cpu_without_bf16_and_says_so(tmp_path: Path, flags: str, dtype: str) -> None:
    engine = local_vllm.find_engine()
    if not engine.on_cpu:
        pytest.skip("vLLM's build for GPUs does not compute on CPUs")
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: sse {flags}\n")
    command = [str(engine.python), "-c", PROGRAM, str(tmp_path / "cpuinfo")]
    variables = os.environ | {"PYTHONPATH": str(PLUGIN)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [f"torch.{dtype}", {"dtype": dtype}]
