"""A decision on four variants that `track` can record, and the facts and files of its pipeline run."""

from pathlib import Path

from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Model, Scores, TaskScore, Weights
from quantgate.components.run.evidence_digests import digests_of
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.tracking.facts import RunFacts, RunFiles

FACTS = RunFacts(
    run_id="run-1",
    name="nightly",
    started_at=1_700_000_000.0,
    commit="c0ffee",
    packages={"torch": "2.13.0"},
    settings={"engine": "vllm 0.32.0"},
)
SCORES = {
    "bf16": {"hellaswag": 0.40, "piqa": 0.60},
    "int8": {"hellaswag": 0.39, "piqa": 0.60},
    "int4-g128": {"hellaswag": 0.38, "piqa": 0.58},
    "int4-g64": {"hellaswag": 0.30, "piqa": 0.55},
}
VERDICTS = {"bf16": "reference", "int8": "ship", "int4-g128": "monitor", "int4-g64": "reject"}
SIZES = {"bf16": 1000, "int8": 600, "int4-g128": 450, "int4-g64": 400}
LAYOUT = "g128 on 30 of 210 layers, g64 on 180: width 576 is not a multiple of 128"


def make_decision(folder: Path, failed: str = "", reused: bool = False) -> Decision:
    """Four rows; the variant named `failed` could not be quantized."""
    verdicts, weights, scores = [], [], []
    for variant, by_task in SCORES.items():
        if variant == failed:
            verdicts.append(Verdict(variant=variant, verdict="failed", sentence="Out of memory.", next_step="Use g64."))
            weights.append(Weights(variant=variant, baseline_digest="base", failure="out of memory"))
            scores.append(Scores(variant=variant, suite="quick", stage="full", failure="out of memory"))
            continue
        reference = variant == "bf16"
        drops = {} if reference else {task: 1 - score / SCORES["bf16"][task] for task, score in by_task.items()}
        verdicts.append(
            Verdict(
                variant=variant,
                verdict=VERDICTS[variant],
                sentence=f"{variant} is as it is.",
                next_step="" if reference else "Look at it.",
                size_bytes=SIZES[variant],
                scores=by_task,
                drops=drops,
                average_drop=None if reference else 1 - sum(by_task.values()),
            )
        )
        weights.append(
            Weights(
                variant=variant,
                baseline_digest="base",
                digest=f"digest of {variant}",
                size_bytes=SIZES[variant],
                scheme="BF16" if reference else "W4A16",
                algorithm="" if reference else "GPTQ",
                layout=LAYOUT if variant == "int4-g128" else "",
                calibration_sha256="" if reference else "c0" * 32,
                calibration_tokens=0 if reference else 4012,
                duration_s=0.0 if reference else 34.5,
                reused=reused,
            )
        )
        records = folder / variant / "records.parquet"
        records.parent.mkdir(parents=True, exist_ok=True)
        records.write_bytes(f"rows of {variant}".encode())
        scores.append(
            Scores(
                variant=variant,
                suite="quick",
                stage="full",
                tasks=tuple(
                    TaskScore(
                        task=task, metric="acc", score=score, stderr=0.01, items=100, shots=5, chance=0.25, version="1"
                    )
                    for task, score in by_task.items()
                ),
                records=str(records),
                duration_s=180.0,
            )
        )
    return Decision(
        model=Model(source="hf:org/model", digest="base", uri="", size_bytes=1000, note="A copy."),
        suite="quick",
        limits=use_case_named("general-chat"),
        verdicts=tuple(verdicts),
        weights=tuple(weights),
        scores=tuple(scores),
    )


def report_files(folder: Path) -> RunFiles:
    paths = tuple(folder / name for name in ("report.html", "report.md", "verdicts.json"))
    for path in paths:
        path.write_text(f"This is {path.name}.")
    return RunFiles(report=paths)


def called(decision: Decision, use_case: str) -> Decision:
    """The decision by the same limits under another name."""
    return decision.model_copy(update={"limits": decision.limits.model_copy(update={"name": use_case})})


def digested(decision: Decision) -> Decision:
    """The decision with the digests that the gate would give it."""
    files = {scores.variant: Path(scores.records) for scores in decision.scores if scores.records}
    sha256s = {variant: sha256_of(file) for variant, file in files.items()}
    return decision.model_copy(update={"digests": digests_of(decision.model_dump_json(), sha256s)})
