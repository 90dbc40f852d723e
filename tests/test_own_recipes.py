"""Variants of the user's own: a recipe is read before anything starts and checked when written, a checkpoint compared.

One quantization serves both: the checkpoint that the recipe makes is given to another run.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.own_checkpoint import scheme_of, stored, with_checkpoints
from quantgate.components.models.recipe_file import (
    all_variants,
    check_recipe,
    method_of,
    own_rows,
    transforms,
    with_texts,
)
from quantgate.components.models.sources import resolve
from quantgate.components.quantize.check import check_compressed
from quantgate.components.quantize.step import quantize
from quantgate.components.quantize.written import Written
from quantgate.components.report.pages import write_report
from quantgate.components.report.story import command
from quantgate.components.resolve.cluster_places import check_locations
from quantgate.components.resolve.step import resolve as resolve_step
from quantgate.components.run.artifacts import Model, Weights
from quantgate.components.run.checkpoint import Checkpoint
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import open_store
from quantgate.components.track.mlflow_rows import run_row, variant_rows
from quantgate.components.tracking.facts import RunFiles
from quantgate.pipelines.options import pipeline_arguments, plan_of
from tests.support.calibrated import embedded_calibration
from tests.support.decided import FACTS, make_decision

if TYPE_CHECKING:
    import torch

    Change = Callable[[dict[str, torch.Tensor]], None]

pytestmark = pytest.mark.slow  # imports llm-compressor, and quantizes once
MIXED = """\
quant_stage:
  quant_modifiers:
    GPTQModifier:
      ignore: [lm_head]
      config_groups:
        attention:
          targets: ['re:.*self_attn.*']
          weights: {num_bits: 4, type: int, strategy: group, group_size: 32, symmetric: true}
        mlp:
          targets: ['re:.*(gate|up)_proj$']
          weights: {num_bits: 8, type: float, strategy: channel, symmetric: true}
          input_activations: {num_bits: 8, type: float, strategy: token, dynamic: true, symmetric: true}
"""
KINDS = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
LINEARS = [*(f"model.layers.{layer}.{kind}" for layer in range(2) for kind in KINDS), "lm_head"]
START = "quant_stage:\n  quant_modifiers:\n    "
ROUNDED = f"{START}QuantizationModifier: {{targets: Linear, scheme: W8A16, ignore: [lm_head]}}\n"


def plan_with(*recipes: str, seeds: int = 1, variants: tuple[str, ...] = ("int8",)) -> EvaluationPlan:
    return EvaluationPlan(variants=variants, variant_recipe=recipes, seeds=seeds, store="store", results="results")


@pytest.mark.fault(
    "inputs", "a recipe of the user's own is one that llm-compressor refuses", "refused with its line before the run"
)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{START}GPTModifier: {{}}\n", "line 3: llm-compressor refuses it: No modifier of type 'GPTModifier' found."),
        (
            f"{START}GPTQModifier:\n      schema: W4A16\n",
            "line 4: llm-compressor refuses GPTQModifier.schema: Extra inputs are not permitted.",
        ),
        (
            MIXED.replace("num_bits: 4", "num_bits: four"),
            "line 8: llm-compressor refuses GPTQModifier.config_groups.attention.weights.num_bits: Input should be a",
        ),
        (f"{MIXED}      scheme: W4A16\n", "line 1: llm-compressor refuses it: Please specify either `scheme` or"),
        (f"{START}AWQModifier: {{}}\n", "line 1: llm-compressor refuses Recipe: Value error, Recipe includes AWQMod"),
        (f"{START}SmoothQuantModifier: {{}}\n", "line 1: it quantizes nothing: add a GPTQModifier or a Quant"),
        (f"{START}GPTQModifier:\n", "line 3: GPTQModifier has no settings; for none write GPTQModifier: {}."),
        ("GPTQModifier:\n  scheme: W4A16\n", "line 1: llm-compressor does not read GPTQModifier: a stage's name ends"),
        (f"{ROUNDED}  more: {{}}\n", "line 4: llm-compressor does not read quant_stage.more: a group's name ends in"),
        (f"{START}GPTQModifier: [\n", "line 4: this is not YAML: expected the node content, but found"),
        (f"{ROUNDED}quant_stage: {{}}\n", "line 4: quant_stage is given twice."),
        ("W4A16\n", "line 1: a recipe of llm-compressor is expected, with stages of modifiers."),
    ],
)
def test_a_recipe_that_llm_compressor_would_refuse_or_not_read_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(PrerequisiteError) as refusal:
        with_texts([f"mine={file}"])
    assert str(refusal.value).startswith(f"{file}, {message}")
    with pytest.raises(PrerequisiteError) as refusal:
        all_variants(plan_with(f"mine={text}"))
    assert str(refusal.value).startswith(f"The recipe of mine, {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["recipe.yaml"], r"^--variant-recipe is 'recipe.yaml'\. Write it like --variant-recipe NAME=recipe\.yaml\.$"),
        (["mine=none.yaml"], r"^The recipe none\.yaml of mine cannot be read: .*No such file"),
        (["int8={}"], r"^The name int8 is a variant of quantgate's own\. Choose another for the recipe"),
        (["mine={}", "mine={}"], r"^The name mine is given twice\. Choose another for the recipe\."),
        (
            ["My_Own={}"],
            r"^A recipe's variant cannot be called 'My_Own'\. Give at most 20 lower-case letters and digits",
        ),
        (["mine.seed1={}"], r"cannot be called 'mine\.seed1'"),
        (["run-int8={}"], r"cannot be called 'run-int8'"),
        ([f"{'a' * 21}={{}}"], r"cannot be called 'a{21}'"),
    ],
)
def test_an_option_that_names_no_recipe_or_no_new_variant_is_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(ROUNDED)
    with pytest.raises(PrerequisiteError, match=message):
        with_texts([option.format(file) if option.endswith("{}") else option for option in options])


def test_the_text_of_a_recipe_travels_with_the_plan_and_its_variant_is_the_last(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(MIXED)
    plan = plan_of({"variants": "int8", "variant_recipe": [f"mine={file}"], "store": "s3://b/s", "results": "s3://b/r"})
    file.unlink()
    assert pipeline_arguments("pypi:m", plan, promote=False)["settings"]["variant_recipe"] == [f"mine={MIXED}"]
    assert all_variants(plan) == ("bf16", "int8", "mine")
    names = ("bf16", "int8", "int8.seed1", "mine", "mine.seed1")
    assert all_variants(plan.model_copy(update={"seeds": 2})) == names
    assert all_variants(plan.model_copy(update={"variants": names})) == names
    with pytest.raises(PrerequisiteError, match=r"^Unknown variant 'yours'\. Choose from: bf16, int8.*, mine\.$"):
        all_variants(plan.model_copy(update={"variants": ("yours",)}))


def test_a_recipe_that_reads_no_texts_has_no_seeds() -> None:
    assert all_variants(plan_with(f"rounded={ROUNDED}")) == ("bf16", "int8", "rounded")
    with pytest.raises(PrerequisiteError, match="^rounded has no seeds: its weights depend on no calibration texts"):
        all_variants(plan_with(f"rounded={ROUNDED}", seeds=2))
    with pytest.raises(PrerequisiteError, match="^rounded has no seeds"):
        all_variants(plan_with(f"rounded={ROUNDED}", variants=("rounded.seed3",)))


def test_a_recipes_method_is_named_and_a_transform_is_known() -> None:
    smooth = (
        f"{START}SmoothQuantModifier: {{}}\n    GPTQModifier: {{targets: Linear, scheme: W8A8, ignore: [lm_head]}}\n"
    )
    modifiers = [check_recipe(text, "it") for text in (MIXED, ROUNDED, smooth)]
    assert [method_of(one) for one in modifiers] == ["GPTQ", "RTN", "GPTQ after SmoothQuant"]
    assert [transforms(one) for one in modifiers] == [False, False, True]


def test_a_seed_draws_other_texts_in_an_order_of_its_own(tmp_path: Path) -> None:
    from quantgate.components.quantize.compress import samples_of

    file = tmp_path / "texts.jsonl"
    every = [{"text": f"text {number}"} for number in range(300)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in every), encoding="utf-8")
    first, *others = [samples_of(file, 20, seed) for seed in (0, 1, 2)]
    assert first == every[:20]
    assert samples_of(file, 20, 1) == others[0] != others[1]
    drawn = [{row["text"] for row in rows} for rows in (first, *others)]
    assert [len(texts) for texts in drawn] == [20, 20, 20]
    assert len(drawn[0].intersection(*drawn[1:])) < 5


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Weights]:
    """The model, and its weights by the recipe MIXED, which the step has made."""
    folder = tmp_path_factory.mktemp("own")
    model = resolve(f"file:{tiny_model}", open_store(str(folder / "store")), cache_dir())
    calibration = embedded_calibration(folder / "run", 4, 256)
    plan = plan_with(f"mine={MIXED}").model_copy(
        update={"store": str(folder / "store"), "results": str(folder / "run"), "calibration_set": calibration}
    )
    model.write(folder / "model.json")
    plan.write(folder / "plan.json")
    quantize("mine", str(folder / "model.json"), str(folder / "plan.json"), str(folder / "weights.json"))
    return model, Weights.read(folder / "weights.json")


def test_a_recipe_makes_a_variant_that_says_what_its_checkpoint_is(made: tuple[Model, Weights]) -> None:
    _, weights = made
    assert weights.failure == ""
    assert (weights.variant, weights.scheme, weights.algorithm) == ("mine", "W4A16 + W8A8 float", "GPTQ")
    words = "4 bits, groups of 32 on 8 of 15 linear layers; 8 bits (float), one scale a channel on 4"
    assert weights.layout == words
    assert weights.recipe_sha256 == hashlib.sha256(MIXED.encode()).hexdigest()
    assert all("self_attn" in name and 0.05 < error < 0.25 for name, error in weights.largest_errors.items())
    assert len(weights.largest_errors) == 5


def one_bit(tensors: "dict[str, torch.Tensor]") -> None:
    import torch

    tensors["model.layers.0.mlp.down_proj.weight"].view(torch.uint8)[7, 5] ^= 1


def without_scale(tensors: "dict[str, torch.Tensor]") -> None:
    del tensors["model.layers.1.mlp.up_proj.weight_scale"]


def negative(tensors: "dict[str, torch.Tensor]") -> None:
    tensors["model.layers.1.mlp.up_proj.weight_scale"][3, 0] *= -1


def other_layer(tensors: "dict[str, torch.Tensor]") -> None:
    for part in ("weight_packed", "weight_scale"):
        tensors[f"model.layers.0.self_attn.q_proj.{part}"] = tensors[f"model.layers.1.self_attn.q_proj.{part}"].clone()


def one_more(tensors: "dict[str, torch.Tensor]") -> None:
    tensors["lm_head.weight_scale"] = tensors["model.layers.1.mlp.up_proj.weight_scale"].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_bit, r"changed tensors that it should leave alone: model\.layers\.0\.mlp\.down_proj\.weight, in"),
        (without_scale, r"did not quantize model\.layers\.1\.mlp\.up_proj, in"),
        (negative, r"wrong layers: model\.layers\.1\.mlp\.up_proj \(a scale is not finite and positive\), in"),
        (other_layer, r"far from the model's: model\.layers\.0\.self_attn\.q_proj \(14\d%\), in"),
        (one_more, r"quantized what it should leave alone: lm_head, in"),
    ],
)
def test_a_checkpoint_that_is_not_what_its_configuration_says_is_refused(
    made: tuple[Model, Weights], tmp_path: Path, change: "Change", message: str
) -> None:
    from safetensors.torch import load_file, save_file

    model, weights = made
    folder = shutil.copytree(weights.uri, tmp_path / "checkpoint")
    written = Written.read(folder, LINEARS)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(PrerequisiteError, match=message):
        check_compressed(folder, Path(model.uri), written.layers, own=True)


def test_a_recipe_with_autoround_may_have_negative_scales(made: tuple[Model, Weights], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, weights = made
    folder = shutil.copytree(weights.uri, tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    negative(tensors)
    save_file(tensors, folder / "model.safetensors")
    layers = Written.read(folder, LINEARS, "AutoRound").layers
    assert len(check_compressed(folder, Path(model.uri), layers, own=True)) == len(layers)


def test_a_recipe_with_a_transform_may_change_what_it_does_not_quantize(
    made: tuple[Model, Weights], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model, weights = made
    folder = shutil.copytree(weights.uri, tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    one_bit(tensors)
    tensors["model.rotation"] = tensors["model.norm.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    layers = Written.read(folder, LINEARS).layers
    assert check_compressed(folder, Path(model.uri), layers, own=True, transform="any") == {}
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(PrerequisiteError, match=r"left out tensors: model\.norm\.weight, in"):
        check_compressed(folder, Path(model.uri), layers, own=True, transform="any")


def test_a_checkpoint_without_a_quantized_layer_is_refused(made: tuple[Model, Weights], tmp_path: Path) -> None:
    model, weights = made
    folder = shutil.copytree(weights.uri, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["ignore"] = ["re:.*"]
    (folder / "config.json").write_text(json.dumps(config))
    written = Written.read(folder, ["model.layers.0.mlp.up_proj"])
    assert written.layers == {}
    with pytest.raises(PrerequisiteError, match="quantized no layer: the recipe's targets match none"):
        check_compressed(folder, Path(model.uri), written.layers, own=True)


def test_report_and_mlflow_have_the_recipe_with_its_digest(tmp_path: Path) -> None:
    weights = Weights(variant="mine", baseline_digest="base", digest="d", scheme="W4A16", recipe_sha256="f3a1" * 16)
    decision = make_decision(tmp_path)
    mine = decision.verdicts[1].model_copy(update={"variant": "mine"})
    decision = decision.model_copy(
        update={
            "plan": plan_with(f"mine={MIXED}"),
            "verdicts": (decision.verdicts[0], mine),
            "weights": (decision.weights[0], weights),
        }
    )
    assert command(decision).endswith("--variants mine --variant-recipe mine=mine.yaml")
    page, markdown = (file.read_text() for file in write_report(decision, tmp_path))
    assert f"with this `mine.yaml`:\n\n```text\n{MIXED.strip()}" in markdown
    assert "<p>with this <code>mine.yaml</code>:</p>\n<pre>quant_stage:" in page
    assert f"sha256 {weights.recipe_sha256[:16]}" in page
    assert run_row(decision, FACTS, RunFiles()).texts["mine.yaml"] == MIXED
    row = variant_rows(decision, FACTS, RunFiles())[1]
    assert (row.params["recipe_sha256"], row.params["scheme"]) == (weights.recipe_sha256, "W4A16")


def test_the_recipes_of_a_plan_are_rows_with_their_text() -> None:
    row = own_rows([f"mine={MIXED}"])["mine"]
    assert (row.recipe, row.scheme, row.quantized, row.calibrated, row.default) == (MIXED, "", True, True, False)


@pytest.fixture
def given(made: tuple[Model, Weights], tmp_path: Path) -> Path:
    """A copy of the checkpoint to change, as somebody else's: its tokenizer's file is written in another form."""
    folder = shutil.copytree(made[1].uri, tmp_path / "given")
    (folder / "COMPLETE.json").unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def kept(given: Path, made: tuple[Model, Weights]) -> Checkpoint:
    cache = given.parent / "cache"
    return stored(f"file:{given}", Path(made[0].uri), open_store(str(given.parent / "store")), cache)


def test_a_checkpoint_is_stored_with_the_models_own_tokenizer(made: tuple[Model, Weights], given: Path) -> None:
    checkpoint = kept(given, made)
    assert (checkpoint.scheme, checkpoint.method) == ("W4A16 + W8A8 float", "compressed-tensors")
    assert checkpoint.digest == made[1].digest, "with that tokenizer it is what the recipe made"
    assert checkpoint.size_bytes == made[1].size_bytes
    assert (given / "tokenizer.json").read_bytes() != (Path(checkpoint.uri) / "tokenizer.json").read_bytes()
    assert list((given.parent / "cache").iterdir()) == []


def with_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def other_shape(folder: Path) -> None:
    with_config(folder, hidden_size=72, num_hidden_layers=3)


def other_ids(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def other_splits(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def unquantized(folder: Path) -> None:
    with_config(folder, quantization_config=None)


def other_method(folder: Path) -> None:
    with_config(folder, quantization_config={"quant_method": "bitsandbytes"})


@pytest.mark.fault(
    "inputs",
    "a quantized checkpoint given as a variant is another model's, has another tokenizer, or is not quantized",
    "refused before the run, with what differs",
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_shape,
            "not a quantized form of the run's model: hidden_size is 72, the model's 64; num_hidden_layers is",
        ),
        (other_ids, r"model: 2 tokens of the vocabulary have other ids, as 'A' is \d+, the model's \d+\. Give a check"),
        (
            other_splits,
            r"model: its tokenizer encodes the same text differently\. Give a checkpoint that was made from",
        ),
        (
            unquantized,
            "is no quantized checkpoint of compressed-tensors, awq, gptq: its config.json has no quantization",
        ),
        (
            other_method,
            "is no quantized checkpoint of compressed-tensors, awq, gptq: its quant_method is 'bitsandbytes'",
        ),
    ],
)
def test_a_checkpoint_that_is_not_a_quantized_form_of_the_model_is_refused(
    made: tuple[Model, Weights], given: Path, change: Callable[[Path], None], message: str
) -> None:
    change(given)
    with pytest.raises(PrerequisiteError, match=message):
        kept(given, made)
    assert not (given.parent / "store").exists()


@pytest.mark.parametrize(
    ("config", "scheme"),
    [({"quant_method": "gptq", "bits": 4}, "W4A16"), ({"quant_method": "awq", "bits": 8, "group_size": 64}, "W8A16")],
)
def test_a_checkpoint_of_another_method_says_its_bits(config: dict[str, object], scheme: str) -> None:
    assert scheme_of(config) == scheme


def test_a_checkpoint_is_a_variant_without_seeds_that_the_plan_names_by_its_source(given: Path) -> None:
    values = {"variants": "int8", "variant": [f"theirs=file:{given}", "hub=hf:org/name"], "store": "s", "results": "r"}
    plan = plan_of(values)
    assert plan.variant == (f"theirs=file:{given}", "hub=hf:org/name")
    assert plan_of(values | {"variant": [f"theirs={given}"]}).variant == plan.variant[:1]
    names = ("bf16", "int8", "int8.seed1", "theirs", "hub")
    assert all_variants(plan.model_copy(update={"seeds": 2})) == names
    assert all_variants(plan.model_copy(update={"variants": ("theirs.kv-fp8",)}))[1] == "theirs.kv-fp8"
    for changes, message in (
        ({"variants": ("theirs.seed1",)}, "^theirs has no seeds"),
        (
            {"variant": ("int8=hf:org/name",)},
            "^The name int8 is a variant of quantgate's own. Choose another for the ch",
        ),
        ({"variant": ("hub=org/name",)}, "^'org/name' is not a model: no such folder exists"),
        ({"variant": ("hub",)}, "^The checkpoint 'hub' names no variant. Write it like NAME=hf:org/name"),
        ({"variant": ("hub=file:/nowhere",)}, "^There is no folder /nowhere"),
    ):
        with pytest.raises(PrerequisiteError, match=message):
            all_variants(plan.model_copy(update=changes))
    on_cluster = plan.model_copy(update={"store": "s3://b/s", "results": "s3://b/r"})
    with pytest.raises(PrerequisiteError, match=f"^--variant is file:{given}, and the cluster cannot read"):
        check_locations("hf:org/base", on_cluster)
    check_locations("hf:org/base", on_cluster.model_copy(update={"variant": ("a=hf:org/name", "b=s3://b/c")}))


def test_the_weights_of_a_checkpoint_are_those_that_were_given(
    made: tuple[Model, Weights], given: Path, tmp_path: Path
) -> None:
    plan = plan_with().model_copy(update={"results": str(tmp_path / "run"), "store": str(tmp_path / "store")})
    plan = plan.model_copy(update={"variant": (f"theirs=file:{given}",)})
    plan = with_checkpoints(plan, Path(made[0].uri), open_store(plan.store), tmp_path / "cache")
    plan.write(tmp_path / "plan.json")
    made[0].write(tmp_path / "model.json")
    for name, cache in (("theirs", ""), ("theirs.kv-fp8", "fp8")):
        quantize(name, str(tmp_path / "model.json"), str(tmp_path / "plan.json"), str(tmp_path / "weights.json"))
        weights = Weights.read(tmp_path / "weights.json")
        assert (weights.variant, weights.kv_cache_dtype, weights.digest) == (name, cache, made[1].digest)
        assert (weights.source, weights.algorithm) == (f"file:{given}", "compressed-tensors")
    assert not list((tmp_path / "run").glob("logs/quantize-*")), "llm-compressor was not started"


def test_the_first_step_compares_a_checkpoint_and_writes_what_it_stored(
    tiny_model: Path, given: Path, tmp_path: Path
) -> None:
    plan = plan_with(f"mine={MIXED}").model_copy(
        update={
            "variant": (f"theirs=file:{given}",),
            "store": str(tmp_path / "store"),
            "results": str(tmp_path / "run"),
            "limit": 1,
            "check_power": False,
        }
    )
    names = resolve_step(f"file:{tiny_model}", plan, str(tmp_path / "model.json"), str(tmp_path / "plan.json"))
    assert names == ["bf16", "int8", "mine", "theirs"]
    resolved = EvaluationPlan.read(tmp_path / "plan.json")
    assert resolved.variant_recipe == (f"mine={MIXED}",)
    assert resolved.variant_kept["theirs"].uri.startswith(str(tmp_path / "store" / "models"))
    other_shape(given)
    with pytest.raises(PrerequisiteError, match="hidden_size is 72, the model's 64"):
        resolve_step(f"file:{tiny_model}", plan, str(tmp_path / "model.json"), str(tmp_path / "again.json"))
    assert not (tmp_path / "again.json").exists()
