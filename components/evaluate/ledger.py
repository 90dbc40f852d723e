"""The answer ledger: a model's answers in SQLite, so that no question is sent to a server twice.

An answer belongs to a *book* and has a *key* in it. There is a book for each model digest, engine version and settings
that can change an answer. The key is the hash of the prompt's token ids and of the kind of question. Each row has a
seal: a hash of its key and answer. A row with a wrong seal, or with an answer that no server gives, counts as missing:
the question is sent again and the row overwritten. Each answer is committed when it arrives, so a killed evaluation
loses only the requests in flight.

    answers(book, key) -> answer, seal        `pack` encodes the answer
"""

import hashlib
import json
import logging
import math
import os
import sqlite3
import struct
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from quantgate.components.errors import PrerequisiteError
from quantgate.components.servers.client import Text
from quantgate.components.servers.scoring_requests import Loglik, Question, Tokens
from quantgate.components.storage.cache import cache_dir

if TYPE_CHECKING:
    from quantgate.components.storage.store import Store

log = logging.getLogger(__name__)

Key = bytes
T = TypeVar("T")
KEYS_PER_QUERY = 500
BUSY_S = 60
SEAL_BYTES = 8
LOGLIK = struct.Struct("<d?")
LONGEST_BYTES = 1 << 24
"""The longest answer that is read."""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
FULL, READ_ONLY = "the disk is full", "it is read-only"
REASONS = {sqlite3.SQLITE_FULL: FULL, sqlite3.SQLITE_READONLY: READ_ONLY}
NEEDED_BYTES = 1 << 16
"""What SQLite needs beside a ledger before it writes an answer: 32 KiB of shared memory, and a page of the log."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS books (book INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS answers (
    book INTEGER NOT NULL, key BLOB NOT NULL, answer BLOB NOT NULL, seal BLOB NOT NULL, PRIMARY KEY (book, key)
) WITHOUT ROWID;
"""
OBJECTS = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
ROWS = f"SELECT key, CASE WHEN length(answer) <= {LONGEST_BYTES} THEN answer END, seal FROM answers WHERE book = ?"


class OtherTablesError(sqlite3.DatabaseError):
    """A database has other objects than a ledger, for example a view in place of a table."""


def question_keys(questions: Sequence[Question]) -> list[Key]:
    """A key for each log-likelihood question. A context that several questions in a row share is hashed once."""
    keys: list[Key] = []
    context: Tokens = ()
    context_hash = hashlib.sha256()
    for question in questions:
        if question.tokens[: question.start] != context:
            context = question.tokens[: question.start]
            context_hash = hashlib.sha256(b"loglikelihood" + packed(context) + b"|")
        digest = context_hash.copy()
        digest.update(packed(question.tokens[question.start :]))
        keys.append(digest.digest())
    return keys


def generation_key(tokens: Tokens, settings: dict[str, Any]) -> Key:
    """The key of a generation from these tokens with these settings."""
    settings_json = json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"text, its end and its tokens" + packed(tokens) + b"|" + settings_json).digest()


def pack_text(text: Text) -> bytes:
    """Encode a generated text for the ledger."""
    return json.dumps([text.text, text.cut, text.tokens, text.thinking, text.thinking_tokens]).encode()


def unpack_text(answer: bytes) -> Text:
    """Decode a text that `pack_text` encoded; raises ValueError for anything else."""
    try:
        text, cut, tokens, thinking, thinking_tokens = json.loads(answer)
        (text + thinking).encode()
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"This is not a saved text: {error}") from error
    counts = [count for count in (tokens, thinking_tokens) if count is not None]
    if type(cut) is not bool or any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("This is not a saved text: its fields have other types.")
    return Text(text, cut, tokens, thinking, thinking_tokens)


def packed(tokens: Tokens) -> bytes:
    """The number of token ids, then each id as a 32-bit number."""
    return len(tokens).to_bytes(4, "little") + array("I", tokens).tobytes()


class Ledger:
    """One book of the ledger in `file`, which is created when it is missing.

    A damaged file is renamed and a new one created. On a full or read-only disk one warning is logged, and later
    answers are not saved: the evaluation goes on without its ledger.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self.file = file
        self.identity = identity
        self.writable = True
        self.invalid = 0
        """The number of rows that were read and left out."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.open_intact()
        except (OSError, sqlite3.DatabaseError) as error:
            if code_of(error) in LOCKED:
                raise
            log.warning("No answers are saved: the ledger %s cannot be used, because %s.", file, reason(error, file))
            self.open(":memory:")

    def open_intact(self) -> None:
        """Open the file, or a new one after a damaged one is renamed."""
        try:
            self.open(self.file)
        except sqlite3.DatabaseError as error:
            if code_of(error) not in DAMAGED and not isinstance(error, OtherTablesError):
                raise
            aside = self.file.with_name(f"{self.file.name}.damaged-{time.time_ns()}")
            log.warning("The answer ledger %s cannot be read (%s); it is now %s.", self.file, error, aside)
            self.file.replace(aside)
            for companion in (f"{self.file}-wal", f"{self.file}-shm"):
                Path(companion).unlink(missing_ok=True)
            self.open(self.file)

    def open(self, place: Path | str) -> None:
        """Open the database and look up the book's number."""
        self.database = sqlite3.connect(place, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            check_tables(self.database)
            self.database.executescript(SCHEMA)
            self.database.text_factory = bytes  # a text that is not UTF-8 cannot be read otherwise
            self.database.execute("INSERT OR IGNORE INTO books (identity) VALUES (?)", (self.identity,))
            books = self.database.execute("SELECT book FROM books WHERE identity = ?", (self.identity,))
            (self.book,) = books.fetchone()
        except BaseException:
            self.database.close()
            raise

    def close(self) -> None:
        """Close the file, and log how many rows were left out."""
        if self.invalid:
            log.warning("%d saved answers in %s are not valid; they are left out.", self.invalid, self.file)
        self.database.close()

    def read(self, keys: Sequence[Key], decode: Callable[[bytes], T]) -> dict[Key, T]:
        """The saved answers of these keys, decoded; an answer for which `decode` raises ValueError is left out."""
        answers: dict[Key, T] = {}
        for key, answer in self.get(keys).items():
            try:
                answers[key] = decode(answer)
            except ValueError:
                self.invalid += 1
        return answers

    def intact(self, rows: Sequence[tuple[object, object, object]]) -> dict[Key, bytes]:
        """The answers of the rows with the right types and seals, by key."""
        answers = {
            key: answer
            for key, answer, seal in rows
            if isinstance(key, bytes) and isinstance(answer, bytes) and seal == seal_of(key, answer)
        }
        self.invalid += len(rows) - len(answers)
        return answers

    def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        """The saved answers of these keys, by key; missing and damaged ones are left out."""
        answers: dict[Key, bytes] = {}
        for first in range(0, len(keys), KEYS_PER_QUERY):
            batch = keys[first : first + KEYS_PER_QUERY]
            query = f"{ROWS} AND key IN ({','.join('?' * len(batch))})"
            try:
                rows = self.database.execute(query, (self.book, *batch)).fetchall()
            except sqlite3.DatabaseError as error:
                log.warning(
                    "Part of the answer ledger %s cannot be read (%s); the server is asked again.", self.file, error
                )
                continue
            answers |= self.intact(rows)
        return answers

    def put(self, answers: Iterable[tuple[Key, bytes]]) -> None:
        """Save the answers in one transaction."""
        if not self.writable:
            return
        rows = [(self.book, key, answer, seal_of(key, answer)) for key, answer in answers]
        try:
            self.database.execute("BEGIN IMMEDIATE")
            self.database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)
            self.database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self.writable = False
            why = reason(error, self.file)
            log.warning("New answers are not saved: %s cannot be written, because %s.", self.file, why)
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")

    def count(self) -> int:
        """How many answers the book contains."""
        (count,) = self.database.execute("SELECT count(*) FROM answers WHERE book = ?", (self.book,)).fetchone()
        return int(count)

    def export(self, file: Path) -> None:
        """Write this book, and no other, to a new ledger file."""
        file.unlink(missing_ok=True)
        with closing(Ledger(file, self.identity)) as copy:
            rows = self.database.execute("SELECT key, answer FROM answers WHERE book = ?", (self.book,))
            copy.put(rows)
            copy.database.execute("PRAGMA journal_mode=DELETE")  # one file, without a -wal beside it

    def merge(self, file: Path) -> int:
        """Add another ledger file's answers of the same book, without damaged ones; returns how many were new."""
        intact: dict[Key, bytes] = {}
        with closing(Ledger(file, self.identity)) as other:
            try:
                for row in other.database.execute(ROWS, (other.book,)):
                    intact |= other.intact([row])
            except sqlite3.DatabaseError as error:
                log.warning("Part of the answers in %s cannot be read (%s); the server is asked again.", file, error)
        new = intact.keys() - self.get(list(intact)).keys()
        self.put((key, intact[key]) for key in new)
        return len(new)


def ledger_file() -> Path:
    """The ledger's file on this machine: $QUANTGATE_LEDGER, or a file in the cache."""
    chosen = os.environ.get("QUANTGATE_LEDGER")
    return Path(chosen) if chosen else cache_dir() / "ledger.sqlite"


@contextmanager
def shared(file: Path, identity: str, store: "Store") -> Iterator[Ledger]:
    """The ledger in `file` with the store's answers merged in; new answers of the block go back to the store.

    The store has one file for each book. When two machines write it at the same time, the later file remains. No answer
    of this machine is lost then: the ledger in `file` has them all. When the store fails, the answers are not shared,
    and nothing else changes.
    """
    with closing(Ledger(file, identity)) as ledger:
        merge_from(store, ledger)
        before = ledger.count()
        try:
            yield ledger
        finally:
            if ledger.count() > before:
                merge_from(store, ledger)
                upload_to(store, ledger)


def merge_from(store: "Store", ledger: Ledger) -> None:
    """Add the store's answers of the ledger's book."""
    with tempfile.TemporaryDirectory() as scratch, log_failure("read from"):
        if store.get_file(name_in_store(ledger), Path(scratch) / "theirs.sqlite"):
            ledger.merge(Path(scratch) / "theirs.sqlite")


def upload_to(store: "Store", ledger: Ledger) -> None:
    """Replace the store's file of the ledger's book."""
    with tempfile.TemporaryDirectory() as scratch, log_failure("written to"):
        ledger.export(Path(scratch) / "ours.sqlite")
        store.put_file(Path(scratch) / "ours.sqlite", name_in_store(ledger))


def name_in_store(ledger: Ledger) -> str:
    """The name of the ledger's book in the store."""
    return f"ledger/{hashlib.sha256(ledger.identity.encode()).hexdigest()[:32]}.sqlite"


@contextmanager
def log_failure(action: str) -> Iterator[None]:
    """Log a failure of the store or the database as a warning, and go on."""
    try:
        yield
    except (PrerequisiteError, sqlite3.DatabaseError) as error:
        log.warning("No answers were %s the store: %s", action, error)


def seal_of(key: Key, answer: bytes) -> bytes:
    """A short hash of key and answer; it shows damage, and an answer that belongs to another key."""
    return hashlib.blake2b(key + answer, digest_size=SEAL_BYTES).digest()


def pack(answer: Loglik) -> bytes:
    """Encode a log-likelihood for the ledger."""
    return LOGLIK.pack(answer.loglik, answer.greedy)


def unpack(answer: bytes) -> Loglik:
    """Decode a log-likelihood that `pack` encoded; raises ValueError for anything else: it is finite and at most 0."""
    if len(answer) != LOGLIK.size:
        raise ValueError(f"A log-likelihood has {LOGLIK.size} bytes, and a saved answer {len(answer)}.")
    loglik, greedy = LOGLIK.unpack(answer)
    if not -math.inf < loglik <= 0 or answer[-1] > 1:
        raise ValueError(f"{loglik} is not a log-likelihood.")
    return Loglik(loglik, greedy)


def check_tables(database: sqlite3.Connection) -> None:
    """Raise OtherTablesError unless the database is empty or has the tables of SCHEMA and nothing else."""
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(SCHEMA)
        expected = {(kind, name, " ".join(sql.split())) for kind, name, sql in ours.execute(OBJECTS)}
    actual = {(kind, name, " ".join(str(sql).split())) for kind, name, sql in database.execute(OBJECTS)}
    if other := sorted(f"{kind} {name}" for kind, name, _ in actual - expected):
        raise OtherTablesError(f"it has {', '.join(other)} that is not a ledger's")


def code_of(error: Exception) -> int:
    """SQLite's primary code of an error; 0 where it has none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def reason(error: Exception, file: Path) -> str:
    """Why the ledger in `file` cannot be read or written.

    On a full or read-only disk SQLite often says no more than "disk I/O error" or "unable to open database file".
    """
    return REASONS.get(code_of(error)) or disk_fault(file) or f"of an error of the disk: {error}"


def disk_fault(file: Path) -> str:
    """Whether the file's disk is full or read-only; "" for neither."""
    disk = os.statvfs(next(folder for folder in file.absolute().parents if folder.exists()))
    if disk.f_flag & os.ST_RDONLY:
        return READ_ONLY
    return FULL if disk.f_bavail * disk.f_frsize < NEEDED_BYTES else ""
