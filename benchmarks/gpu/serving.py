"""(b) vLLM on every variant of the demo model: seconds to ready, the ways to score it, and its answers.

The answers are compared with those of transformers on the CPU, in float32, with the same checkpoint. An answer is the
log-likelihood of each choice of an ARC-Challenge question, without shots.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.gpu import setting, shapes
from benchmarks.gpu.machine import watched
from benchmarks.gpu.setting import NOT_RUN, Setting, Table, seconds
from components.errors import PrerequisiteError
from components.evaluate.endpoint import Endpoint
from components.models.variants import BASELINE
from components.processes import lease
from components.run.artifacts import Server
from components.servers import local_vllm
from components.servers.client import ServerFailedError

QUESTIONS, REHEARSED_QUESTIONS = 40, 4
TOLERANCE = 0.1
"""The mean difference a token, in natural log units, allowed between a GPU's 16 bits and a CPU's 32."""
BESIDE_OTHERS = ("--gpu-memory-utilization", "0.12")
"""Part (a) may still use the GPU."""
EAGER = ("--enforce-eager",)
WAIT_S = 90


@dataclass
class Answered:
    """A served variant's answers, which are compared after the GPU work."""

    row: int
    """The index of its row in the table."""
    folder: Path
    logliks: list[list[float]]
    """The choices' log-likelihoods of each question, in natural log units."""


def main() -> None:
    """Serve each variant, then compare the answers."""
    chosen = setting.parse(__doc__)
    columns = (
        "variant",
        "start",
        "seconds to ready",
        "GPU memory, GB",
        "ways to score (largest difference a token)",
        "outcome",
        "mean distance a token from the CPU's answers",
        "same choice",
    )
    table = Table(chosen.out, "serve", "vLLM on the demo model", columns)
    if chosen.models:
        table.name = f"serve-{'-'.join(chosen.models)}"
    base = shapes.demo(chosen.out, cut=chosen.rehearse)
    pairs = questions(chosen)
    starts = [(variant, "eager") for variant in shapes.VARIANTS]
    if not chosen.rehearse:
        starts.append((BASELINE, "compiled"))
    answers: list[Answered] = []
    for variant, start in filter(lambda variant_and_start: chosen.wants(variant_and_start[0]), starts):
        folder = base if variant == BASELINE else checkpoint(chosen, variant)
        if reason := skip_reason(chosen, variant, folder):
            table.add(variant, start, NOT_RUN, "–", "–", reason, "–", "–")
        else:
            cells, logliks = serve(chosen, variant, folder, start, pairs)
            if logliks:
                answers.append(Answered(len(table.rows), folder, logliks))
            table.add(variant, start, *cells, "–", "–")
    for answered in answers:
        if not chosen.is_late():
            compare(table, answered, pairs)


def skip_reason(chosen: Setting, variant: str, folder: Path) -> str:
    """Why the variant is not served; empty if it is."""
    if chosen.rehearse and variant == shapes.FP8:
        return "FP8 needs a GPU"
    if not (folder / "config.json").exists():
        return "part (a) left no checkpoint"
    return "no time left" if chosen.is_late(40) else ""


def checkpoint(chosen: Setting, variant: str) -> Path:
    """The variant's folder; waits for part (a), which may run at the same time, to finish it."""
    deadline = time.monotonic() + (0 if chosen.rehearse else WAIT_S)
    while time.monotonic() < deadline and not chosen.is_late():
        tables = [json.loads(file.read_text(encoding="utf-8")) for file in chosen.out.glob("quantize*.json")]
        if any(row[0] == shapes.DEMO and row[2] == variant for table in tables for row in table["rows"]):
            break
        time.sleep(1)
    return chosen.out / "weights" / shapes.DEMO / variant


def serve(
    chosen: Setting, variant: str, folder: Path, start: str, pairs: list[tuple[str, list[str]]]
) -> tuple[tuple[str, str, str, str], list[list[float]]]:
    """Seconds to ready, GPU memory, ways to score and outcome; and the answers, an empty list after a failure."""
    options = () if chosen.rehearse else (*BESIDE_OTHERS, *(EAGER if start == "eager" else ()))
    results = chosen.out / "serving" / f"{variant}-{start}"
    with lease.hold(results / "lease"), watched() as watch:
        server = local_vllm.deploy(variant, folder, results, options=options)
        if server.failure:
            return (seconds(server.startup_s), watch.gigabytes, "–", first_error(server)), []
        try:
            endpoint = Endpoint(server.url, server.served_name, str(folder), server.max_model_len)
            ways = ", ".join(
                f"{way.kind} {way.difference:.3f}" if not way.trouble else f"{way.kind}: {way.trouble[:90]}"
                for way in endpoint.tested.server.tried
            )
            answers = [logliks(endpoint, context, choices) for context, choices in pairs]
            return (seconds(server.startup_s), watch.gigabytes, ways, "answered"), answers
        except (PrerequisiteError, ServerFailedError) as error:
            return (seconds(server.startup_s), watch.gigabytes, "–", str(error)[:200]), []
        finally:
            local_vllm.undeploy(server)


def compare(table: Table, answered: Answered, pairs: list[tuple[str, list[str]]]) -> None:
    """Write the distance from the CPU's answers into the table's row."""
    distance, same = distance_from_cpu(answered.folder, pairs, answered.logliks)
    row = table.rows[answered.row]
    row[-3] = f"within {TOLERANCE} a token" if distance <= TOLERANCE else f"NOT within {TOLERANCE} a token"
    row[-2:] = [f"{distance:.4f}", same]
    table.save()


def questions(chosen: Setting) -> list[tuple[str, list[str]]]:
    """ARC-Challenge's first questions: the context and the choices."""
    lines = (chosen.data / "ai2_arc" / "ARC-Challenge" / "test.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[: REHEARSED_QUESTIONS if chosen.rehearse else QUESTIONS]]
    return [
        (f"Question: {row['question']}\nAnswer:", [f" {choice}" for choice in row["choices"]["text"]]) for row in rows
    ]


def logliks(endpoint: Endpoint, context: str, choices: list[str]) -> list[float]:
    """The served model's log-likelihood of each choice."""
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, (context, choice), 0) for choice in choices]
    return [value for value, _ in endpoint.loglikelihood(requests)]


def distance_from_cpu(
    folder: Path, pairs: list[tuple[str, list[str]]], answers: list[list[float]]
) -> tuple[float, str]:
    """Mean distance a token from transformers in float32 on the CPU, and in how many questions both choose the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    distances, same = [], 0
    for (context, choices), answered in zip(pairs, answers, strict=True):
        start = len(tokenizer(context).input_ids)
        expected = []
        for choice, value in zip(choices, answered, strict=True):
            whole = tokenizer(context + choice, return_tensors="pt").input_ids
            with torch.no_grad():
                logprobs = model(whole).logits[0, :-1].float().log_softmax(-1)
            expected.append(logprobs.gather(1, whole[0, 1:, None])[start - 1 :].sum().item())
            distances.append(abs(expected[-1] - value) / (whole.shape[1] - start))
        same += expected.index(max(expected)) == answered.index(max(answered))
    return mean(distances), f"{same} of {len(pairs)}"


def first_error(server: Server) -> str:
    """Why a server did not start, in one line."""
    return (local_vllm.why_it_ended(server) or server.failure.splitlines()[0])[:300]


if __name__ == "__main__":
    main()
