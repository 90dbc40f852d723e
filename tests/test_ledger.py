"""The answer ledger: stored answers are read back, damaged ones are not, and a kill loses none."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from components.errors import PrerequisiteError
from components.evaluate.ledger import Ledger, generation_key, pack, question_keys, shared, unpack
from components.servers.scoring_requests import Loglik, Question
from components.storage.location import open_store

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


def test_stored_answers_survive_a_kill(file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from components.evaluate.ledger import Ledger; from tests import "
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
