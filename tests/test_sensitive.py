"""Which layers of a mixed variant get 8 bits."""

import re

import pytest

from quantgate.components.quantize.sensitive import Together, most_sensitive, names_in, together

WIDTHS = {
    **{f"model.layers.{layer}.self_attn.{kind}_proj": 64 for layer in (1, 11) for kind in "qkvo"},
    **{f"model.layers.{layer}.mlp.{kind}_proj": 64 for layer in (1, 11) for kind in ("gate", "up")},
    **{f"model.layers.{layer}.mlp.down_proj": 128 for layer in (1, 11)},
    **{f"model.layers.2.mlp.experts.{expert}.{kind}_proj": 64 for expert in (0, 10) for kind in ("gate", "up")},
    **{f"model.layers.2.mlp.experts.{expert}.down_proj": 32 for expert in (0, 10)},
}
WEIGHTS = dict.fromkeys(WIDTHS, 100)


def test_layers_that_a_server_fuses_are_together() -> None:
    groups: dict[str, list[list[str]]] = {group.parent: [] for group in together(WIDTHS)}
    for group in together(WIDTHS):
        groups[group.parent].append(sorted(name.rsplit(".", 1)[-1] for name in group.layers))
    assert groups["model.layers.1.self_attn"] == [["k_proj", "o_proj", "q_proj", "v_proj"]]
    assert groups["model.layers.1.mlp"] == [["gate_proj", "up_proj"], ["down_proj"]]
    (experts,) = groups["model.layers.2.mlp.experts"]
    assert len(experts) == 6, "all experts of a decoder layer have one format"
    assert sorted(names_in(together(WIDTHS))) == sorted(WIDTHS)


def test_a_groups_target_means_its_layers_alone_whatever_is_before_the_decoder() -> None:
    for group in together(WIDTHS):
        pattern = re.compile(group.target.removeprefix("re:"))
        assert {name for name in WIDTHS if pattern.match(name)} == set(group.layers)
        assert {name for name in WIDTHS if pattern.match(f"language_model.{name}")} == set(group.layers)
    odd = Together("head.dense", ("head.dense.out",))
    assert re.match(odd.target.removeprefix("re:"), "head.dense.out")


@pytest.mark.parametrize(("share", "layers"), [(0.01, 4), (0.19, 4), (0.2, 4), (0.3, 6), (1.0, 20)])
def test_the_groups_that_change_most_get_eight_bits_up_to_a_share_of_the_weights(share: float, layers: int) -> None:
    """Attention of layer 11 has the largest error, then gate and up of layer 1; there are 20 layers of one size."""
    errors = dict.fromkeys(WIDTHS, 0.1)
    errors |= {name: 0.3 for name in WIDTHS if "11.self_attn" in name}
    errors |= {name: 0.2 for name in WIDTHS if "1.mlp.gate" in name or "1.mlp.up" in name if "11" not in name}
    chosen = names_in(most_sensitive(together(WIDTHS), errors, WEIGHTS, share))
    assert len(chosen) == layers
    assert {name for name in WIDTHS if errors[name] == 0.3} <= chosen


def test_the_error_of_a_group_counts_each_layer_by_its_weights() -> None:
    groups = [Together("a", ("a.x", "a.y")), Together("b", ("b.x",))]
    errors, weights = {"a.x": 0.4, "a.y": 0.1, "b.x": 0.2}, {"a.x": 1, "a.y": 99, "b.x": 100}
    assert most_sensitive(groups, errors, weights, 0.5) == {groups[1]}
    assert most_sensitive(groups, errors, weights | {"a.x": 99, "a.y": 1}, 0.5) == {groups[0]}
