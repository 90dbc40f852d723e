"""Plain files as data sets, and the hub: a small server of the hub's protocol, used by the real client."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import pytest

from quantgate.components.benchmarks.row_sources import Folder
from quantgate.components.benchmarks.splits import Split
from quantgate.components.errors import PrerequisiteError
from tests.support.benchmark_data import laid_out, lines_of, pages_of
from tests.support.seaweed import free_ports

COMMIT = "a" * 40
CARD = """---
configs:
- config_name: main
  data_files:
  - split: test
    path: main/test.jsonl
- config_name: other
  data_files:
  - split: test
    path: main/test.jsonl
dataset_info:
- config_name: main
  features:
  - name: question
    dtype: string
  - name: answer
    dtype:
      class_label:
        names:
          '0': 'no'
          '1': 'yes'
- config_name: other
  features:
  - name: question
    dtype: string
  - name: answer
    dtype: int64
---
"""
FILES = {
    "README.md": CARD.encode(),
    "main/test.jsonl": b'{"question": "1+1=2", "answer": 1}\n{"question": "1+1=3", "answer": 0}\n',
}
WIKITEXT = "EleutherAI/wikitext_document_level"
PAGES = {
    "README.md": b"---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files:\n  - split: test\n"
    b"    path: w/test.jsonl\n---\n",
    "w/test.jsonl": b'{"page": " = One = \\n Text . "}\n{"page": " = Two = \\n More text . "}\n',
}
CHATS = {
    "README.md": b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train_sft\n"
    b"    path: c/a.jsonl\n---\n",
    "c/a.jsonl": b"".join(b'{"messages": [{"role": "user", "content": "Hello %d"}]}\n' % n for n in range(3)),
}
DATA_SETS = {"org/chats": CHATS, "org/set": FILES, "org/gated": FILES, WIKITEXT: PAGES}
PROBE = """
import json, sys
from pathlib import Path
from quantgate.components.errors import PrerequisiteError
from quantgate.components.benchmarks.mirror import make
from quantgate.components.benchmarks.row_sources import Hub, Mirror, Split
hub = Hub(Path(sys.argv[1]) / "cache")
answers = {"description": hub.description}
for wanted in sys.argv[2:]:
    split = Split(*wanted.split(","))
    try:
        rows = hub.split(split)
        answers[wanted] = rows and [rows.dataset.to_list(), rows.of]
        if rows:
            place = str(Path(sys.argv[1]) / "mirror")
            make([split], hub, place, lambda *_: None)
            mirrored = Mirror(place, Path()).split(split)
            assert mirrored.dataset.features == rows.dataset.features
            assert (mirrored.sha256, mirrored.of) == (rows.sha256, rows.of)
    except PrerequisiteError as error:
        answers[wanted] = str(error)
print(json.dumps(answers))
"""


@dataclass
class Hub:
    """The server's address, and the requested paths."""

    url: str = ""
    requested: list[str] = field(default_factory=list)


def answer(path: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers: `org/set` is open, `org/gated` shows its card alone, `org/down` is in trouble."""
    name = "/".join(path.removeprefix("/api").split("/")[2:4])
    file = path.partition(f"/resolve/{COMMIT}/")[2]
    tree, _, below = path.partition(f"/tree/{COMMIT}")
    if name == "org/down":
        return 503, b"", {}
    if name not in DATA_SETS:
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
    if file and name == "org/gated":
        return 403, b"{}", {"X-Error-Code": "GatedRepo"}
    files = DATA_SETS[name]
    if file:
        tag = hashlib.sha1(files.get(file, b"")).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        return (200, files[file], headers) if file in files else (404, b"{}", {"X-Error-Code": "EntryNotFound"})
    if tree != path:
        files_below = {name: data for name, data in files.items() if name.startswith(below.strip("/"))}
        listing = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files_below.items()]
        return 200, json.dumps(listing).encode(), {}
    siblings = [{"rfilename": name} for name in files]
    info = {"_id": "1", "id": name, "private": False, "sha": COMMIT, "tags": [], "siblings": siblings}
    return 200, json.dumps({**info, "gated": name == "org/gated" and "auto"}).encode(), {}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub on loopback."""
    running = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            running.requested.append(path)
            status, body, headers = answer(path)
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


def read_in_process(folder: Path, wanted: list[str], *, probe: str = PROBE, **environment: str) -> dict[str, object]:
    """The splits as read in a separate process, because huggingface_hub reads its variables on import."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "PROXY" not in name.upper()
    }
    variables = {**variables, "HF_HOME": str(folder / "home"), "PYTHONWARNINGS": "ignore", **environment}
    command = [sys.executable, "-c", probe, str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    answers: dict[str, object] = json.loads(done.stdout)
    return answers


@pytest.mark.slow
def test_the_hub_gives_rows_at_one_commit_and_reports_absent_gated_and_unknown_data(hub: Hub, tmp_path: Path) -> None:
    wanted = ["org/set,main,test", "org/set,main,train", "org/set,,test", "org/set,mian,test"]
    wanted += ["org/gated,main,test", "org/none,,test", "org/down,,test", "a/b/c,,test"]
    answers = read_in_process(tmp_path, wanted, HF_ENDPOINT=hub.url)
    rows = [{"question": "1+1=2", "answer": 1}, {"question": "1+1=3", "answer": 0}]
    assert answers["description"] == f"hub {hub.url}"
    assert answers["org/set,main,test"] == [rows, COMMIT]
    assert answers["org/set,main,train"] is None
    assert answers["org/set,,test"] == "org/set has no default configuration. Name one of main, other."
    assert answers["org/set,mian,test"] == "org/set has no configuration 'mian'. Name one of main, other."
    assert str(answers["org/gated,main,test"]).startswith("The data set org/gated is gated. Accept its licence")
    assert str(answers["org/none,,test"]).startswith("The hub has no data set org/none, or it is private.")
    assert str(answers["org/down,,test"]).startswith(f"The hub {hub.url} is not reachable (Server error '503")
    assert str(answers["a/b/c,,test"]).startswith("a/b/c is not a valid data set name")
    assert hub.requested.count("/api/datasets/org/set") == 1, "the commit is requested once"
    assert all(COMMIT in path for path in hub.requested if path.startswith("/datasets/"))


RUN = """
import io, json, sys
sys.stdout = io.StringIO()  # a step prints its progress
from quantgate.components.benchmarks import selection
from quantgate.components.resolve.checks import check_questions
from quantgate.components.resolve.rows import stored_rows
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from pathlib import Path
store, results = sys.argv[1] + "/store", sys.argv[1]
plan = EvaluationPlan(variants=("bf16",), suite="perplexity", limit=2, store=store, results=results)
planned = check_questions(plan)
stored = stored_rows(planned, Step(None, "resolve", ""), Path("no tokenizer"))
source = selection.source_of(stored).split(selection.wanted_splits(selection.suite_of(stored))[0])
sys.stdout = sys.__stdout__
print(json.dumps({"data": [planned.data, stored.data], "of": source.of, "rows": len(source.dataset)}))
"""


@pytest.mark.slow
def test_a_run_stores_the_hubs_rows_and_downloads_them_once(hub: Hub, tmp_path: Path) -> None:
    first = read_in_process(tmp_path, [], probe=RUN, HF_ENDPOINT=hub.url)
    assert first == {"data": ["hub", f"{tmp_path}/store/rows"], "of": COMMIT, "rows": 2}
    before = len(hub.requested)
    assert before > 0
    assert read_in_process(tmp_path, [], probe=RUN, HF_ENDPOINT=hub.url) == first
    assert len(hub.requested) == before


@pytest.mark.slow
def test_an_unreachable_hub_is_reported_and_a_mirror_advised(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    message = str(read_in_process(tmp_path, ["org/set,main,test"], HF_ENDPOINT=url)["org/set,main,test"])
    assert message.startswith(f"The hub {url} is not reachable (")
    assert message.endswith("). Make a mirror where it is: quantgate mirror SUITE DIR, and run here with --data DIR")


@pytest.mark.slow
def test_with_the_offline_flag_no_request_reaches_the_hub(hub: Hub, tmp_path: Path) -> None:
    answers = read_in_process(tmp_path, ["org/set,main,test"], HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert "is not reachable (" in str(answers["org/set,main,test"])
    assert "HF_HUB_OFFLINE" in str(answers["org/set,main,test"])
    assert hub.requested == []


CALIBRATION = """
import json, sys
from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve.calibration_texts import check_calibration, source_of_texts
from quantgate.components.run.plan import EvaluationPlan
answers = {}
for name in sys.argv[2:]:
    plan = EvaluationPlan(variants=("int8",), calibration=name, data="hub", store=sys.argv[1], results=sys.argv[1])
    try:
        check_calibration(plan)
        source = source_of_texts(plan, plan.calibration)
        answers[name] = [source.name, source.note, len(source.rows), source.rows[-1].plain[:7]]
    except PrerequisiteError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_the_hub_gives_calibration_texts(hub: Hub, tmp_path: Path) -> None:
    wanted = ["hf:org/chats:train_sft", "hf:org/chats:test", "hf:org/set/main:test", "hf:org/none", ""]
    answers = read_in_process(tmp_path, wanted, probe=CALIBRATION, HF_ENDPOINT=hub.url)
    assert answers["hf:org/chats:train_sft"] == [f"org/chats:train_sft from commit {COMMIT[:12]}", "", 3, "Hello 2"]
    assert answers["hf:org/chats:test"] == "org/chats has no split test. Name one of train_sft."
    assert str(answers["hf:org/set/main:test"]).startswith("org/set/main:test, row 1: it has none of the columns")
    assert str(answers["hf:org/none"]).startswith("--calibration hf:org/none: The hub has no data set org/none")
    assert answers[""][:2] == ["boolq passages", "not HuggingFaceH4/ultrachat_200k: the hub does not give it"]  # type: ignore[index]


def plain(folder: Path, name: str, text: str) -> Folder:
    path = folder / "org/set/default" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return Folder(folder)


def rows_in(folder: Folder) -> list[dict[str, object]]:
    table = folder.split(Split("org/set", "", "test"))
    assert table is not None
    rows: list[dict[str, object]] = table.dataset.to_list()
    return rows


def test_a_split_is_a_file_and_default_means_no_configuration() -> None:
    assert Split("openai/gsm8k", "main", "test").file == "openai/gsm8k/main/test.parquet"
    assert Split("google/IFEval", "", "train").file == "google/IFEval/default/train.parquet"


def test_types_are_derived_from_all_rows_and_absent_keys_are_none(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "score": None, "arguments": [{}]},
        {"id": 2, "score": 1, "arguments": [{"words": 3}, {"text": "a"}], "late": "x\u2028y"},
        {"id": 3, "score": 0.5, "arguments": []},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    expected = [
        {"id": 1, "score": None, "arguments": [{"words": None, "text": None}], "late": None},
        {
            "id": 2,
            "score": 1.0,
            "arguments": [{"words": 3, "text": None}, {"words": None, "text": "a"}],
            "late": "x\u2028y",
        },
        {"id": 3, "score": 0.5, "arguments": [], "late": None},
    ]
    assert rows_in(plain(tmp_path / "lines", "test.jsonl", text)) == expected
    assert rows_in(plain(tmp_path / "list", "test.json", json.dumps(rows))) == expected
    target = tmp_path / "parquet/org/set/default/test.parquet"
    target.parent.mkdir(parents=True)
    datasets.Dataset.from_list(expected).to_parquet(target)
    assert rows_in(Folder(tmp_path / "parquet")) == expected


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("test.jsonl", '{"a": 1}\n{"a": \n', r"test\.jsonl, line 2: this is not JSON"),
        ("test.jsonl", "", "has no rows"),
        ("test.jsonl", "[1]\n", "not JSON objects"),
        ("test.json", '{"a": 1}', "not JSON objects"),
        ("test.json", "", r"test\.json: this is not JSON"),
        ("test.jsonl", '{"a": 1}\n{"a": "b"}\n', "its rows are not a table"),
        ("test.jsonl", '{"a": 99999999999999999999999}\n', "its rows are not a table"),
        ("test.parquet", "PAR1 but not really PAR1", "its rows are not a table"),
    ],
)
def test_a_file_that_is_not_a_table_is_named_with_the_reason(tmp_path: Path, name: str, text: str, what: str) -> None:
    with pytest.raises(PrerequisiteError, match=what):
        rows_in(plain(tmp_path, name, text))


def test_a_split_without_a_file_is_none_and_a_data_set_without_a_folder_is_an_error(tmp_path: Path) -> None:
    folder = plain(tmp_path, "test.jsonl", '{"a": 1}\n')
    assert folder.split(Split("org/set", "default", "train")) is None
    with pytest.raises(PrerequisiteError, match=rf"{tmp_path}/org/set/main is not a directory"):
        folder.split(Split("org/set", "main", "test"))


def test_a_split_with_two_files_is_refused(tmp_path: Path) -> None:
    plain(tmp_path, "test.json", '[{"a": 1}]')
    with pytest.raises(PrerequisiteError, match=r"twice, as test\.jsonl and test\.json"):
        rows_in(plain(tmp_path, "test.jsonl", '{"a": 1}\n'))


def test_the_rows_name_their_file_and_its_sha256(tmp_path: Path) -> None:
    rows = plain(tmp_path, "test.jsonl", '{"a": 1}\n').split(Split("org/set", "", "test"))
    assert rows is not None
    assert rows.sha256 == hashlib.sha256(b'{"a": 1}\n').hexdigest()
    assert rows.of == str(tmp_path / "org/set/default/test.jsonl")


@pytest.mark.slow
def test_the_shared_data_has_the_layout_of_the_published_splits(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Folder(laid_out(tmp_path_factory))

    def count(path: str, name: str, split: str) -> int:
        split_rows = folder.split(Split(path, name, split))
        return len(split_rows.dataset) if split_rows else -1

    mbpp = "google-research-datasets/mbpp"
    assert [count(mbpp, "full", split) for split in ("prompt", "test", "validation", "train")] == [10, 500, 90, 374]
    assert count("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test") == 62
    assert [count("openai/gsm8k", "main", split) for split in ("test", "train")] == [1319, 7473]
    assert count("openai/openai_humaneval", "", "test") == 164
    assert count("tinyBenchmarks/tinyGSM8k", "main", "train") == 7473
    assert count("tinyBenchmarks/tinyAI2_arc", "ARC-Challenge", "train") == -1
    subjects = sorted(path.name for path in (folder.path / "cais/mmlu").iterdir())
    assert len(subjects) == 57
    assert sum(count("cais/mmlu", subject, "test") for subject in subjects) == 14042
    assert {count("cais/mmlu", subject, "dev") for subject in subjects} == {5}


def test_pages_are_split_at_first_level_headings_and_lose_no_line() -> None:
    text = " \n = One = \n \n a \n = = Part = = \n b \n = Two = \n c \n"
    assert pages_of(text) == [" = One = \n \n a \n = = Part = = \n b ", " = Two = \n c \n"]


def test_a_tiny_mmlu_row_has_five_examples_of_its_subject_before_the_question(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    row = json.loads(lines_of(laid_out(tmp_path_factory) / "tinyBenchmarks/tinyMMLU/all/test.jsonl")[0])
    text = row["input_formatted"]
    head = "The following are multiple choice questions (with answers) about high school statistics.\n\n"
    assert text.startswith(head)
    *shots, question = text.removeprefix(head).split("\n\n")
    assert len(shots) == 5
    assert all(shot[-len("Answer: X") : -1] == "Answer: " for shot in shots)
    assert question.startswith("The number of days it takes to build a new house")
    assert question.endswith("\nA. 15.4%\nB. 17.8%\nC. 20.0%\nD. 82.1%\nAnswer:")
