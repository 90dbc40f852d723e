"""The width rule."""

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.layers import LayerGroup, Layout, describe_layout, group_layers, groups_for, one_group
from quantgate.components.models.variants import VARIANTS

SMOLLM2 = {
    f"model.layers.{layer}.{kind}": 1536 if kind == "mlp.down_proj" else 576
    for layer in range(30)
    for kind in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
}


def test_a_width_that_fits_everywhere_gives_one_group() -> None:
    groups = group_layers(SMOLLM2, 64)
    assert [(group.group_size, group.layers) for group in groups] == [(64, 210)]
    assert describe_layout(groups, SMOLLM2, 64) == "g64 on all 210 layers"


def test_layers_whose_width_does_not_fit_get_the_largest_smaller_group() -> None:
    groups = group_layers(SMOLLM2, 128)
    assert groups == [
        LayerGroup(128, ("down_proj",), 30),
        LayerGroup(64, ("gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"), 180),
    ]
    assert (
        describe_layout(groups, SMOLLM2, 128)
        == "g128 on 30 of 210 layers, g64 on 180: width 576 is not a multiple of 128"
    )


def test_targets_name_whole_last_parts_only() -> None:
    assert LayerGroup(128, ("down_proj",), 30).targets == [r"re:.*\.down_proj$"]


def test_layers_of_one_kind_share_the_size_that_fits_all_of_them() -> None:
    groups = group_layers({"a.up_proj": 256, "b.up_proj": 320, "a.down_proj": 256}, 128)
    assert [(group.group_size, group.kinds) for group in groups] == [(128, ("down_proj",)), (64, ("up_proj",))]


def test_a_group_of_32_is_the_smallest() -> None:
    assert group_layers({"a.up_proj": 96}, 128)[0].group_size == 32


def test_a_width_that_no_group_fits_is_refused_with_what_to_do() -> None:
    with pytest.raises(PrerequisiteError, match=r"up_proj.*\(100\).*Use int8"):
        group_layers({"a.up_proj": 100}, 128)


def test_a_format_with_one_group_size_is_refused_where_it_does_not_fit() -> None:
    widths = {"a.up_proj": 576, "a.down_proj": 1536}
    assert one_group(widths, VARIANTS["mxfp4"]) == LayerGroup(32, ("down_proj", "up_proj"), 2)
    assert one_group(widths, VARIANTS["fp8-dynamic"]).group_size is None
    with pytest.raises(PrerequisiteError, match=r"^int4-afp8-g128 has groups of 128 weights, which do not fit 1 of 2"):
        groups_for(widths, VARIANTS["int4-afp8-g128"])
    assert [group.group_size for group in groups_for(widths, VARIANTS["int4-g128"])] == [128, 64]
    with pytest.raises(PrerequisiteError) as refusal:
        one_group(widths, VARIANTS["fp8-block"])
    assert str(refusal.value) == (
        "fp8-block has groups of 128 weights, which do not fit 1 of 2 layers, as a.up_proj with its input width of 576."
        " Use int8 or fp8-dynamic, which need no groups."
    )


def test_a_block_at_the_edge_of_a_matrix_has_a_scale_too() -> None:
    assert Layout(8, None, packed=False, number="float", block_size=128).scales_of(200, 256) == (2, 2)
    assert Layout(4, 16, number="float").scales_of(200, 256) == (200, 16)
    assert Layout(8, None, packed=False).scales_of(200, 256) == (200, 1)
