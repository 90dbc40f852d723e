"""The answer ledger: what a model answered once, kept in SQLite and never asked again.

An answer belongs to a *book*, one for each model digest, engine version and settings that can change an answer, and
there to a key: the hash of the prompt's token ids and of what was asked about them. Each row carries a seal over its
key and its answer; a row whose seal does not fit is as good as none, so that it is asked anew and written over.
Rows are committed as they come: a killed evaluation loses none but what was on its way.

    answers(book, key) -> answer, seal        the answer is what `pack` made of it
"""

import hashlib
import json
import logging
import os
import sqlite3
import struct
import tempfile
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import PrerequisiteError
from components.servers.client import Text
from components.servers.scoring_requests import Loglik, Question, Tokens
from components.storage.cache import cache_dir

if TYPE_CHECKING:
    from components.storage.store import Store

log = logging.getLogger(__name__)

Key = bytes
KEYS_PER_QUERY = 500
BUSY_S = 60
SEAL_BYTES = 8
LOGLIK = struct.Struct("<d?")

SCHEMA = """
CREATE TABLE IF NOT EXISTS books (book INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS answers (
    book INTEGER NOT NULL, key BLOB NOT NULL, answer BLOB NOT NULL, seal BLOB NOT NULL, PRIMARY KEY (book, key)
) WITHOUT ROWID;
"""


def question_keys(questions: Sequence[Question]) -> list[Key]:
    """A key for each log-likelihood question. Neighbours that share a context share the work of hashing it."""
    keys: list[Key] = []
    context: Tokens = ()
    begun = hashlib.sha256()
    for each in questions:
        if each.tokens[: each.start] != context:
            context = each.tokens[: each.start]
            begun = hashlib.sha256(b"loglikelihood" + packed(context) + b"|")
        digest = begun.copy()
        digest.update(packed(each.tokens[each.start :]))
        keys.append(digest.digest())
    return keys


def generation_key(tokens: Tokens, settings: dict[str, Any]) -> Key:
    """The key of a generation from these tokens with these settings."""
    told = json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"text and its end" + packed(tokens) + b"|" + told).digest()


def pack_text(text: Text) -> bytes:
    """A generated text for the ledger."""
    return json.dumps([text.text, text.cut]).encode()


def unpack_text(answer: bytes) -> Text:
    """The text that `pack_text` packed."""
    text, cut = json.loads(answer)
    return Text(text, cut)


def packed(tokens: Tokens) -> bytes:
    """Token ids as 32-bit numbers after their count."""
    return len(tokens).to_bytes(4, "little") + array("I", tokens).tobytes()


class Ledger:
    """One book of the ledger in `file`, which is made when it is missing.

    A file that is no database any more is put aside under another name, and a new one begun. When a write fails (a full
    disk), that is logged once and the answers go unkept: an evaluation does not end for its ledger's sake.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self.file = file
        self.identity = identity
        self.writable = True
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise
            aside = file.with_name(f"{file.name}.damaged-{time.time_ns()}")
            log.warning("The answer ledger %s cannot be read (%s); it is now %s.", file, error, aside)
            file.replace(aside)
            for rest in (f"{file}-wal", f"{file}-shm"):
                Path(rest).unlink(missing_ok=True)
            self.open()

    def open(self) -> None:
        """Open the database and find the book."""
        self.database = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.executescript(SCHEMA)
            self.database.execute("INSERT OR IGNORE INTO books (identity) VALUES (?)", (self.identity,))
            asked = self.database.execute("SELECT book FROM books WHERE identity = ?", (self.identity,))
            (self.book,) = asked.fetchone()
        except BaseException:
            self.database.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        """The answers that are there and whole."""
        found: dict[Key, bytes] = {}
        for first in range(0, len(keys), KEYS_PER_QUERY):
            some = keys[first : first + KEYS_PER_QUERY]
            query = f"SELECT key, answer, seal FROM answers WHERE book = ? AND key IN ({','.join('?' * len(some))})"
            try:
                rows = self.database.execute(query, (self.book, *some)).fetchall()
            except sqlite3.DatabaseError as error:
                log.warning("Part of the answer ledger %s cannot be read (%s); it is asked anew.", self.file, error)
                continue
            found |= {key: answer for key, answer, seal in rows if seal == seal_of(key, answer)}
        return found

    def put(self, answers: Iterable[tuple[Key, bytes]]) -> None:
        """Keep the answers, at once and for good."""
        if not self.writable:
            return
        rows = [(self.book, key, answer, seal_of(key, answer)) for key, answer in answers]
        try:
            self.database.execute("BEGIN IMMEDIATE")
            self.database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)
            self.database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self.writable = False
            log.warning("Answers are not kept any more: %s cannot be written (%s).", self.file, error)
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")

    def count(self) -> int:
        """How many answers the book holds."""
        (count,) = self.database.execute("SELECT count(*) FROM answers WHERE book = ?", (self.book,)).fetchone()
        return int(count)

    def export(self, file: Path) -> None:
        """Write the book alone to a new ledger file."""
        file.unlink(missing_ok=True)
        with closing(Ledger(file, self.identity)) as copy:
            rows = self.database.execute("SELECT key, answer FROM answers WHERE book = ?", (self.book,))
            copy.put(rows)
            copy.database.execute("PRAGMA journal_mode=DELETE")  # one file, without a -wal beside it

    def take(self, file: Path) -> int:
        """Add what another ledger file has in this book; returns how many answers were new. Damaged ones stay out."""
        whole: dict[Key, bytes] = {}
        with closing(Ledger(file, self.identity)) as other:
            try:
                rows = other.database.execute("SELECT key, answer, seal FROM answers WHERE book = ?", (other.book,))
                whole.update((key, answer) for key, answer, seal in rows if seal == seal_of(key, answer))
            except sqlite3.DatabaseError as error:
                log.warning("Part of the answers in %s cannot be read (%s); they are asked anew.", file, error)
        new = whole.keys() - self.get(list(whole)).keys()
        self.put((key, whole[key]) for key in new)
        return len(new)


def ledger_file() -> Path:
    """Where this machine keeps its ledger: $QUANTGATE_LEDGER, or a file in the cache."""
    chosen = os.environ.get("QUANTGATE_LEDGER")
    return Path(chosen) if chosen else cache_dir() / "ledger.sqlite"


@contextmanager
def shared(file: Path, identity: str, store: "Store") -> Iterator[Ledger]:
    """The ledger in `file`, with what others who use the store have answered; theirs gets what the block added.

    The store keeps one file a book. Of two that write at the same moment the later one's remains, which loses no
    answer of this machine: the ledger in `file` has them all. A store that fails costs nothing but the sharing.
    """
    with closing(Ledger(file, identity)) as ledger:
        take_from(store, ledger)
        before = ledger.count()
        try:
            yield ledger
        finally:
            if ledger.count() > before:
                take_from(store, ledger)
                give_to(store, ledger)


def take_from(store: "Store", ledger: Ledger) -> None:
    """Add the store's answers of the ledger's book."""
    with tempfile.TemporaryDirectory() as scratch, shrugging("taken from"):
        if store.get_file(name_in_store(ledger), Path(scratch) / "theirs.sqlite"):
            ledger.take(Path(scratch) / "theirs.sqlite")


def give_to(store: "Store", ledger: Ledger) -> None:
    """Put the ledger's book in the place of the store's."""
    with tempfile.TemporaryDirectory() as scratch, shrugging("given to"):
        ledger.export(Path(scratch) / "ours.sqlite")
        store.put_file(Path(scratch) / "ours.sqlite", name_in_store(ledger))


def name_in_store(ledger: Ledger) -> str:
    """The name of the ledger's book in the store."""
    return f"ledger/{hashlib.sha256(ledger.identity.encode()).hexdigest()[:32]}.sqlite"


@contextmanager
def shrugging(what: str) -> Iterator[None]:
    """Log what a store or a database could not do, and go on."""
    try:
        yield
    except (PrerequisiteError, sqlite3.DatabaseError) as error:
        log.warning("No answers were %s the store: %s", what, error)


def seal_of(key: Key, answer: bytes) -> bytes:
    """What shows that the answer belongs to the key and is whole."""
    return hashlib.blake2b(key + answer, digest_size=SEAL_BYTES).digest()


def pack(answer: Loglik) -> bytes:
    """A log-likelihood's answer as it is kept."""
    return LOGLIK.pack(answer.loglik, answer.greedy)


def unpack(kept: bytes) -> Loglik:
    """The reverse of `pack`."""
    return Loglik(*LOGLIK.unpack(kept))
