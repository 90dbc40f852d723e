import copy
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from quantgate.components.benchmarks.irt import (
    ANCHORS,
    PUBLISHED_SHA256,
    SCENARIOS,
    Estimate,
    Floats,
    Parameters,
    ability,
    estimate,
    read_parameters,
)
from quantgate.components.errors import PrerequisiteError

N = 2000
SIZES = {"truthfulqa": 150, "gsm8k": 180, "winogrande": 160, "arc": 170, "hellaswag": 190, "mmlu": 240}


def chances(theta: Floats, a: Floats, b: Floats) -> Floats:
    """The probabilities of right answers under the item response model."""
    return np.asarray(1 / (1 + np.exp(b - theta @ a)))


def anchored(a: Floats, b: Floats, subjects: NDArray[np.intp], rng: np.random.Generator) -> Parameters:
    """Parameters whose anchors represent clusters of similar items, chosen as in the paper."""
    n = len(b)
    counts = np.bincount(subjects)
    balance = n / (len(counts) * counts[subjects])
    points = np.vstack((a, b)).T
    centres, _ = kmeans2(points, ANCHORS, minit="++", rng=rng)
    distances = ((points[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
    weights = np.array([balance[distances.argmin(axis=1) == cluster].sum() / n for cluster in range(ANCHORS)])
    return Parameters(a, b, distances.argmin(axis=0), weights, balance, 0.4)


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    """2000 items of three subjects of unequal size, in two dimensions."""
    rng = np.random.default_rng(2402)
    subjects = np.repeat([0, 1, 2], [1200, 600, 200])
    a = np.abs(rng.normal(0.8, 0.4, (2, N)))
    return anchored(a, rng.normal(0, 1.2, N) + 0.3 * subjects, subjects, rng)


def estimate_item_by_item(scores: Floats, of: Parameters) -> Estimate:
    """The paper's equations item by item; theta by Newton's method instead of BFGS."""
    seen = [int(item) for item in of.anchors]
    theta = np.zeros(len(of.discrimination))
    for _ in range(12):
        gradient, curvature = np.zeros(len(theta)), np.zeros((len(theta), len(theta)))
        for item, score in zip(seen, scores, strict=True):
            a = of.discrimination[:, item]
            p = 1 / (1 + np.exp(-(a @ theta - of.difficulty[item])))
            gradient += (score - p) * a
            curvature += p * (1 - p) * np.outer(a, a)
        theta = theta + np.linalg.solve(curvature, gradient)
    total = 0.0
    for item in range(len(of.difficulty)):
        p = 1 / (1 + np.exp(-(of.discrimination[:, item] @ theta - of.difficulty[item])))
        of_item = [score for anchor, score in zip(seen, scores, strict=True) if anchor == item]
        total += of.balance[item] * (of_item[0] if of_item else p)
    irt = sum(weight * score for weight, score in zip(of.anchor_weights, scores, strict=True))
    p_irt = total / len(of.difficulty)
    return Estimate(sum(scores) / 100, irt, p_irt, of.anchor_share * irt + (1 - of.anchor_share) * p_irt)


def close(actual: Estimate, expected: Estimate, tolerance: float = 1e-6) -> bool:
    """Whether all four estimates agree."""
    return bool(np.allclose(list(vars(actual).values()), list(vars(expected).values()), rtol=0, atol=tolerance))


@pytest.mark.parametrize("theta", [(-1.5, 0.0), (-0.5, -0.5), (0.0, 0.0), (0.4, 0.7), (1.5, 1.0)])
def test_the_estimates_are_the_papers_equations(theta: tuple[float, float], parameters: Parameters) -> None:
    rng = np.random.default_rng(1)
    p = chances(np.array(theta), parameters.discrimination, parameters.difficulty)[parameters.anchors]
    assert len(set(parameters.anchors.tolist())) == ANCHORS
    scores = (rng.random(ANCHORS) < p).astype(float)
    assert close(estimate(scores, parameters), estimate_item_by_item(scores, parameters))


def test_fractional_scores_are_used_unrounded(parameters: Parameters) -> None:
    rng = np.random.default_rng(2)
    scores = rng.random(ANCHORS)
    assert close(estimate(scores, parameters), estimate_item_by_item(scores, parameters))
    assert not close(estimate(scores, parameters), estimate(scores.round(), parameters), 0.001)


@pytest.mark.parametrize("theta", [(-1.5, 0.0), (-0.5, -0.5), (0.0, 0.0), (0.4, 0.7), (1.5, 1.0)])
def test_the_estimates_are_near_the_score_of_all_items(theta: tuple[float, float], parameters: Parameters) -> None:
    rng = np.random.default_rng(3)
    a, b, weight = parameters.discrimination, parameters.difficulty, parameters.balance / N
    p = chances(np.array(theta), a, b)
    models = rng.random((60, N)) < p
    estimates = [estimate(answers[parameters.anchors].astype(float), parameters) for answers in models]
    truth = models @ weight

    # How far estimates may be off, from the model itself. The truth varies with all items' answers; irt with those of
    # the anchors; p_irt with theta, whose covariance is the inverse of the anchors' information (the delta method).
    noise = p * (1 - p)
    seen = parameters.anchors
    information = (a[:, seen] * noise[seen]) @ a[:, seen].T
    slope = a @ (weight * noise)
    spread_truth = weight**2 @ noise
    spread = {
        "irt": np.sqrt(parameters.anchor_weights**2 @ noise[seen] + spread_truth),
        "p_irt": np.sqrt(slope @ np.linalg.solve(information, slope) + spread_truth),
    }
    assert max(spread.values()) < 0.07
    # A cluster's anchor is not its mean: irt has a bias that more models do not average away. p_irt's is that of a
    # maximum likelihood estimate from 100 answers, of the order of 1 / 100.
    for name, bias in (("irt", 0.02), ("p_irt", 0.01)):
        errors = np.array([getattr(of_model, name) for of_model in estimates]) - truth
        assert np.abs(errors).max() < 4.5 * spread[name] + bias
        assert abs(errors.mean()) < 4 * spread[name] / np.sqrt(len(errors)) + bias
    combined = np.array([of_model.gp_irt for of_model in estimates]) - truth
    assert np.sqrt((combined**2).mean()) < 1.3 * max(spread.values())


def test_the_estimates_are_right_where_the_plain_mean_is_biased(parameters: Parameters) -> None:
    # Anchors of clusters of unequal size: the easy half of them represents nine tenths of the items.
    easy = np.arange(N) < 1800
    a, b = np.ones((1, N)), np.where(easy, -1.5, 1.5)
    anchors = np.concatenate((np.arange(50), np.arange(1800, 1850)))
    uneven = Parameters(a, b, anchors, np.repeat([0.018, 0.002], 50), np.ones(N), 0.5)
    scores = np.concatenate((np.arange(50) < 41, np.arange(50) < 9)).astype(float)
    estimates = estimate(scores, uneven)
    # 41 of 50 and 9 of 50 are what theta = 0 predicts, rounded: 1 / (1 + exp(-1.5)) = 0.8176.
    assert estimates.mean == 0.5
    assert estimates.irt == pytest.approx(0.9 * 0.82 + 0.1 * 0.18)
    assert estimates.p_irt == pytest.approx(0.9 * 0.8176 + 0.1 * 0.1824, abs=0.001)
    assert estimates.gp_irt == pytest.approx((estimates.irt + estimates.p_irt) / 2)


def test_only_right_answers_are_estimated_near_1_and_only_wrong_ones_near_0(parameters: Parameters) -> None:
    right = estimate(np.ones(ANCHORS), parameters)
    wrong = estimate(np.zeros(ANCHORS), parameters)
    assert (right.mean, wrong.mean, wrong.irt) == (1, 0, 0)
    assert right.irt == pytest.approx(1)
    assert 0.99 < right.p_irt <= 1 + 1e-12
    assert 0 <= wrong.p_irt < 0.01
    one = np.zeros(ANCHORS)
    one[0] = 1
    assert 0 < estimate(one, parameters).p_irt < 0.1
    assert 0.9 < estimate(1 - one, parameters).p_irt < 1


def test_more_right_answers_never_lower_the_ability_in_one_dimension() -> None:
    rng = np.random.default_rng(4)
    one = Parameters(
        rng.uniform(0.5, 2, (1, 300)), rng.normal(0, 1, 300), np.arange(100), np.full(100, 0.01), np.ones(300), 0.5
    )
    abilities = [float(ability((np.arange(100) < right).astype(float), one)[0]) for right in range(1, 100)]
    assert abilities == sorted(abilities)


def test_a_repeated_anchor_counts_twice_as_seen_and_once_as_an_item() -> None:
    rng = np.random.default_rng(5)
    anchors = np.arange(100)
    anchors[7] = 3
    twice = Parameters(np.ones((1, 400)), rng.normal(0, 1, 400), anchors, np.full(100, 0.01), np.ones(400), 0.5)
    scores = (rng.random(100) < 0.5).astype(float)
    scores[7] = scores[3]
    theta = ability(scores, twice)
    unseen = np.setdiff1d(np.arange(400), anchors)
    assert len(unseen) == 301
    expected = 0.25 * scores.mean() + 0.75 * chances(theta, np.ones((1, 301)), twice.difficulty[unseen]).mean()
    assert estimate(scores, twice).p_irt == pytest.approx(expected)


def test_scores_that_are_not_100_are_refused(parameters: Parameters) -> None:
    for shape, size in (((99,), "99"), ((101,), "101"), ((100, 1), "100 x 1")):
        with pytest.raises(PrerequisiteError, match=rf"it got {size}\. Run the task without a limit"):
            estimate(np.zeros(shape), parameters)


@pytest.mark.parametrize("score", [-1e-9, 1 + 1e-9, np.nan, np.inf])
def test_a_score_outside_0_to_1_is_refused_with_its_row(score: float, parameters: Parameters) -> None:
    scores = np.ones(ANCHORS)
    scores[41] = score
    with pytest.raises(PrerequisiteError, match=r"The score of row 41 is .*, not from 0 to 1"):
        estimate(scores, parameters)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"difficulty": np.zeros(N - 1)}, r"difficulty has the shape \(1999,\), not \(2000,\)"),
        ({"difficulty": np.full(N, np.nan)}, "difficulty has values that are not finite"),
        ({"discrimination": np.zeros(N)}, "discrimination has 1 dimensions"),
        ({"anchors": np.arange(99)}, r"anchors has the shape \(99,\)"),
        ({"anchors": np.arange(1901, 2001)}, "the 100 anchors are not positions in a larger set of items"),
        ({"anchors": np.arange(-1, 99)}, "the 100 anchors are not positions in a larger set of items"),
        ({"anchor_weights": np.full(100, 0.0101)}, "must be 0 or more and sum to 1"),
        ({"anchor_weights": np.repeat([-0.01, 0.03], 50)}, "must be 0 or more and sum to 1"),
        ({"balance": np.full(N, 1.1)}, "must be 0 or more and 1 on average"),
        ({"anchor_share": 1.01}, "lambda is 1.01"),
        ({"anchor_share": -0.01}, "lambda is -0.01"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(
    change: dict[str, Any], complaint: str, parameters: Parameters
) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(parameters, **change)


def published(dimensions: int = 3) -> dict[str, Any]:
    """Synthetic parameters in the published file's layout."""
    rng = np.random.default_rng(6)
    return {name: section(name, dimensions, rng) for name in ("lb", "mmlu")}


def section(name: str, dimensions: int, rng: np.random.Generator) -> dict[str, Any]:
    """One benchmark: the items of its scenarios follow one another."""
    sizes = SIZES if name == "lb" else {"mmlu": SIZES["mmlu"]}
    n = sum(sizes.values())
    ends = np.cumsum(list(sizes.values())).tolist()
    items = {scenario: list(range(end - sizes[scenario], end)) for scenario, end in zip(sizes, ends, strict=True)}
    subjects = {scenario: {scenario: items[scenario]} for scenario in sizes}
    subjects["mmlu"] = {"algebra": items["mmlu"][:40], "law": items["mmlu"][40:]}
    weights = {scenario: rng.dirichlet(np.ones(ANCHORS)) for scenario in sizes}
    return {
        # A list of numpy's integers, not an array, as in the published file.
        "seen_examples": [item for scenario in sizes for item in rng.choice(items[scenario], ANCHORS, replace=False)],
        "examples_weights": weights,
        "irt_parameters": {"A": rng.normal(0.5, 0.5, (1, dimensions, n)), "B": rng.normal(0, 1, (1, 1, n))},
        "scenarios_position": items,
        "subscenarios_position": subjects,
        "optimal_lambdas": {
            scenario: rng.random() if scenario == "arc" else np.float64(rng.random()) for scenario in sizes
        },
    }


def written(content: object, path: Path, protocol: int = 4) -> tuple[Path, str]:
    """The content as a pickle, and its digest."""
    path.write_bytes(pickle.dumps(content, protocol))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_with_the_published_layout_gives_its_parameters(protocol: int, tmp_path: Path) -> None:
    content = published()
    read = read_parameters(*written(content, tmp_path / "tinyBenchmarks.pkl", protocol))
    assert list(read) == ["tinyArc", "tinyGSM8k", "tinyHellaswag", "tinyMMLU", "tinyTruthfulQA", "tinyWinogrande"]
    rng = np.random.default_rng(7)
    for task, (benchmark, scenario) in SCENARIOS.items():
        part = content[benchmark]
        items = part["scenarios_position"][scenario]
        place = list(part["scenarios_position"]).index(scenario)
        seen = part["seen_examples"][100 * place : 100 * place + 100]
        weights = np.ones(len(items))
        if scenario == "mmlu":
            weights = np.concatenate((np.full(40, 240 / (2 * 40)), np.full(200, 240 / (2 * 200))))
        expected = Parameters(
            discrimination=part["irt_parameters"]["A"][0][:, items],
            difficulty=3 * part["irt_parameters"]["B"][0, 0, items],
            anchors=np.array([items.index(item) for item in seen]),
            anchor_weights=part["examples_weights"][scenario],
            balance=weights,
            anchor_share=float(part["optimal_lambdas"][scenario]),
        )
        scores = rng.random(ANCHORS)
        assert estimate(scores, read[task]) == estimate(scores, expected)
        assert all(type(getattr(read[task], name)) is np.ndarray for name in ("discrimination", "difficulty"))


def test_a_difficulty_for_each_dimension_is_summed(tmp_path: Path) -> None:
    content = published(2)
    content["lb"]["irt_parameters"]["B"] = np.concatenate([content["lb"]["irt_parameters"]["B"]] * 2, axis=1)
    first = read_parameters(*written(content, tmp_path / "two.pkl"))
    second = read_parameters(*written(published(2), tmp_path / "one.pkl"))
    np.testing.assert_array_equal(first["tinyArc"].difficulty, second["tinyArc"].difficulty)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path, digest = written(published(), tmp_path / "tinyBenchmarks.pkl")
    changed = bytearray(path.read_bytes())
    changed[-100] ^= 1
    path.write_bytes(changed)
    changed_digest = hashlib.sha256(changed).hexdigest()
    with pytest.raises(PrerequisiteError, match=rf"tinyBenchmarks.pkl has the sha256 {changed_digest}, not {digest}"):
        read_parameters(path, digest)
    with pytest.raises(PrerequisiteError, match=f"not {PUBLISHED_SHA256}: it is not the tinyBenchmarks.pkl"):
        read_parameters(path)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"tinyBenchmarks.pkl cannot be read: .*fetch the file"):
        read_parameters(tmp_path / "tinyBenchmarks.pkl")


def test_a_file_that_would_execute_something_is_refused_even_with_its_digest(tmp_path: Path) -> None:
    path, digest = written({"lb": eval}, tmp_path / "tinyBenchmarks.pkl")
    with pytest.raises(PrerequisiteError, match=r"tinyBenchmarks.pkl was not loaded. It needs builtins.eval"):
        read_parameters(path, digest)


@pytest.mark.parametrize(
    ("keys", "value", "complaint"),
    [
        (["irt_parameters"], None, "expected a dict, not NoneType"),
        (["irt_parameters", "A"], [[1.0]], "expected numbers, not list"),
        (["irt_parameters", "A"], np.zeros((3, 1090)), r"A and B have the shapes \(3, 1090\) and \(1, 1, 1090\)"),
        (["irt_parameters", "A"], np.zeros((1, 3, 1089)), r"A and B have the shapes \(1, 3, 1089\)"),
        (["irt_parameters", "B"], np.zeros((1, 2, 1090)), r"and \(1, 2, 1090\)"),
        (["irt_parameters", "B"], np.full((1, 1, 1090), np.inf), "difficulty has values that are not finite"),
        (["seen_examples"], list(range(599)), "there are 599 seen_examples, not 100 for each of 6 scenarios"),
        (["seen_examples"], list(range(600)), "the seen example 300 does not belong to arc"),
        (["seen_examples"], [0.5] * 600, "expected a list of whole numbers"),
        (["seen_examples"], [2**70] * 600, "too large"),
        (["examples_weights", "arc"], np.full(99, 1 / 99), r"anchor_weights has the shape \(99,\)"),
        (["optimal_lambdas", "arc"], 1.5, "lambda is 1.5"),
        (["optimal_lambdas", "arc"], "0.5", "expected numbers, not str"),
        (["scenarios_position", "arc"], [], "positions are not whole numbers from 0"),
        (["scenarios_position", "arc"], [*range(490, 660), 490], "contains an item twice"),
        (["subscenarios_position", "arc"], {}, "no subscenario"),
        (["subscenarios_position", "arc"], {"arc": list(range(490, 659))}, "each item of the scenario exactly once"),
    ],
)
def test_another_layout_is_refused_with_the_task_and_the_reason(
    keys: list[str], value: object, complaint: str, tmp_path: Path
) -> None:
    content = copy.deepcopy(published())
    part = content["lb"]
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    with pytest.raises(
        PrerequisiteError, match=rf"tinyArc's parameters \(lb, arc\) are not as published: .*{complaint}"
    ):
        read_parameters(*written(content, tmp_path / "tinyBenchmarks.pkl"))


@pytest.mark.parametrize("keys", [["lb"], ["lb", "optimal_lambdas"], ["lb", "irt_parameters", "B"]])
def test_a_missing_part_is_named(keys: list[str], tmp_path: Path) -> None:
    content = published()
    part = content
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    with pytest.raises(PrerequisiteError, match=rf"{keys[-1]}.* is missing\. Fetch the file again"):
        read_parameters(*written(content, tmp_path / "tinyBenchmarks.pkl"))
