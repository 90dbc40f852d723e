"""(c) quantgate's scoring compared with lm-eval's local-completions and lm-eval's vllm engine, on the same items.

One vLLM server answers the clients of CLIENTS in turn; its prefix cache is emptied before every pass. Then the engine
runs in a separate process on the same GPU. Llama-3.1-8B's shape has random weights, so its scores are meaningless; the
demo model's scores must be the same for every client.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from benchmarks.gpu import setting, shapes
from benchmarks.gpu.machine import Watch, watched
from benchmarks.gpu.setting import NOT_RUN, Setting, Table, seconds
from benchmarks.gpu.together import share_of_memory
from benchmarks.scoring_speed import CONCURRENCY, TASKS, contender, post, scores_of, task_of
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import BASELINE
from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import local_server, local_vllm
from quantgate.components.servers.client import CONCURRENT_CALLS, ServerFailedError
from quantgate.components.servers.local_vllm import serving_python

TASK_NAMES = ("mmlu", "hellaswag", "gsm8k", "arc_challenge")
REHEARSED = ("hellaswag", "gsm8k")
CLIENTS = {
    "quantgate": ("quantgate", CONCURRENCY),
    f"quantgate, {CONCURRENT_CALLS} calls": ("quantgate", CONCURRENT_CALLS),
    "local-completions": ("local-completions", CONCURRENCY),
}
"""By its name in the table, the client and its calls at a time: first as many as lm-eval's, then as for a GPU."""
EIGHT = "llama-3.1-8b"
DUMMY = ("--load-format", "dummy")
QUICK_START = ("--compilation-config", '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}')
"""Uncompiled kernels, decoding in CUDA graphs: ready in seconds, while compiling takes a minute."""
SHARED = share_of_memory(20_000_000_000)
ENGINE_OPTIONS: dict[str, Any] = {"max_model_len": 2048, "enforce_eager": True}


def main() -> None:
    """Score with each client and fill the table."""
    chosen = setting.parse(__doc__)
    columns = ("model", "task", "shots", "items", "client", "seconds", "GPU busy", "scores")
    table = Table(chosen.out, "score", "Scoring", columns)
    for name in filter(chosen.wants, [shapes.DEMO] if chosen.rehearse else [EIGHT, shapes.DEMO]):
        if chosen.is_late(60):
            table.add(name, NOT_RUN, "–", "–", "–", "–", "–", "no time left")
            continue
        if name == shapes.DEMO:
            folder = shapes.demo(chosen.out, cut=chosen.rehearse)
        else:
            tokenizer = shapes.tokenizer(chosen.data)
            folder = shapes.weightless(shapes.SHAPES[name], BASELINE, chosen.out, tokenizer)
        clients(chosen, table, name, folder)
        engine(chosen, table, name, folder)


def clients(chosen: Setting, table: Table, name: str, folder: Path) -> None:
    """Add the rows of the two clients of one server."""
    options = () if chosen.rehearse else (*QUICK_START, *SHARED, *(DUMMY if name != shapes.DEMO else ()))
    results = chosen.out / "scoring" / name
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # offers /reset_prefix_cache
    with lease.hold(results / "lease"):
        server = local_vllm.deploy(BASELINE, folder, results, options=options)
        if server.failure:
            table.add(name, "–", "–", "–", "server", NOT_RUN, "–", server.failure.splitlines()[0][:200])
            return
        try:
            for task in REHEARSED if chosen.rehearse else TASK_NAMES:
                for client in CLIENTS:
                    client_row(chosen, table, name, server, task, client)
        finally:
            local_server.undeploy(server)


def client_row(chosen: Setting, table: Table, name: str, server: Server, task: str, client: str) -> None:
    """Measure one client on one task, and add its row."""
    task_name, shots, _ = TASKS[task]
    if chosen.is_late(30):
        table.add(name, task, shots, chosen.items, client, NOT_RUN, "–", "no time left")
        return
    post(server, "/reset_prefix_cache")
    try:
        with watched() as watch:
            began = time.monotonic()
            outcome = simple_evaluate(
                model=contender(server, *CLIENTS[client]),
                tasks=[task_of(task_name, chosen.data, chosen.items)],
                num_fewshot=shots,
                task_manager=TaskManager(include_defaults=False),
                bootstrap_iters=0,
            )
            took_s = time.monotonic() - began
    except (PrerequisiteError, ServerFailedError, OSError) as error:
        table.add(name, task, shots, chosen.items, client, "failed", "–", str(error)[:200])
        return
    row(table, name, task, chosen.items, client, took_s, watch, scores_of(outcome["results"][task_name]))


def row(
    table: Table, name: str, task: str, items: int, client: str, took_s: float, watch: Watch, scores: dict[str, float]
) -> None:
    """Add a measured row."""
    shown = ", ".join(f"{key.split(',')[0]} {value:.3f}" for key, value in scores.items())
    table.add(name, task, TASKS[task][1], items, client, seconds(took_s), watch.busy_share, shown)


def engine(chosen: Setting, table: Table, name: str, folder: Path) -> None:
    """Add the rows of lm-eval's own engine."""
    imported = subprocess.run([serving_python(), "-c", "import lm_eval"], capture_output=True, check=False)
    if imported.returncode:
        table.add(name, "–", "–", "–", "lm-eval's vllm", NOT_RUN, "–", "lm-eval is not in vLLM's environment")
        return
    left_s = chosen.ends_at - time.time()
    if left_s < 60:
        table.add(name, "–", "–", "–", "lm-eval's vllm", NOT_RUN, "–", "no time left")
        return
    out, log = (chosen.out / "scoring" / name / f"engine.{kind}" for kind in ("jsonl", "log"))
    out.unlink(missing_ok=True)
    options = ENGINE_OPTIONS | ({"load_format": "dummy"} if name != shapes.DEMO else {})
    command = [str(serving_python()), "-m", "benchmarks.gpu.engine", str(folder), str(chosen.data), str(chosen.items)]
    command += [",".join(TASK_NAMES), str(out), json.dumps(options)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as output, watched() as watch:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            process.wait(left_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for line in lines:
        if line["task"] == "start":
            table.add(name, "(start)", "–", "–", "lm-eval's vllm", seconds(line["seconds"]), "–", "–")
        else:
            # the share is that of the whole process, including its start
            row(table, name, line["task"], chosen.items, "lm-eval's vllm", line["seconds"], watch, line["scores"])
    if process.returncode:
        errors = [text for text in log.read_text(errors="replace").splitlines() if "Error" in text]
        table.add(name, "–", "–", "–", "lm-eval's vllm", "failed", "–", (errors or ["see its log"])[-1][:200])


if __name__ == "__main__":
    main()
