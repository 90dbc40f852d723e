"""Make one variant of a model with llm-compressor, and store it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.layers import Layout
from quantgate.components.models.parts import IGNORED
from quantgate.components.models.variants import Variant
from quantgate.components.quantize.log_progress import progress_in
from quantgate.components.quantize.ranks import NO_TCP_STORE, check_ranks, program, ranks_for
from quantgate.components.run import machine
from quantgate.components.run.artifacts import Model, Weights
from quantgate.components.run.calibration import Calibration
from quantgate.components.run.checkpoint import Checkpoint
from quantgate.components.run.progress import Step
from quantgate.components.run.results import RunResults
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.store import Store

LAST_LINES = 8
POLL_S = 0.5
SHARED_IS_FULL = re.compile(r"shared memory.*No space left on device")
"""PyTorch's message."""
RANK_KILLED = "traceback : Signal 9 (SIGKILL)"
"""In the log of PyTorch's launcher."""


def quantize(
    variant: Variant,
    baseline: Model,
    store: Store,
    results: Path,
    step: Step,
    calibration: Calibration | None,
    gpus: int = 1,
) -> Weights:
    """The variant's weights in the store; for the baseline the model's own weights, without a `calibration`.

    Made by so many `gpus` at once, if its method can be.

    A variant that differs in how it is served shares the weights of its row. Weights of an earlier run with the same
    baseline and the same recipe are reused. If llm-compressor fails, the value has a `failure`. The calibration texts,
    and llm-compressor's log, are in `results`.
    """
    if variant.kv_cache_dtype:
        shared = quantize(variant.stored, baseline, store, results, step, calibration, gpus)
        return shared.model_copy(
            update={"variant": variant.name, "kv_cache_dtype": variant.kv_cache_dtype, "reused": False}
        )
    if not variant.quantized:
        return Weights(
            variant=variant.name,
            baseline_digest=baseline.digest,
            digest=baseline.digest,
            uri=baseline.uri,
            size_bytes=baseline.size_bytes,
            scheme=variant.scheme,
        )
    if calibration is None:
        raise ValueError("The calibration texts are not chosen: the step `resolve` does that.")
    started, ranks = time.monotonic(), ranks_for(variant, gpus)
    recipe = f"recipes/{recipe_key(variant, baseline, calibration, ranks)}.json"
    if earlier := made_before(store, recipe, variant, baseline):
        return earlier
    weights = Weights(
        variant=variant.name,
        baseline_digest=baseline.digest,
        scheme=variant.scheme,
        algorithm=variant.method,
        calibration=calibration.describe(),
        seed=variant.seed,
        recipe_sha256=hashlib.sha256(variant.recipe.encode()).hexdigest() if variant.recipe else "",
        calibration_sha256=calibration.sha256,
        calibration_tokens=calibration.used_tokens,
    )
    try:
        mixed = variant.sensitive_share
        errors = even_errors(variant, baseline, store, results, step, calibration, gpus) if mixed else ""
        compressed = compress(variant, baseline, store, RunResults(str(results)), step, calibration, ranks, errors)
    except PrerequisiteError as error:
        return weights.model_copy(update={"failure": str(error), "duration_s": time.monotonic() - started})
    weights = weights.model_copy(update={**compressed, "duration_s": time.monotonic() - started})
    store.put_text(weights.model_dump_json(indent=2), recipe)
    return weights


def given_weights(checkpoint: Checkpoint, variant: Variant, baseline: Model) -> Weights:
    """The weights of a checkpoint that was quantized before."""
    return Weights(
        variant=variant.name,
        baseline_digest=baseline.digest,
        digest=checkpoint.digest,
        uri=checkpoint.uri,
        size_bytes=checkpoint.size_bytes,
        scheme=checkpoint.scheme,
        algorithm=checkpoint.method,
        source=checkpoint.source,
        kv_cache_dtype=variant.kv_cache_dtype,
    )


def made_before(store: Store, recipe: str, variant: Variant, baseline: Model) -> Weights | None:
    """The variant's weights that an earlier run stored; None if it stored none, or what another variant's file says."""
    try:
        weights = Weights.model_validate_json(store.get_text(recipe) or "")
    except ValidationError:
        return None
    of_baseline = weights.baseline_digest == baseline.digest != weights.digest
    name = f"models/{weights.digest}"
    if weights.variant != variant.name or not of_baseline or not store.has_folder(name, weights.digest):
        return None
    return weights.model_copy(update={"reused": True, "uri": store.uri(name)})  # the store may have moved since


def recipe_key(variant: Variant, baseline: Model, calibration: Calibration, ranks: int = 1) -> str:
    """A digest of everything that determines the weights; several ranks add the same numbers in another order."""
    parts: tuple[object, ...] = (
        baseline.digest,
        variant,
        calibration.identity,
        "in a fixed order",
        IGNORED,
        version("llmcompressor"),
        version("compressed-tensors"),
    )
    if ranks > 1:  # not part of the key of one rank, which earlier versions wrote too
        parts = (*parts, f"{ranks} ranks")
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def even_errors(
    variant: Variant, baseline: Model, store: Store, results: Path, step: Step, calibration: Calibration, gpus: int
) -> str:
    """The error of each layer in the row without 8 bits, as JSON; that row is made if no run has made it.

    Raises PrerequisiteError if it cannot be made.
    """
    even = quantize(variant.even, baseline, store, results, step, calibration, gpus)
    if even.failure:
        raise PrerequisiteError(f"{even.variant}, whose layers show which ones get 8 bits, failed: {even.failure}")
    name = errors_name(variant.even, baseline, calibration, ranks_for(variant.even, gpus))
    if (errors := store.get_text(name)) is None:
        raise PrerequisiteError(f"{store.uri(name)} is missing. Delete the JSON file beside it, and run it again.")
    return errors


def errors_name(variant: Variant, baseline: Model, calibration: Calibration, ranks: int) -> str:
    """The file in the store with the relative error of each of the variant's layers."""
    return f"recipes/{recipe_key(variant, baseline, calibration, ranks)}.errors.json"


def compress(
    variant: Variant,
    baseline: Model,
    store: Store,
    results: RunResults,
    step: Step,
    calibration: Calibration,
    ranks: int,
    even_errors: str,
) -> dict[str, Any]:
    """Run the program `compress`, check its checkpoint and store it; returns what is new in the variant's Weights.

    A mixed variant needs `even_errors`, the JSON with the errors of the layers in the row without 8 bits.
    """
    from quantgate.components.models.digest import digest_of, fetch_model, model_files, weights_size
    from quantgate.components.quantize.check import check_compressed, worst
    from quantgate.components.quantize.memory_needed import check_memory
    from quantgate.components.quantize.rotation import check_rotates
    from quantgate.components.quantize.written import Written, describe_parts
    from quantgate.components.storage.cache import cache_dir

    log = results.log(f"quantize-{variant.name}")
    log.parent.mkdir(parents=True, exist_ok=True)
    texts = checked_texts(results, calibration)
    with tempfile.TemporaryDirectory(prefix="quantgate-", dir=log.parent.parent) as scratch:
        out, facts_file = Path(scratch) / "model", Path(scratch) / "layers.json"
        model = fetch_model(baseline.uri, baseline.digest, cache_dir())
        check_rotates(model, variant)
        check_ranks(ranks, calibration)
        check_memory(model, variant, calibration, in_float32=slow_16_bits(variant), ranks=ranks)
        if variant.recipe:
            recipe_beside(facts_file).write_text(variant.recipe, encoding="utf-8")
        if even_errors:
            errors_beside(facts_file).write_text(even_errors, encoding="utf-8")
        run(compress_command(variant, model, texts, calibration, out, facts_file, ranks), log, step)
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        written = Written.read(out, facts["linears"], facts["algorithm"]) if variant.recipe else None
        layers = written.layers if written else layouts_in(facts_file)
        layout = written.describe() if written else str(facts["layout"])
        errors = check_compressed(out, model, layers, transform=facts["transform"], own=bool(written))
        digest = digest_of(out)
        uri = store.put_folder(out, f"models/{digest}", digest, only=model_files(out))
        store.put_text(json.dumps(errors), errors_name(variant, baseline, calibration, ranks))
        return {
            "digest": digest,
            "uri": uri,
            "size_bytes": weights_size(out),
            "layout": "; ".join(filter(None, [layout, describe_parts(out)])),
            **({"scheme": written.scheme} if written else {}),
            "algorithm": str(facts["algorithm"]),
            "largest_errors": worst(errors),
            **{name: int(facts[name]) for name in ("peak_memory_bytes", "peak_gpu_memory_bytes")},
        }


def checked_texts(results: RunResults, calibration: Calibration) -> Path:
    """The file with the calibration texts; raises PrerequisiteError when it is gone, or not the one that was chosen."""
    file = results.calibration_file(calibration.number).path
    if not file.is_file() or sha256_of(file) != calibration.sha256:
        what = "has other bytes than when the run began" if file.is_file() else "is gone"
        raise PrerequisiteError(
            f"{file}, the calibration texts, {what}. Find out who writes to the results, and start a new run."
        )
    return file


def layouts_in(facts: Path) -> dict[str, Layout]:
    """The layout that each quantized layer should have, as the program `compress` wrote it."""
    layers = json.loads(facts.read_text(encoding="utf-8"))["layers"]
    return {name: Layout(**layout) for name, layout in layers.items()}


def recipe_beside(facts: Path) -> Path:
    """The file with the user's own recipe."""
    return facts.with_name("recipe.yaml")


def errors_beside(facts: Path) -> Path:
    """The file with the errors of the layers in the row without 8 bits."""
    return facts.with_name("errors.json")


def compress_command(
    variant: Variant, model: Path, texts: Path, calibration: Calibration, out: Path, facts: Path, ranks: int = 1
) -> list[str]:
    """The command line of the program `compress`; `texts` is the JSONL file with the calibration texts."""
    command = [*program(ranks, facts.parent), "--model", str(model), "--variant", variant.name]
    command += ["--calibration", str(texts), "--samples", str(calibration.samples), "--tokens", str(calibration.tokens)]
    command += ["--out", str(out), "--facts", str(facts)]
    command += ["--recipe", str(recipe_beside(facts))] if variant.recipe else []
    command += ["--errors", str(errors_beside(facts))] if variant.sensitive_share else []
    return [*command, "--slow-16-bits"] if slow_16_bits(variant) else command


def slow_16_bits(variant: Variant) -> bool:
    """Whether a CPU here makes the variant in float32: a cast back to 16 bits would undo floats of 8 or 4 bits."""
    return variant.of_integers and not machine.multiplies_16_bits()


def run(command: list[str], log: Path, step: Step) -> None:
    """Run the command with its output in the log, and report its progress; raises PrerequisiteError when it fails."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | NO_TCP_STORE | {"HF_HUB_OFFLINE": "1"},  # model and calibration data are local
        )
    while process.poll() is None:
        said = progress_in(log.read_bytes())
        if said.note:
            step.advance(said.layer, said.layers, said.note)
        time.sleep(POLL_S)
    if process.returncode == 0:
        return
    text = log.read_text(encoding="utf-8", errors="replace")
    if SHARED_IS_FULL.search(text):
        raise PrerequisiteError(
            "Several GPUs share the weights in /dev/shm, which is full. Make it larger, or leave --quantize-gpus out."
        )
    if "No space left on device" in text:
        free = shutil.disk_usage(log.parent).free
        raise PrerequisiteError(f"The disk of {log.parent.parent} is full ({free / 1e6:.0f} MB free). Make room.")
    was_killed = process.returncode == -9 or RANK_KILLED in text
    killed = " It was killed: most likely the machine ran out of memory." if was_killed else ""
    lines = "\n".join(f"  {line}" for line in text.splitlines()[-LAST_LINES:])
    raise PrerequisiteError(
        f"llm-compressor ended with exit status {process.returncode}.{killed} Last lines of {log}:\n{lines}"
    )
