import math
import re
from functools import partial
from pathlib import Path

import pytest

from quantgate.components.benchmarks.own_tasks import check_yaml
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.change import Change, apart, percent
from quantgate.components.evidence.next_steps import next_step
from quantgate.components.models.variants import VARIANTS
from quantgate.components.policies.policy import (
    UseCase,
    check_use_case,
    chosen,
    read_use_case,
    side,
    text_of,
    use_case_named,
    use_case_names,
)
from quantgate.components.storage.yaml_file import composed, parse


def test_a_comparison_with_a_limit_is_exact_despite_float_error() -> None:
    assert [side(0.05 + delta, 0.05) for delta in (-1e-11, -1e-14, 0.0, 1e-14, 1e-11)] == [-1, 0, 0, 0, 1]


def test_a_large_gain_ships_and_a_total_loss_is_rejected() -> None:
    assert use_case_named("code").band_of(-3.0).verdict == "ship"
    assert use_case_named("code").band_of(1.0).verdict == "reject"


def test_each_use_case_requires_the_task_it_limits() -> None:
    assert {name: use_case_named(name).required() for name in use_case_names()} == {
        "code": ("humaneval",),
        "code-strict": ("humaneval",),
        "demo": ("arc_easy", "piqa"),
        "general-chat": (),
        "math-tutoring": ("gsm8k",),
        "math-tutoring-strict": ("gsm8k",),
        "summarization": ("mmlu",),
    }


def test_a_suite_with_the_required_task_passes_the_check() -> None:
    check_use_case(use_case_named("math-tutoring"), ["arc_easy", "gsm8k"])
    check_use_case(use_case_named("general-chat"), iter(["arc_easy"]))


def test_a_suite_without_the_required_task_is_refused_before_the_run() -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        check_use_case(use_case_named("math-tutoring"), iter(["arc_easy", "mmlu"]))
    assert str(refusal.value) == (
        "The use case math-tutoring limits gsm8k, which this suite does not score. It scores arc_easy,"
        " mmlu. Choose a suite with gsm8k (openllm), or a use case whose limits this suite covers: general-chat,"
        " summarization."
    )


def test_a_task_with_another_name_does_not_replace_the_required_one() -> None:
    with pytest.raises(PrerequisiteError, match="limits gsm8k"):
        check_use_case(use_case_named("math-tutoring"), ["tinyGSM8k"])


def test_describe_policy_lists_bands_and_limits() -> None:
    assert use_case_named("math-tutoring").describe_policy() == (
        "average drop: ship under 1 %, monitor from 1 % to under 3 %, A/B test from 3 % to 5 %, reject over 5 %;"
        " math-tutoring: gsm8k at most 3 %, else reject; drops are relative to the baseline's score"
    )
    assert "general-chat: average at most 5 %, else reject" in use_case_named("general-chat").describe_policy()


LIMITS = "a limit is a share from 0 to less than 1, as 2 % or 0.02"
KEYS = (
    "name, drop, confidence, promotes, suites, too_long, missing_tasks, bands, max_drop, max_average_drop, average,"
    " clusters, evidence, max_cluster_drop, max_divergence, max_perplexity_ratio, max_longer_answers, max_cut_answers,"
    " speed, published."
)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: mine\nmax_drops: {gsm8k: 0.02}\n", f"line 2: unknown key max_drops; the keys are {KEYS}"),
        ("max_average_drop: 5 %\n", "line 1: name is missing"),
        ("name: mine\n", "line 1: it sets no limit: give max_drop, max_average_drop, max_cluster_drop, m"),
        ("name: m\nmax_average_drop: 5 %\nclusters: some\n", "line 3: clusters: Input should be 'random' or 'fixed'"),
        ("name: mine\nmax_drop:\n  gsm8k: 2\n", f"line 3: max_drop.gsm8k: 2 is not allowed: {LIMITS}"),
        (
            "name: mine\nmax_drop:\n  mmlu: 1 %\n  gsm8k: 100 %\n",
            f"line 4: max_drop.gsm8k: 1.0 is not allowed: {LIMITS}",
        ),
        ("name: mine\nmax_drop: {gsm8k: -0.01}\n", f"line 2: max_drop.gsm8k: -0.01 is not allowed: {LIMITS}"),
        ("name: mine\nmax_drop: {gsm8k: .nan}\n", f"line 2: max_drop.gsm8k: nan is not allowed: {LIMITS}"),
        ("name: mine\nmax_drop: {gsm8k: true}\n", f"line 2: max_drop.gsm8k: True is not allowed: {LIMITS}"),
        ("name: mine\nmax_drop: {gsm8k: two}\n", "line 2: max_drop.gsm8k: 'two' is not a share: write it as 2 %"),
        (
            "name: mine\nmax_average_drop: 5 %\ndrop: absolut\n",
            "line 3: drop: Input should be 'relative' or 'absolute'",
        ),
        (
            "name: mine\nmax_average_drop: 5 %\nmissing_tasks: ignore\n",
            "line 3: missing_tasks: Input should be 'refuse' or 'skip'",
        ),
        (
            "name: mine\nmax_average_drop: 5 %\nevidence: margin\n",
            "line 3: evidence: Input should be 'answers' or 'margins'",
        ),
        (
            "name: mine\nmax_average_drop: 5 %\nconfidence: 0.4\n",
            "line 3: confidence: 0.4 is not allowed: a confidence is from 50 % to less than 100 %",
        ),
        (
            "name: mine\nmax_average_drop: 5 %\nbands:\n  ship: 1 %\n  monitor: 6 %\n  ab_test: 5 %\n",
            "line 3: bands: the bands must ascend: ship < monitor < ab_test",
        ),
        (
            "name: mine\nmax_average_drop: 5 %\nbands: {ship: 1 %, monitor: 3 %, abtest: 5 %}\n",
            "line 3: bands.ab_test is missing; line 3: unknown key bands.abtest; the keys are ship, monitor, ab_test",
        ),
        ("name: mine\nmax_perplexity_ratio: {wikitext: 0.9}\n", "a perplexity ratio is 1 or more, as 1.05"),
        (
            "name: mine\nmax_longer_answers: {gsm8k: 1000 %}\n",
            "a growth is a share from 0 to less than 10, as 20 % or 0.2",
        ),
        ("name: mine\nmax_cut_answers: {gsm8k: 1}\n", f"max_cut_answers.gsm8k: 1 is not allowed: {LIMITS}"),
        (
            "name: m\nspeed: {min_speedup: 0}\n",
            "line 2: speed.min_speedup: 0 is not allowed: a limit on speed is a mult",
        ),
        ("name: m\nspeed: {min_speed: 2}\n", "unknown key speed.min_speed; the keys are min_speedup, max_ttft_ratio"),
        ("name: m\nspeed: {}\n", "line 2: speed: it sets no limit: give min_speedup or max_ttft_ratio"),
        ("name: mine\nmax_divergence: {mmlu: -1}\n", "a divergence is a number of nats, 0 or more"),
        (
            "name: m\nmax_average_drop: 5 %\naverage: {weights: {mmlu: 0}}\n",
            "line 3: average.weights.mmlu: 0 is not allow",
        ),
        ("name: m\nmax_average_drop: 5 %\naverage: {weights: {mmlu: -1}}\n", "a weight is a positive number, as 2 or"),
        ("name: m\nmax_average_drop: 5 %\naverage: {weights: {mmlu: .inf}}\n", "mmlu: inf is not allowed: a weight is"),
        ("name: m\nmax_average_drop: 5 %\naverage: {mmlu: 2}\n", "unknown key average.mmlu; the keys are weights"),
        ("name: mine\nmax_divergence: {mmlu: 2}\n", "less than 2, the most of an item"),
        ("name: mine\nmax_average_drop: 5 %\nname: yours\n", "line 3: name is given twice"),
        ("name: mine\nmax_drop:\n  gsm8k: 1 %\n  gsm8k: 9 %\n", "line 4: gsm8k is given twice"),
        ("name: [mine\n", "line 2: this is not YAML: expected"),
        ("name: 2024-13-45\n", "this is not YAML: month must be in 1..12"),
        ("name: mine\nmax_drop: &x {gsm8k: *x}\n", "aliases (*name) are not allowed"),
        ("- name\n", "line 1: a list of keys is expected, of name"),
        ("", "line 1: a list of keys is expected, of name"),
    ],
)
def test_an_invalid_policy_is_refused_with_file_line_and_allowed_values(
    text: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PrerequisiteError) as refusal:
        read_use_case(path)
    assert str(refusal.value).startswith(str(path))
    assert complaint in str(refusal.value)
    assert str(refusal.value).endswith("Correct the file.")


BOMB = "name: mine\na0: &a0 {k: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 10)
)


@pytest.mark.fault(
    "inputs", "YAML of ten lines unfolds to 400 million values, by merge keys or aliases", "refused before it unfolds"
)
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (BOMB, ", line 3: merge keys (<<) are not allowed, write the values out."),
        ("name: mine\nmax_drop: {<<: {gsm8k: 1 %}}\n", ", line 2: merge keys (<<) are not allowed"),
        (BOMB.replace("<<: [", "x: ["), ", line 3: aliases (*name) are not allowed, write the values out."),
        (f"name: mine\nmax_drop: {{{'x: 1, ' * 40_000}}}", " has 240,023 characters, and at most 200,000 are read."),
    ],
)
def test_yaml_that_would_keep_the_parser_busy_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    for read in (partial(parse, UseCase, text), partial(composed, text)):
        with pytest.raises(PrerequisiteError) as refusal:
            read("mine.yaml")
        assert str(refusal.value).startswith(f"mine.yaml{complaint}")
    definition = tmp_path / "our_words.yaml"
    definition.write_text(text, encoding="utf-8")
    with pytest.raises(PrerequisiteError) as refusal:
        check_yaml(definition)
    assert str(refusal.value).startswith(f"{definition}{complaint}")


def test_a_policy_may_change_everything(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: ours\ndrop: absolute\nconfidence: 99 %\nmissing_tasks: skip\nmax_drop: {mmlu: 1.5 %}\n"
        "bands: {ship: 0.5 %, monitor: 0.01, ab_test: 2 %}\nmax_divergence: {mmlu: 0.05}\n"
        "max_perplexity_ratio: {wikitext: 1.05}\nmax_longer_answers: {gsm8k: 150 %}\nmax_cut_answers: {gsm8k: 0.5 %}\n",
        encoding="utf-8",
    )
    use_case = read_use_case(path)
    assert use_case.alpha == pytest.approx(0.01)
    assert (use_case.relative, use_case.required()) == (False, ())
    assert use_case.describe_policy() == (
        "average drop: ship under 0.5 points, monitor from 0.5 points to under 1 point, A/B test from 1 point to"
        " 2 points, reject over 2 points; ours: mmlu at most 1.5 points, divergence on mmlu at most 0.05 nats,"
        " perplexity on wikitext at most 1.05 times, answers on gsm8k at most 150 % longer, at most 0.5 % of answers"
        " cut on gsm8k, else reject; drops are in points of 100"
    )


def test_the_policy_line_shows_weights_clusters_and_the_limit_on_the_worst_cluster() -> None:
    text = "name: ours\nmax_cluster_drop: {mmlu: 30 %}\naverage: {weights: {mmlu: 2}}\nclusters: fixed\n"
    assert (
        parse(UseCase, text, "ours.yaml")
        .describe_policy()
        .endswith(
            "; ours: every cluster of mmlu at most 30 %, the average weighs mmlu 2, any other task 1, else reject;"
            " drops are relative to the baseline's score; clusters are the whole population"
        )
    )


def test_a_weight_of_a_task_that_the_suite_lacks_is_refused_before_the_run() -> None:
    text = "name: ours\nmax_average_drop: 5 %\naverage: {weights: {gsm: 2, mmlu: 1}}\n"
    weighted = parse(UseCase, text, "ours.yaml")
    with pytest.raises(PrerequisiteError) as refusal:
        check_use_case(weighted, ["gsm8k", "mmlu"])
    assert str(refusal.value) == (
        "The average of ours weights gsm, which this suite does not score. It scores gsm8k, mmlu. Correct the name in"
        " average.weights, or choose another suite."
    )
    check_use_case(weighted.model_copy(update={"missing_tasks": "skip"}), ["gsm8k", "mmlu"])


def test_every_shipped_policy_is_valid_and_named_after_its_file() -> None:
    own_edges = {"demo": (0.05, 0.1, 0.15), "code": (0.05, 0.08, 0.12)}
    for name in use_case_names():
        assert use_case_named(name).name == name
        assert use_case_named(name).edges == (own_edges.get(name, (0.01, 0.03, 0.05)))
        assert (use_case_named(name).confidence, use_case_named(name).missing_tasks) == (0.95, "refuse")


def test_a_missing_task_may_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmissing_tasks: skip\nmax_drop: {gsm8k: 2 %}\n", encoding="utf-8")
    check_use_case(read_use_case(path), ["arc_easy"])


def test_a_use_case_may_limit_several_tasks_and_the_average(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmax_drop: {gsm8k: 0.025, mmlu: 0}\nmax_average_drop: 0.01\n", encoding="utf-8")
    assert read_use_case(path).describe_limits() == "gsm8k at most 2.5 %, mmlu at most 0 %, average at most 1 %"


@pytest.mark.parametrize(
    ("verdict", "variant", "step"),
    [
        ("ship", "int8", "Serve the variant."),
        ("monitor", "int8", "Serve the variant and monitor its quality on live traffic."),
        (
            "ab_test",
            "int8",
            "A/B test the variant against the baseline on live traffic before it replaces the baseline.",
        ),
        ("reject", "int8", "Keep serving the baseline."),
    ],
)
def test_the_next_step_depends_on_verdict_and_variant(verdict: str, variant: str, step: str) -> None:
    assert next_step(verdict, variant) == step


def test_after_a_rejection_the_next_step_names_int8_and_every_smaller_group_size() -> None:
    groups = {int(name.removeprefix("int4-g")): name for name in VARIANTS if re.fullmatch(r"int4-g\d+", name)}
    coarsest, *finer = [groups[size] for size in sorted(groups, reverse=True)]
    assert finer
    assert next_step("reject", coarsest) == f"Try int8 or a smaller group size ({', '.join(finer)})."
    assert next_step("reject", finer[-1]) == "Try int8."


def test_the_bands_ascend_and_leave_no_drop_without_a_verdict() -> None:
    uppers = [band.upper for band in use_case_named("code").band_list()]
    assert uppers == sorted(uppers)
    assert uppers[-1] == math.inf


def test_a_drop_is_relative_to_the_baselines_score() -> None:
    assert Change("gsm8k", 0.5, 0.45).drop == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("share", "bounds", "shown"),
    [
        (0.0558, (0.02,), "5.6 %"),
        (0.02004, (0.02,), "2.004 %"),
        (0.01996, (0.02,), "1.996 %"),
        (0.0226, (0.0228,), "2.26 %"),
        (0.02, (0.02,), "2.0 %"),
        (0.0003, (), "0.03 %"),
        (0.0, (), "0.0 %"),
    ],
)
def test_a_percentage_has_enough_digits_to_show_its_side_of_a_bound(
    share: float, bounds: tuple[float, ...], shown: str
) -> None:
    assert percent(share, *bounds) == shown


def test_two_different_scores_are_never_printed_the_same() -> None:
    assert apart(0.412, 0.389) == "0.412 → 0.389"
    assert apart(0.65400, 0.65393) == "0.6540 → 0.6539"


@pytest.mark.fault(
    "verdicts",
    "A policy file with a limit of 98.5 % bears the name of a shipped use case",
    "it is refused when it is read, with its line",
)
def test_a_policy_with_a_shipped_name_and_other_limits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("max_average_drop: 98.5 %\nname: general-chat\n")
    with pytest.raises(PrerequisiteError, match="line 2: general-chat is the name of a shipped use case"):
        read_use_case(file)
    with pytest.raises(PrerequisiteError, match="Give this policy another name"):
        chosen("general-chat", file.read_text())
    for name in use_case_names():
        assert chosen("code", text_of(name)) == use_case_named(name), "a copy is the shipped one"
