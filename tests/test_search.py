"""A search: the order of its variants, when it ends, what that costs in evidence, and what a run shows of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.search import needless
from quantgate.components.evidence.spending import attempt_share, run_share
from quantgate.components.execute import step as execute_step
from quantgate.components.gate import step as gate_step
from quantgate.components.models.recipe_file import all_variants, own_rows
from quantgate.components.models.rungs import (
    AUTO,
    Accelerator,
    bits_of,
    bits_of_recipe,
    by_default,
    by_size,
    expanded,
    ladder,
)
from quantgate.components.models.variants import DEFAULT, VARIANTS, variant_named
from quantgate.components.policies.policy import UseCase
from quantgate.components.quantize import step as quantize_step
from quantgate.components.report.junit import junit
from quantgate.components.report.matrix import headline
from quantgate.components.run.artifacts import Model, Weights
from quantgate.components.run.attempts import Attempt, AttemptRecord, Judgement
from quantgate.components.run.checkpoint import Checkpoint
from quantgate.components.run.evidence_digests import policy_digest
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.servers import accelerator
from quantgate.pipelines.exits import exit_of
from quantgate.pipelines.options import PLAN_OPTIONS, plan_of
from tests.support.answered import answers_of, candidate_of, pair_of, write_results

LADDER = ("bf16", "int4-g128", "int4-g64", "int8")
POLICY = UseCase(name="ours", max_average_drop=0.05)
MODEL = Model(source="file:guide", digest="d0", uri="models/d0", size_bytes=100)
LOST_MUCH, LOST_NOTHING = (300, 4), (4, 4)
BETWEEN_SHARES = (10, 10)
"""Lost and gained: its p-value is over a third of the first attempt's error, and under a half of it."""


def planned(folder: Path, **changes: Any) -> EvaluationPlan:
    places = {"store": str(folder / "store"), "results": str(folder / "run")}
    known: dict[str, Any] = {"variants": LADDER, "search": True, "limits": POLICY, "suite": "demo", **places}
    return EvaluationPlan(**known | changes)


def answered(plan: EvaluationPlan, name: str, lost: int = 0, gained: int = 0) -> Verdict | None:
    """Write the variant's answers to the results, as its last stage does; returns its verdict after the step execute.

    The baseline has 2,000 answers, of which 1,200 are right.
    """
    folder, plan_file = RunResults(plan.results).folder / "variants" / name, f"{plan.results}/plan.json"
    before, after = pair_of(lost, gained, 1200 - lost, 800 - gained)
    candidate = candidate_of(name, {"arc": answers_of("arc", before if name == "bf16" else after)})
    write_results(folder, candidate)
    digest = "d0" if name == "bf16" else f"digest of {name}"
    candidate.weights.model_copy(update={"digest": digest}).write(folder / "weights.json")
    records = {"suite": "demo", "records": str(folder / "full.parquet")}
    candidate.scores.model_copy(update=records).write(folder / "full.json")
    plan.write(plan_file)
    execute_step.execute(str(folder / "full.json"), plan_file, str(folder / "executed.json"))
    return RunResults(plan.results).variant(name).verdict.read(Verdict)


def quantized(plan: EvaluationPlan, name: str, folder: Path) -> Weights:
    """What the step quantize writes for the variant; the results have the plan."""
    MODEL.write(folder / "model.json")
    quantize_step.quantize(name, str(folder / "model.json"), f"{plan.results}/plan.json", str(folder / "weights.json"))
    return Weights.read(folder / "weights.json")


def decided(plan: EvaluationPlan, folder: Path) -> Decision:
    """The gate's decision on the variants with weights in the results; a variant without scores failed before."""
    MODEL.write(folder / "model.json")
    results = RunResults(plan.results)
    weights = [results.weights(name).path for name in plan.variants if results.weights(name).path.exists()]
    scores = [file for name in plan.variants if (file := results.scores(name, "full").path).exists()]
    decision = folder / "decision.json"
    of_weights, of_scores = ([str(file) for file in group] for group in (weights, scores))
    gate_step.gate(str(folder / "model.json"), f"{plan.results}/plan.json", of_weights, of_scores, str(decision))
    return Decision.read(decision)


@pytest.mark.slow
def test_a_search_leaves_out_what_is_larger_than_the_first_variant_that_ships(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    answered(plan, "bf16")
    assert not RunResults(plan.results).variant("bf16").verdict.path.exists(), "the baseline is no rung"
    rejected = answered(plan, "int4-g128", *LOST_MUCH)
    assert rejected is not None
    assert rejected.verdict == "reject"
    assert needless("int4-g64", plan) == "", "nothing ships yet"
    shipped = answered(plan, "int4-g64", *LOST_NOTHING)
    assert shipped is not None
    assert shipped.verdict == "ship"
    assert needless("int4-g128", plan) == "", "it is smaller than what ships"
    weights = quantized(plan, "int8", tmp_path)
    assert (weights.skipped, weights.failure) == (True, "Not tried: int4-g64 is smaller, and its verdict is ship.")
    decision = decided(plan, tmp_path)
    assert [row.verdict for row in decision.verdicts] == ["reference", "reject", "ship", "skipped"]
    assert decision.verdicts[2] == shipped, "the gate's verdict is the one with which the search ended"
    assert decision.verdicts[3].sentence == weights.failure
    assert headline(decision).startswith("Yes: int4-g64 may replace bf16")
    assert re.findall('<testsuite name="([^"]+)"', junit(decision)) == ["int4-g64"], "the others were expected not to"
    assert exit_of([row.verdict for row in decision.verdicts[1:]], search=True) == 0
    assert exit_of([row.verdict for row in decision.verdicts[1:]]) == 1


def test_a_variant_that_is_not_tried_keeps_its_share_of_the_error(tmp_path: Path) -> None:
    """One p-value, between a third and a half of the error: what is left untried decides."""
    of_two, of_three = planned(tmp_path / "two", variants=LADDER[:3]), planned(tmp_path / "three")
    verdicts = []
    for plan in (of_two, of_three):
        answered(plan, "bf16")
        verdict = answered(plan, "int4-g128", *BETWEEN_SHARES)
        assert verdict is not None
        verdicts.append((verdict.verdict, verdict.confidence))
    error = 0.05 * 0.6079 * 0.75  # of the first run of the first attempt
    assert [verdict for verdict, _ in verdicts] == ["ship", "monitor"]
    assert [confidence for _, confidence in verdicts] == pytest.approx([1 - error / 2, 1 - error / 3], abs=1e-5)


def test_a_search_judges_by_the_attempt_that_the_gate_counts(tmp_path: Path) -> None:
    """After a run of all variants a search that leaves some out has other weights: it is the next attempt."""
    plan = planned(tmp_path, variants=LADDER[:3], asked="a" * 64)
    answered(plan, "bf16")
    weights = {"bf16": "d0", "int4-g128": "digest of int4-g128", "int4-g64": "digest of int4-g64"}
    judged = Judgement(policy=policy_digest(POLICY), asked=plan.asked, weights=weights, evidence="b" * 64)
    AttemptRecord(plan.store, "d0", POLICY.name).add(judged, Attempt(number=1), "run 1", ())
    verdict = answered(plan, "int4-g128", *LOST_NOTHING)
    assert verdict is not None
    confidences = [
        1 - 0.05 * attempt_share(attempt) * run_share(attempt) / 2 for attempt in (Attempt(number=1), Attempt(number=2))
    ]
    assert verdict.confidence == pytest.approx(confidences[1], abs=1e-5)
    assert confidences[1] > confidences[0] + 0.001


@pytest.mark.slow
def test_the_policy_says_which_verdicts_end_a_search(tmp_path: Path) -> None:
    for promotes, ends in ((["ship"], False), (["ship", "monitor"], True)):
        limits = POLICY.model_copy(update={"promotes": promotes})
        plan = planned(tmp_path / "-".join(promotes), limits=limits)
        answered(plan, "bf16")
        verdict = answered(plan, "int4-g128", 24, 4)
        assert verdict is not None
        assert verdict.verdict == "monitor"
        assert bool(needless("int4-g64", plan)) is ends


@pytest.mark.slow
def test_a_failed_variant_does_not_end_a_search_and_without_a_search_nothing_is_left_out(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    answered(plan, "bf16")
    failed = Weights(variant="int4-g128", baseline_digest="d0", failure="It did not fit.")
    RunResults(plan.results).weights("int4-g128").write(failed)
    answered(plan, "int4-g64", *LOST_NOTHING)
    assert needless("int8", plan)
    assert needless("int8", plan.model_copy(update={"search": False})) == ""
    assert needless("bf16", plan) == ""
    quantized(plan, "int8", tmp_path)
    assert [row.verdict for row in decided(plan, tmp_path).verdicts] == ["reference", "failed", "ship", "skipped"]


def test_the_variants_of_a_search_go_from_the_smallest_to_the_largest() -> None:
    names = ("int8", "int4-g64-asym", "bf16.kv-fp8", "nvfp4", "int4-g128", "int4-a8-g32", "int4-g64", "int4-channel")
    plan = EvaluationPlan(variants=names, search=True, store="s", results="r")
    in_order = ("int4-channel", "int4-g128", "int4-g64", "int4-g64-asym", "nvfp4", "int8", "int4-a8-g32", "bf16.kv-fp8")
    assert all_variants(plan) == ("bf16", *in_order), "W4A8 takes a byte for each weight"
    assert all_variants(plan.model_copy(update={"search": False})) == ("bf16", *names)
    assert (VARIANTS["int4-g128"].stored_bits, VARIANTS["int4-g64-asym"].stored_bits) == (4.125, 4 + 20 / 64)
    assert (VARIANTS["nvfp4"].stored_bits, VARIANTS["mxfp4"].stored_bits) == (4.5, 4.25)


def test_recipes_and_checkpoints_of_ones_own_have_their_place_in_the_order() -> None:
    own = own_rows(["mine=s_stage: {q_modifiers: {GPTQModifier: {scheme: W4A16}}}"], ["theirs=hf:o/n"])
    kept = Checkpoint(source="hf:o/n", digest="d", uri="u", size_bytes=1, scheme="W4A16", method="awq", stored_bits=4.2)
    names = ["bf16", "int8", "int4-g64", "mine", "theirs"]
    assert by_size(names, own, {}) == ["bf16", "mine", "int4-g64", "int8", "theirs"], "its size is not known yet"
    assert by_size(names, own, {"theirs": kept}) == ["bf16", "mine", "theirs", "int4-g64", "int8"]


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({"bits": 4, "group_size": 128}, 4.125),
        ({"w_bit": 4, "q_group_size": 64}, 4.25),
        ({"bits": 8, "group_size": -1}, 8.0),
        ({"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 16, "type": "float"}}}}, 4.5),
        ({"config_groups": {n: {"weights": {"num_bits": int(n), "type": "int"}} for n in "48"}}, 6.0),
        ({"quant_method": "fp8"}, 16.0),
    ],
)
def test_a_checkpoints_configuration_says_its_bits(config: dict[str, Any], bits: float) -> None:
    assert bits_of(config) == bits


@pytest.mark.parametrize(
    ("modifier", "bits"),
    [
        ("{scheme: W8A8}", 8.0),
        ("{scheme: FP8_DYNAMIC}", 8.0),
        ("{scheme: NVFP4A16}", 4.5),
        ("{config_groups: {a: {weights: {num_bits: 4, group_size: 32}}, b: {weights: {num_bits: 8}}}}", 6.25),
        ("{}", 16.0),
    ],
)
def test_a_recipe_says_its_bits(modifier: str, bits: float) -> None:
    assert bits_of_recipe(f"s_stage: {{q_modifiers: {{M: {modifier}}}}}") == bits


def test_a_search_without_variants_or_through_seeds_is_refused() -> None:
    plan = EvaluationPlan(variants=("bf16",), search=True, store="s", results="r")
    with pytest.raises(PrerequisiteError, match=r"^--search has no variants to try.* Name some, or auto\.$"):
        all_variants(plan)
    seeds = plan.model_copy(update={"variants": ("int8",), "seeds": 2})
    with pytest.raises(
        PrerequisiteError, match=r"^--search ends with the first variant .* --seeds asks for several of each"
    ):
        all_variants(seeds)
    assert all_variants(plan.model_copy(update={"variants": (AUTO,)})) == ("bf16", AUTO), "a cluster knows its GPUs"


def test_without_names_a_run_makes_the_three_and_a_search_tries_those_of_the_accelerator() -> None:
    places = {"store": "s", "results": "r"}
    assert plan_of({"variants": None, **places}).variants == tuple(DEFAULT)
    assert plan_of({"variants": None, "search": True, **places}).variants == (AUTO,)
    assert plan_of({"variants": "int8", "search": True, **places}).variants == ("int8",)
    assert "[int8,int4-g128,int4-g64; with --search auto]" in PLAN_OPTIONS["variants"].help


@pytest.mark.parametrize(
    ("capability", "by_itself", "default"),
    [
        (None, ("int4-g128", "int4-g64", "int4-g128-mixed", "int8"), DEFAULT),
        ((7, 5), ("int4-g128", "int4-g64", "int4-g128-mixed", "int8"), DEFAULT),
        ((8, 6), ("int4-g128", "int4-g64", "int4-g128-mixed", "int8"), DEFAULT),
        ((8, 9), ("int4-g128", "int4-g64", "int4-g128-mixed", "fp8-dynamic"), DEFAULT),
        ((9, 0), ("int4-g128", "int4-g64", "int4-g128-mixed", "fp8-dynamic"), DEFAULT),
        ((10, 0), ("nvfp4", "fp8-dynamic"), ["nvfp4", "fp8-dynamic"]),
        ((12, 0), ("nvfp4", "fp8-dynamic"), ["nvfp4", "fp8-dynamic"]),
    ],
)
def test_the_gpu_chooses_the_variants_of_auto_and_the_default_only_where_it_cannot_serve_it(
    capability: tuple[int, int] | None, by_itself: tuple[str, ...], default: list[str]
) -> None:
    there = Accelerator(on_cpu=False, capability=capability)
    assert ladder(there) == by_itself
    assert by_default(there) == default
    assert all(there.serves(variant_named(name)) for name in by_itself)


def test_a_cpu_serves_its_own_ladder_and_names_beside_auto_stay() -> None:
    cpu = Accelerator(on_cpu=True)
    assert ladder(cpu) == ("int4-g128", "int4-g64", "int4-g128-mixed", "int8")
    assert all(cpu.serves(variant_named(name)) for name in ladder(cpu))
    assert not cpu.serves(VARIANTS["nvfp4"])
    assert expanded(("int4-awq-g64", AUTO, "int8"), cpu) == ("int4-awq-g64", *ladder(cpu))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3", (9, 0)),
        ("nvidia.com/gpu.product=NVIDIA-A10G-SHARED", (8, 6)),
        ("nvidia.com/gpu.product=Tesla-T4,disk=ssd", (7, 5)),
        ("nvidia.com/gpu.compute.major=12,nvidia.com/gpu.compute.minor=1", (12, 1)),
        ("nvidia.com/gpu.product=NVIDIA-X9000", None),
        ("", None),
    ],
)
def test_a_clusters_node_labels_say_which_gpu_serves(
    monkeypatch: pytest.MonkeyPatch, selector: str, expected: tuple[int, int] | None
) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING", "kserve")
    monkeypatch.setenv("QUANTGATE_SERVING_NODE_SELECTOR", selector)
    assert accelerator.accelerator_there() == Accelerator(on_cpu=False, capability=expected)
    monkeypatch.setenv("QUANTGATE_SERVING_GPUS", "0")
    assert accelerator.accelerator_there() == Accelerator(on_cpu=True)


def test_every_name_of_a_gpu_is_one_word_of_one_kind() -> None:
    names = [name for kind in accelerator.CAPABILITIES.values() for name in kind]
    assert len(names) == len(set(names))
    assert all(re.fullmatch("[A-Z0-9]+", name) for name in names)
