"""A plugin of vLLM (entry point group `vllm.general_plugins`), which vLLM's own process imports; not for import here.

On a cluster it is installed in the image of manifests/images/vllm.Containerfile; on one machine it is found on the
server's PYTHONPATH. It mends two things of vLLM 0.32:

- Log-probabilities of a prompt: vLLM reserves the rows without filling them, and computes those of the tokens that did
  not come from the prefix cache. The others hold whatever lay in the memory: it looks like an answer, or it is no
  number and the response cannot be sent. Here such rows are marked, their token id is -1, and left out of the
  response, as vLLM's second model runner does: a row for each cached token would take most of a response's time.
- INT4 on a CPU without AVX-512: vLLM chooses its kernel for 4-bit weights, which its build for AVX2 does not have, and
  dies at the first prompt. There the weights are unpacked once, when they are loaded, and multiplied by PyTorch: the
  numbers that the checkpoint stands for, in as much memory as the baseline's.

On a CPU without instructions for bfloat16 it lets vLLM choose float32, which is several times as fast there as
emulated bfloat16; --dtype still overrules it. GET /quantgate answers what the server has chosen.

POST /v1/quantgate/score scores many prompts in one call, each shared context sent once:

    {"contexts": [{"tokens": ids, "prompts": [{"tokens": ids, "ids": [5, 7]}, {"tokens": ids, "start": 130}]}],
     "cache_salt": "…"}

A prompt is its context's tokens and its own. One with `ids` scores these token ids as the next token; one with `start`
scores its own tokens from that position on. `scores` has a list for each prompt: for each position the
log-probabilities of these tokens, then that of the likeliest token. A prompt whose scored tokens are in the prefix
cache is computed again without it; `computed_again` is the number of these.
"""

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.v1.outputs import LogprobsTensors

NOT_COMPUTED = -1
LOWEST = -9999.0
CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Those of components/run/machine.py, which vLLM's process cannot import."""


def register() -> None:
    """Called by vLLM in each of its processes."""
    mark_rows_not_computed()
    leave_out_rows_not_computed()
    if current_platform.is_cpu():
        unpack_int4_without_kernel()
        choose_float32_without_bf16()
    if "vllm.entrypoints.launchers.app" in sys.modules:  # the process that answers HTTP, in vLLM 0.32
        answer_settings()
        answer_batches()


def mark_rows_not_computed() -> None:
    """Give the rows of a prompt's log-probabilities a mark that only a computed one loses."""
    reserve = LogprobsTensors.empty_cpu

    def marked(num_positions: int, num_tokens_per_position: int) -> LogprobsTensors:
        tensors = reserve(num_positions, num_tokens_per_position)
        tensors.logprob_token_ids.fill_(NOT_COMPUTED)
        tensors.logprobs.zero_()
        tensors.selected_token_ranks.zero_()
        return tensors

    LogprobsTensors.empty_cpu = staticmethod(marked)


def leave_out_rows_not_computed() -> None:
    """Respond with the rows of a prompt from the first computed one on."""
    from vllm.v1.engine.logprobs import LogprobsProcessor

    respond = LogprobsProcessor._update_prompt_logprobs

    def respond_with_computed(self: Any, rows: LogprobsTensors) -> None:
        computed = (rows.logprob_token_ids[:, 0] != NOT_COMPUTED).nonzero()
        first = int(computed[0]) if len(computed) else len(rows.logprob_token_ids)
        respond(
            self,
            rows._replace(
                logprob_token_ids=rows.logprob_token_ids[first:],
                logprobs=rows.logprobs[first:],
                selected_token_ranks=rows.selected_token_ranks[first:],
            ),
        )

    LogprobsProcessor._update_prompt_logprobs = respond_with_computed


def unpack_int4_without_kernel() -> None:
    """Have PyTorch multiply INT4 weights where vLLM's kernel is missing: without AVX-512, and in float32."""
    from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel as kernel  # noqa: N813
    from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32

    prepare, multiply = kernel.process_weights_after_loading, kernel.apply_weights

    def prepare_or_unpack(self: Any, layer: torch.nn.Module) -> None:
        has_kernel = hasattr(torch.ops._C, "cpu_gemm_wna16") and self.config.act_type != torch.float32
        if has_kernel or self.config.zero_points:
            prepare(self, layer)
            return
        packed, scales = getattr(layer, self.w_q_name), getattr(layer, self.w_s_name)
        steps = unpack_quantized_values_into_int32(packed.data, self.config.weight_type, packed.packed_dim)
        steps = steps if packed.output_dim == 0 else steps.t()
        scale = scales.data if scales.output_dim == 0 else scales.data.t()
        grouped = (steps - self.config.weight_type.bias).view(scale.shape[0], scale.shape[1], -1)
        weight = (grouped.to(scale.dtype) * scale.unsqueeze(-1)).flatten(1)
        layer.unpacked = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
        for name in (self.w_q_name, self.w_s_name):
            getattr(layer, name).data = torch.empty(0)

    def multiply_as_prepared(
        self: Any, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        unpacked = getattr(layer, "unpacked", None)
        return multiply(self, layer, x, bias) if unpacked is None else torch.nn.functional.linear(x, unpacked, bias)

    kernel.process_weights_after_loading = prepare_or_unpack
    kernel.apply_weights = multiply_as_prepared


def choose_float32_without_bf16() -> None:
    """Have vLLM resolve `--dtype auto` to float32 on a CPU that multiplies bfloat16 in software."""
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if CPUINFO.exists() else []
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), None)  # x86, ARM
    if flags is not None and BF16_FLAGS.isdisjoint(flags):
        type(current_platform).supported_dtypes = property(lambda _platform: [torch.float32])


def answer_settings() -> None:
    """Answer GET /quantgate with the data type in which the server computes."""
    from fastapi import Request
    from vllm.entrypoints.serve.instrumentator import basic

    async def settings(request: Request) -> dict[str, str]:
        return {"dtype": str(basic.engine_client(request).model_config.dtype).removeprefix("torch.")}

    basic.router.add_api_route("/quantgate", settings)


def answer_batches() -> None:
    """Answer POST /v1/quantgate/score, below the prefix that vLLM's key guards."""
    from fastapi import Request
    from vllm.entrypoints.serve.instrumentator import basic
    from vllm.entrypoints.serve.utils.api_utils import with_cancellation

    async def score(batch: dict[str, Any], raw_request: Request) -> dict[str, Any]:
        engine, call = basic.engine_client(raw_request), uuid.uuid4().hex
        prompts = [(context["tokens"], prompt) for context in batch["contexts"] for prompt in context["prompts"]]
        scores = (
            scores_of(engine, context + prompt["tokens"], prompt, batch["cache_salt"], f"score-{call}-{number}")
            for number, (context, prompt) in enumerate(prompts)
        )
        answers = await asyncio.gather(*scores)
        return {"scores": [rows for rows, _ in answers], "computed_again": sum(again for _, again in answers)}

    basic.router.add_api_route("/v1/quantgate/score", with_cancellation(score), methods=["POST"])


async def scores_of(
    engine: Any, tokens: list[int], prompt: dict[str, Any], salt: str, name: str
) -> tuple[list[list[float]], bool]:
    """The scores of one prompt, position by position, and whether it was computed again for them."""
    if ids := prompt.get("ids"):
        output = await answered(engine, tokens, salt, name, logprob_token_ids=ids)
        choice = output.outputs[0]
        (row,) = choice.logprobs
        return [[clamped(row[token]) for token in (*ids, choice.token_ids[0])]], False
    scoring = {"prompt_logprobs": 1, "skip_reading_prefix_cache": False}
    output = await answered(engine, tokens, salt, name, **scoring)
    cached = len(tokens) - len(output.prompt_logprobs) >= prompt["start"]
    if cached:
        scoring["skip_reading_prefix_cache"] = True
        output = await answered(engine, tokens, salt, f"{name}-again", **scoring)
    rows = output.prompt_logprobs
    left_out = len(tokens) - len(rows)
    if left_out >= prompt["start"]:
        raise RuntimeError(f"vLLM has no score of token {prompt['start']} of a prompt that it computed as a whole.")
    scores = [
        [clamped(rows[at - left_out][tokens[at]]), max(map(clamped, rows[at - left_out].values()))]
        for at in range(prompt["start"], len(tokens))
    ]
    return scores, cached


async def answered(engine: Any, tokens: list[int], salt: str, name: str, **scoring: Any) -> Any:
    """The engine's output for one prompt."""
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    params = SamplingParams(
        temperature=0, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **scoring
    )
    async for output in engine.generate(tokens_input(tokens, cache_salt=salt), params, name):
        last = output
    return last


def clamped(entry: Any) -> float:
    """The log-probability; vLLM's lowest one in JSON in place of minus infinity."""
    return max(float(entry.logprob), LOWEST)
