"""The answer ledger: stored answers are read back, damaged ones are not, and a kill loses none."""

import logging
import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.ledger import (
    LONGEST_BYTES,
    Ledger,
    generation_key,
    pack,
    pack_text,
    question_keys,
    shared,
    unpack,
    unpack_text,
)
from quantgate.components.sandbox.containment import ROOT, find_bubblewrap
from quantgate.components.servers.client import Text
from quantgate.components.servers.scoring_requests import Loglik, Question
from quantgate.components.storage.location import open_store

QUESTIONS = [Question((1, 2, 3, token), 2) for token in range(1200)]
KEYS = question_keys(QUESTIONS)
ANSWERS = [pack(Loglik(-token / 7, token % 2 == 0)) for token in range(1200)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ledger.sqlite"


def filled(file: Path, identity: str = "a model") -> Ledger:
    ledger = Ledger(file, identity)
    ledger.put(zip(KEYS, ANSWERS, strict=True))
    return ledger


def test_answers_are_read_back_bit_for_bit(file: Path) -> None:
    with closing(filled(file)) as ledger:
        assert ledger.get(KEYS) == dict(zip(KEYS, ANSWERS, strict=True))
        assert ledger.count() == 1200
    assert unpack(pack(Loglik(-0.1, True))) == Loglik(-0.1, True)


def test_another_models_answers_are_not_used(file: Path) -> None:
    filled(file).close()
    with closing(Ledger(file, "the same model on another vLLM")) as other:
        assert other.get(KEYS) == {}
        other.put([(KEYS[0], b"other")])
    with closing(Ledger(file, "a model")) as ledger:
        assert ledger.get(KEYS[:1]) == {KEYS[0]: ANSWERS[0]}


def test_a_key_contains_the_end_of_the_context_and_the_request() -> None:
    tokens = (1, 2, 3, 4)
    keys = question_keys([Question(tokens, 1), Question(tokens, 2), Question((1, 2, 3), 1), Question((1, 2, 30), 1)])
    keys += [generation_key(tokens, {"stop": ["a"]}), generation_key(tokens, {"stop": ["b"]})]
    assert len(set(keys)) == 6
    assert question_keys([Question(tokens, 2)]) == [keys[1]]


@pytest.mark.parametrize("column", ["answer", "seal", "key"])
def test_a_damaged_row_is_requested_again_and_overwritten(file: Path, column: str) -> None:
    filled(file).close()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(f"UPDATE answers SET {column} = zeroblob(8) WHERE key = ?", (KEYS[5],))
    with closing(Ledger(file, "a model")) as ledger:
        assert ledger.get(KEYS).keys() == set(KEYS) - {KEYS[5]}
        ledger.put([(KEYS[5], ANSWERS[5])])
        assert ledger.get(KEYS) == dict(zip(KEYS, ANSWERS, strict=True))


def test_a_file_that_is_not_a_database_is_moved_aside(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database at all" * 500)
    with caplog.at_level(logging.WARNING), closing(filled(file)) as ledger:
        assert len(ledger.get(KEYS)) == 1200
    assert "cannot be read" in caplog.text
    assert len(list(file.parent.glob("ledger.sqlite.damaged-*"))) == 1


def test_damaged_pages_lose_answers_but_never_give_wrong_ones(file: Path) -> None:
    filled(file).close()
    data = bytearray(file.read_bytes())
    for start in range(3 * 4096, len(data), 5 * 4096):
        data[start + 100 : start + 1500] = os.urandom(1400)
    file.write_bytes(data)
    expected = dict(zip(KEYS, ANSWERS, strict=True))
    with closing(Ledger(file, "a model")) as ledger:
        answers = ledger.get(KEYS)
    assert len(answers) < 1200
    assert answers.items() <= expected.items()


@pytest.mark.slow
def test_stored_answers_survive_a_kill(file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from quantgate.components.evaluate.ledger import Ledger; "
        "from tests import "
        "test_ledger as t\nledger = Ledger(Path(sys.argv[1]), 'a model')\n"
        "for n, row in enumerate(zip(t.KEYS, t.ANSWERS)):\n    ledger.put([row]); print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout as output:
        for line in output:
            if int(line) == 300:
                process.send_signal(signal.SIGKILL)
                break
    process.wait()
    with closing(Ledger(file, "a model")) as ledger:
        answers = ledger.get(KEYS)
    assert answers.keys() >= set(KEYS[:301])
    assert answers.items() <= dict(zip(KEYS, ANSWERS, strict=True)).items()


def test_a_ledger_that_cannot_be_written_is_reported_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(filled(file)) as ledger, caplog.at_level(logging.WARNING):
        ledger.database.execute(f"PRAGMA max_page_count = {ledger.database.execute('PRAGMA page_count').fetchone()[0]}")
        for number in range(3):
            ledger.put([(bytes([number]) * 32, b"x" * 9000)])
        assert caplog.text.count("New answers are not saved") == 1
        assert "because the disk is full" in caplog.text
        assert len(ledger.get(KEYS)) == 1200


def test_answers_are_shared_through_the_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with shared(tmp_path / "mine.sqlite", "a model", store) as ledger:
        ledger.put(zip(KEYS[:700], ANSWERS[:700], strict=True))
    with shared(tmp_path / "yours.sqlite", "a model", store) as ledger:
        assert len(ledger.get(KEYS)) == 700
        ledger.put(zip(KEYS[700:], ANSWERS[700:], strict=True))
    with shared(tmp_path / "mine.sqlite", "a model", store) as ledger:
        assert ledger.get(KEYS) == dict(zip(KEYS, ANSWERS, strict=True))
    with shared(tmp_path / "theirs.sqlite", "b model", store) as ledger:
        assert ledger.count() == 0


def test_answers_before_a_failure_are_shared_too(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))

    def fail(ledger: Ledger) -> None:
        ledger.put(zip(KEYS, ANSWERS, strict=True))
        raise RuntimeError

    with pytest.raises(RuntimeError), shared(tmp_path / "mine.sqlite", "a model", store) as ledger:
        fail(ledger)
    with shared(tmp_path / "yours.sqlite", "a model", store) as ledger:
        assert ledger.count() == 1200


def test_a_failing_store_prevents_only_the_sharing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise PrerequisiteError("S3 does not answer.")

    store = open_store(str(tmp_path / "store"))
    monkeypatch.setattr(store, "get_file", refuse)
    monkeypatch.setattr(store, "put_file", refuse)
    with caplog.at_level(logging.WARNING), shared(tmp_path / "mine.sqlite", "a model", store) as ledger:
        ledger.put(zip(KEYS, ANSWERS, strict=True))
    assert caplog.text.count("S3 does not answer") == 3
    with closing(Ledger(tmp_path / "mine.sqlite", "a model")) as ledger:
        assert ledger.count() == 1200


def test_the_intact_answers_of_a_damaged_file_in_the_store_are_used(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with shared(tmp_path / "mine.sqlite", "a model", store) as ledger:
        ledger.put(zip(KEYS, ANSWERS, strict=True))
    (stored,) = (tmp_path / "store" / "ledger").iterdir()
    data = bytearray(stored.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    stored.write_bytes(data)
    expected = dict(zip(KEYS, ANSWERS, strict=True))
    with shared(tmp_path / "yours.sqlite", "a model", store) as ledger:
        answers = ledger.get(KEYS)
        assert len(answers) < 1200
        assert answers.items() <= expected.items()


@pytest.mark.fault(
    "numbers",
    "saved answers that no server gives: NaN, a positive log-likelihood, a text in its place, wrong types",
    "left out, counted in one line, asked again",
)
def test_saved_answers_that_no_server_gives_are_left_out_and_counted(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [pack(Loglik(value, True)) for value in (math.nan, math.inf, -math.inf, 0.1)]
    bad += [pack(Loglik(-1.0, True))[:-1] + b"\x07", b"", b'["A", false, 1, "", null]', pack(Loglik(-1.0, True)) * 2]
    with closing(filled(file)) as ledger:
        ledger.put(zip(KEYS, bad, strict=False))
    with closing(sqlite3.connect(file)) as database, database:
        for number, value in enumerate(("text", 7, 0.5, "-1.0"), len(bad)):
            database.execute("UPDATE answers SET answer = ? WHERE key = ?", (value, KEYS[number]))
        database.execute("UPDATE answers SET answer = CAST(x'ff' AS TEXT) WHERE key = ?", (KEYS[12],))
    with caplog.at_level(logging.WARNING), closing(Ledger(file, "a model")) as ledger:
        assert ledger.read(KEYS, unpack) == {
            key: unpack(answer) for key, answer in zip(KEYS[13:], ANSWERS[13:], strict=True)
        }
    assert caplog.messages == [f"13 saved answers in {file} are not valid; they are left out."]


@pytest.mark.parametrize(
    "answer",
    [
        b'["A", 0, 1, "", null]',
        b'["A", false, -1, "", null]',
        b'["A", false, true, "", null]',
        b'[1, false, 1, "", null]',
        b'["A", false, 1, null, null]',
        b'["A", false, 1, "", NaN]',
        b'["\\ud800", false, 1, "", null]',
        b'["A"]',
        b"7",
        b"[" * 100_000,
        b"\xff",
        pack(Loglik(-1.0, True)),
    ],
)
def test_a_saved_text_with_fields_of_another_kind_is_not_read(answer: bytes) -> None:
    text = Text("A", cut=True, tokens=3, thinking="so", thinking_tokens=None)
    assert unpack_text(pack_text(text)) == text
    with pytest.raises(ValueError, match="This is not a saved text"):
        unpack_text(answer)


@pytest.mark.fault(
    "numbers", "the shared ledger has a view or a trigger in place of its tables", "nothing is taken from it"
)
@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE answers RENAME TO other; CREATE VIEW answers AS SELECT * FROM other",
        "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END",
    ],
)
def test_a_ledger_with_a_view_or_a_trigger_is_moved_aside(
    file: Path, sql: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(file).close()
    with closing(sqlite3.connect(file)) as database:
        database.executescript(sql)
    with caplog.at_level(logging.WARNING), closing(Ledger(file, "a model")) as ledger:
        assert ledger.get(KEYS) == {}
    assert "that is not a ledger's" in caplog.text


@pytest.mark.fault(
    "machine", "the disk with the ledger cannot be written", "one line says so; the ledger keeps its name and answers"
)
def test_a_disk_that_cannot_be_written_leaves_the_ledger_as_it_is(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(file).close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with caplog.at_level(logging.WARNING), closing(Ledger(file, "a model")) as ledger:
            ledger.put([(KEYS[0], ANSWERS[1])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caplog.text.count("WARNING") == 1
    assert "cannot be used, because of an error of the disk" in caplog.text
    assert not list(file.parent.glob("*damaged*"))
    with closing(Ledger(file, "a model")) as ledger:
        assert ledger.get(KEYS) == dict(zip(KEYS, ANSWERS, strict=True))


@pytest.mark.fault("numbers", "a saved answer has more than 16 MiB", "it is not read into memory, and asked again")
def test_an_answer_that_is_too_long_is_left_out(file: Path) -> None:
    with closing(filled(file)) as ledger:
        ledger.put([(KEYS[0], bytes(LONGEST_BYTES)), (KEYS[1], bytes(LONGEST_BYTES + 1))])
        assert ledger.get(KEYS).keys() == set(KEYS) - {KEYS[1]}
        assert ledger.invalid == 1


OPEN = """import logging, shutil, sys
from pathlib import Path
from quantgate.components.evaluate.ledger import Ledger
logging.basicConfig(format="%(message)s")
file, disk = map(Path, sys.argv[1:])
ledger = Ledger(file if file.parent == disk else Path(shutil.copy(file, disk)), "a model")
ledger.put([(b"k" * 32, b"answer")])
ledger.close()
print(*[name.name for name in disk.glob("ledger.*") if not name.name.endswith(("-shm", "-wal"))])
"""


@pytest.mark.fault(
    "machine", "the disk with the ledger is full or read-only", "one line says which; the ledger keeps its name"
)
@pytest.mark.parametrize("why", ["the disk is full", "it is read-only"])
@pytest.mark.usefixtures("sandbox")
def test_a_full_and_a_read_only_disk_are_said_as_that(file: Path, why: str) -> None:
    with closing(Ledger(file, "a model")) as ledger:
        ledger.put([(KEYS[0], ANSWERS[0])])
    small = ["--size", "40960", "--tmpfs", "/mnt"]
    command = [find_bubblewrap(), "--ro-bind", "/", "/", "--dev", "/dev", *small, "--chdir", str(ROOT)]
    disk = "/mnt" if why == "the disk is full" else str(file.parent)
    command += ["--", sys.executable, "-c", OPEN, str(file), disk]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == "ledger.sqlite\n"
    assert ended.stderr.endswith(f"/ledger.sqlite cannot be used, because {why}.\n")


def test_a_ledger_that_is_read_only_is_called_so(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(filled(file)) as ledger, caplog.at_level(logging.WARNING):
        ledger.database.execute("PRAGMA query_only=1")
        ledger.put([(KEYS[0], ANSWERS[0])])
        assert len(ledger.get(KEYS)) == 1200
    assert "cannot be written, because it is read-only" in caplog.text
