"""(b) vLLM on every variant of the demo model: seconds to ready, the ways to score it, and its answers.

The answers are compared with those of transformers on the CPU, in float32, with the same checkpoint. An answer is the
log-likelihood of each choice of an ARC-Challenge question, without shots. All servers start at the same time on the one
GPU.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.gpu import setting, shapes
from benchmarks.gpu.setting import NOT_RUN, Setting, Table, seconds
from benchmarks.gpu.together import Wanted, share_of_memory, started
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.endpoint import Endpoint
from quantgate.components.models.variants import BASELINE, variant_named
from quantgate.components.models.window import model_config
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import access, local_server
from quantgate.components.servers.client import ServerFailedError

QUESTIONS, REHEARSED_QUESTIONS = 40, 4
TOLERANCE = 0.1
"""The mean difference a token, in natural log units, allowed between a GPU's 16 bits and a CPU's 32."""
COARSE_TOLERANCE = 0.2
"""The same where activations are quantized too, to 8 bits: small differences of an activation change its rounding.

On SmolLM2-135M int8 answers of vLLM's CPU build differ from those of transformers by 0.14 to 0.16, and from those of
the model that was not quantized by 0.13.
"""
COARSE = ("int8", "fp8-dynamic", "fp8-block", "nvfp4", "mxfp4")
SHARED = share_of_memory(1_000_000_000)
EAGER = ("--enforce-eager",)


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
    wanted = []
    for variant, start in starts(chosen):
        folder = base if variant == BASELINE else checkpoint(chosen, variant)
        if reason := skip_reason(chosen, variant, folder):
            table.add(variant, start, NOT_RUN, "–", reason, "–", "–")
        else:
            options = () if chosen.rehearse else (*SHARED, *(EAGER if start == "eager" else ()))
            wanted.append(Wanted(f"{variant}-{start}", variant, folder, options))
    answers: list[Answered] = []
    with started(chosen.out / "serving", wanted) as servers:
        for name, server in servers.items():
            cells, logliks = ask(server, pairs)
            if logliks:
                answers.append(Answered(len(table.rows), Path(server.model_path), logliks))
            table.add(server.variant, name.removeprefix(f"{server.variant}-"), *cells, "–", "–")
    for answered in answers:
        if not chosen.is_late():
            compare(table, answered, pairs)


def starts(chosen: Setting) -> list[tuple[str, str]]:
    """The variants to serve, each with how it starts."""
    eager = [(variant, "eager") for variant in filter(chosen.wants, shapes.variants(chosen.models))]
    return eager if chosen.rehearse or not chosen.wants(BASELINE) else [*eager, (BASELINE, "compiled")]


def skip_reason(chosen: Setting, variant: str, folder: Path) -> str:
    """Why the variant is not served; empty if it is."""
    if chosen.rehearse and not variant_named(variant).on_cpus:
        return "needs a GPU"
    if not (folder / "config.json").exists():
        return "part (a) left no checkpoint"
    return "no time left" if chosen.is_late(40) else ""


def checkpoint(chosen: Setting, variant: str) -> Path:
    """The variant's folder, which part (a) wrote."""
    return chosen.out / "weights" / shapes.DEMO / variant


def ask(server: Server, pairs: list[tuple[str, list[str]]]) -> tuple[tuple[str, str, str], list[list[float]]]:
    """Seconds to ready, ways to score and outcome; and the answers, an empty list after a failure."""
    ready_s = seconds(server.startup_s)
    if server.failure:
        return (ready_s, "–", first_error(server)), []
    try:
        model, window, key = server.model_path, server.max_model_len, access.key_of(server)
        endpoint = Endpoint(server.url, server.served_name, model, window, key=key)
        ways = ", ".join(
            f"{way.kind} {way.difference:.3f}" if not way.trouble else f"{way.kind}: {way.trouble[:90]}"
            for way in endpoint.tested.server.tried
        )
        return (ready_s, ways, "answered"), [logliks(endpoint, context, choices) for context, choices in pairs]
    except (PrerequisiteError, ServerFailedError) as error:
        return (ready_s, "–", str(error)[:200]), []


def compare(table: Table, answered: Answered, pairs: list[tuple[str, list[str]]]) -> None:
    """Write the distance from the CPU's answers into the table's row."""
    distance, same = distance_from_cpu(answered.folder, pairs, answered.logliks)
    row = table.rows[answered.row]
    tolerance = COARSE_TOLERANCE if row[0] in COARSE else TOLERANCE
    row[-3] = f"within {tolerance} a token" if distance <= tolerance else f"NOT within {tolerance} a token"
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
    """Mean distance a token from transformers on the CPU, and in how many questions both choose the same.

    It computes in float32, and in bfloat16 for FP4.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # compressed-tensors restores FP4 in 16 bits, whatever the dtype that is passed
    form = str(model_config(folder).get("quantization_config", {}).get("format", ""))
    kind = torch.bfloat16 if "fp4" in form else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, device_map="cpu").eval()
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
    return (local_server.why_it_ended(server) or server.failure.splitlines()[0])[:300]


if __name__ == "__main__":
    main()
