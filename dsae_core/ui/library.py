"""Runs kept between sessions: one SQLite file in the user's data folder, one row a discovery."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
import platformdirs
import streamlit as st
from filelock import FileLock, Timeout

from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS
from dsae_core.ui.request import CUSTOM, RunRequest
from dsae_core.ui.run_files import clean_name, named_json
from dsae_core.ui.view import View

SCHEMA = 2
BUSY_SECONDS = 5.0
"""How long to wait for another thread or process that writes."""

MAX_DOCUMENT = 1 << 29
"""Bytes of JSON that a row may unpack to; a damaged one must not fill the memory."""

_CREATE = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: a page may still show a run that was deleted
    digest TEXT NOT NULL UNIQUE,          -- of all but times: the same result is kept once
    request TEXT NOT NULL,                -- of the settings that gave it, '' where they are not known
    name TEXT NOT NULL DEFAULT '',
    kept TEXT NOT NULL,
    made TEXT NOT NULL DEFAULT '',        -- when it was computed, '' where its document does not say
    imported INTEGER NOT NULL,
    model TEXT NOT NULL,
    task TEXT NOT NULL,
    method TEXT NOT NULL,
    seed INTEGER NOT NULL,
    options TEXT NOT NULL,
    positives INTEGER NOT NULL,
    negatives INTEGER NOT NULL,
    layers INTEGER NOT NULL,
    heads INTEGER NOT NULL,
    auc REAL,
    words TEXT NOT NULL,                  -- what a search looks through, beside the name
    document BLOB NOT NULL                -- the discovery's JSON, packed with zlib
)
"""
_UPGRADES = {1: "ALTER TABLE runs ADD COLUMN made TEXT NOT NULL DEFAULT ''"}
"""From a schema to the next."""

_COLUMNS = (
    "id, name, kept, made, imported, model, task, method, seed, options, positives, negatives, layers, heads, auc, "
    "length(document)"
)
_OWN = "visit_library"
_log = logging.getLogger(__name__)


class DamagedError(UserError):
    """The file is no library, or a broken one."""


@dataclass(frozen=True)
class Entry:
    """One kept run, without its scores.

    Attributes:
        id: its number; a deleted run's is not given again.
        name: what somebody called it, "" where nobody did.
        kept: when it was (last) kept, UTC.
        made: when it was computed, UTC, as its file says; None where that does not.
        imported: whether it came from a file and not from a run on this machine.
        model: name of the model.
        task: name of the task, CUSTOM for a user's own prompts.
        method: "positional" or "paper".
        seed: of prompts and dictionary.
        options: settings that differ from the method's defaults.
        positives: number of positive prompts.
        negatives: number of negative prompts.
        layers: layers of the model.
        heads: heads a layer.
        auc: against the circuit stored for its model and task when it was kept; None where there was none.
        size: bytes it takes in the file.
    """

    id: int
    name: str
    kept: datetime
    made: datetime | None
    imported: bool
    model: str
    task: str
    method: str
    seed: int
    options: tuple[tuple[str, Any], ...]
    positives: int
    negatives: int
    layers: int
    heads: int
    auc: float | None
    size: int

    @property
    def title(self) -> str:
        """Its name, or else what it is a run of."""
        return self.name or f"{task_title(self.task)}, {self.method}, seed {self.seed}"


def data_dir() -> Path:
    """The folder for what users make: ``$DSAE_DATA``, or the user's data folder."""
    override = os.environ.get("DSAE_DATA")
    return Path(override).expanduser() if override else Path(platformdirs.user_data_dir("dsae"))


def library() -> Library:
    """The library of the user who runs the server; on a public demo, that of this visit alone."""
    if (limits := demo_limits()) is None:
        return Library(data_dir() / "runs.sqlite3")
    own: Library | None = st.session_state.get(_OWN)
    if own is None:
        own = st.session_state[_OWN] = VisitLibrary(limits.kept_runs)
    return own


def keep(discovery: Discovery) -> str:
    """Keep a finished run.

    Returns:
        "", or a sentence on why it could not be kept: the result stands on the page without it.
    """
    try:
        library().keep(discovery)
    except UserError as error:
        _log.warning("a run was not kept: %s", error)
        return f"This run was not kept. {error}"
    return ""


def recall(request: RunRequest) -> Discovery | None:
    """The latest kept run that answers a request, None where there is none or the library cannot be read."""
    try:
        return library().recall(request)
    except UserError as error:
        _log.warning("the run library was not searched: %s", error)
        return None


class Library:
    """The kept runs of one file. Every call opens it anew, so threads and processes may share it.

    All methods raise a UserError where the file cannot be used; the message says what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, discovery: Discovery, *, name: str = "", imported: bool = False) -> tuple[int, bool]:
        """Keep a run; one that is there already (the same scores from the same settings) only gets a new date.

        Returns:
            Its number, and whether it is new.
        """
        row = _row(discovery, name=name, imported=imported)
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            known = connection.execute("SELECT id FROM runs WHERE digest = ?", (row["digest"],)).fetchone()
            if known is not None:
                # A run made here stays one, whatever file brings it again.
                connection.execute(
                    "UPDATE runs SET kept = ?, imported = min(imported, ?) WHERE id = ?",
                    (row["kept"], row["imported"], known[0]),
                )
                number = int(known[0])
            else:
                places = ", ".join(f":{column}" for column in row)
                added = connection.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({places})", row)
                number = int(added.lastrowid or 0)
            connection.execute("COMMIT")
        return number, known is None

    def entries(self, search: str = "", *, limit: int = -1) -> list[Entry]:
        """The kept runs whose name, settings or prompts have every word of the search, the latest first."""
        where, words = _condition(search)
        with self._open() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE {where} ORDER BY kept DESC, id DESC LIMIT ?", (*words, limit)
            ).fetchall()
        return [_entry(row) for row in rows]

    def count(self, search: str = "") -> int:
        """How many runs a search finds."""
        where, words = _condition(search)
        with self._open() as connection:
            return int(connection.execute(f"SELECT count(*) FROM runs WHERE {where}", words).fetchone()[0])

    def entry(self, number: int) -> Entry | None:
        """One run's entry, None where it is gone."""
        with self._open() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (number,)).fetchone()
        return None if row is None else _entry(row)

    def load(self, number: int) -> Discovery:
        """A kept run, whole."""
        return _unpacked(self._of(number, "document"))

    def export(self, number: int) -> bytes:
        """A kept run as a file: its JSON and the name it has here, which parse_named reads."""
        return named_json(self.load(number), str(self._of(number, "name")))

    def _of(self, number: int, column: str) -> Any:
        with self._open() as connection:
            row = connection.execute(f"SELECT {column} FROM runs WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise UserError("This run is no longer in the library; somebody deleted it.")
        return row[0]

    def recall(self, request: RunRequest) -> Discovery | None:
        """The latest run made here with these settings; what files brought does not count."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT document FROM runs WHERE request = ? AND NOT imported ORDER BY kept DESC, id DESC LIMIT 3",
                (request_digest(request),),
            ).fetchall()
        # A request leaves out what is default, and the defaults may have been others when a run was kept.
        found = (_unpacked(document) for (document,) in rows)
        return next((kept for kept in found if RunRequest.of(kept) == request), None)

    def rename(self, number: int, name: str) -> None:
        """Give a run a name; an empty one takes it away."""
        with self._open() as connection:
            connection.execute("UPDATE runs SET name = ? WHERE id = ?", (clean_name(name), number))

    def delete(self, number: int) -> None:
        """Take a run out of the library for good."""
        with self._open() as connection:
            connection.execute("DELETE FROM runs WHERE id = ?", (number,))

    def set_aside(self) -> Path:
        """Rename a damaged file, so that the next call begins a new one; where it is then."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        target = self.path.with_name(f"{self.path.stem}.damaged-{stamp}{self.path.suffix}")
        try:
            self.path.rename(target)
            for ending in ("-wal", "-shm"):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)
        except OSError as error:
            raise UserError(self._reason(error)) from error
        return target

    @property
    def place(self) -> str:
        """Where the runs are, in words for the page."""
        return str(self.path)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare(connection)
                yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError, Timeout) as error:
            if type(error) is sqlite3.DatabaseError:  # not one of its kinds, which say busy, full or read-only
                raise DamagedError(
                    f"The run library {self.path} is damaged ({error}); set the file aside, on the Runs page or by "
                    "hand, and a new one is begun."
                ) from error
            raise UserError(self._reason(error)) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the table where there is none."""
        connection.create_function("folded", 1, _folded, deterministic=True)
        version = _version(connection)
        if version == 0 or version in _UPGRADES:
            # Two connections that change the journal at once get "locked" without any wait, hence the lock.
            with FileLock(f"{self.path}.lock", timeout=BUSY_SECONDS):
                version = _version(connection)
                if version == 0:
                    connection.execute("PRAGMA journal_mode = WAL")
                    _create(connection)
                elif version in _UPGRADES:
                    _upgrade(connection, version)
        elif version != SCHEMA:
            raise UserError(f"The run library {self.path} was made by another version of dsae-core; update this one.")
        connection.execute("PRAGMA synchronous = NORMAL")

    def _reason(self, error: Exception) -> str:
        """What is wrong with the file, and what to do."""
        if isinstance(error, Timeout) or "locked" in str(error):
            return f"The run library {self.path} is in use by another program; try again in a moment."
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        full = any(words in reason for words in ("full", "disk I/O error", "No space", "too large"))
        remedy = "free some space on its disk" if full else "make its folder writable"
        return (
            f"The run library {self.path} cannot be used ({reason}); {remedy}, or name another folder in the "
            "environment variable DSAE_DATA."
        )


class VisitLibrary(Library):
    """The runs of one visit to a public demo: in memory, seen by nobody else, and gone with the visit.

    The session keeps it; its one connection is the database.
    """

    def __init__(self, most: int) -> None:
        """
        Args:
            most: runs to keep; a newer one takes the oldest one's place.
        """
        super().__init__(Path("runs.sqlite3"))  # a name for messages; no such file is made
        self._most = most
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.create_function("folded", 1, _folded, deterministic=True)
        _create(self._connection)

    @property
    def place(self) -> str:
        """Where the runs are, in words for the page."""
        return "memory, for this visit only"

    def keep(self, discovery: Discovery, *, name: str = "", imported: bool = False) -> tuple[int, bool]:
        """As Library.keep; the oldest run goes where there are too many."""
        kept = super().keep(discovery, name=name, imported=imported)
        for entry in self.entries()[self._most :]:
            self.delete(entry.id)
        return kept

    def set_aside(self) -> Path:
        """Begin anew."""
        with self._open() as connection:
            connection.execute("DELETE FROM runs")
        return self.path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:  # the page's thread and that of a download
            try:
                yield self._connection
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise UserError("The runs of this visit cannot be read; reload the page to begin anew.") from error


def task_title(task: str) -> str:
    """A task's name for people."""
    if task == CUSTOM:
        return "Own prompts"
    return TASKS[task].title if task in TASKS else task


def request_digest(request: RunRequest) -> str:
    """What two equal requests share."""
    pairs = request.pairs.to_dict() if request.pairs is not None else None
    examples = request.examples if pairs is None else 0
    return _digest([request.model, request.task, examples, request.method, request.seed, request.options, pairs])


def _row(found: Discovery, *, name: str, imported: bool) -> dict[str, Any]:
    """A run's columns but for its number."""
    request, evaluation = RunRequest.of(found), View.of(found).evaluation
    prompts = found.prompts.positive if found.prompts is not None else ()
    settings = (f"{option} {value}" for option, value in request.options)
    return {
        "digest": found.fingerprint(),
        "request": request_digest(request),
        "name": clean_name(name),
        "kept": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "made": _made(found),
        "imported": int(imported),
        "model": found.model_name,
        "task": found.task,
        "method": request.method,
        "seed": request.seed,
        "options": json.dumps(request.options),
        "positives": found.n_positive,
        "negatives": found.codes.shape[0] - found.n_positive,
        "layers": found.n_layers,
        "heads": found.n_heads,
        "auc": None if evaluation is None else evaluation.auc,
        "words": " ".join(
            [
                *(found.model_name, found.task, task_title(found.task), request.method, f"seed {request.seed}"),
                *settings,
                *prompts,
            ]
        )[:10_000],
        "document": zlib.compress(found.to_json(), 1),
    }


def _made(found: Discovery) -> str:
    """When a run was computed, UTC; "" where its provenance says no such time."""
    try:
        when = datetime.fromisoformat(str(found.provenance.get("date", "")))
    except ValueError:
        return ""
    # A page shows it in any time zone, which the first and the last year do not have room for.
    if when.tzinfo is None or not 1970 <= when.year < 9999:
        return ""
    return when.astimezone(timezone.utc).isoformat(timespec="seconds")


def _entry(row: tuple[Any, ...]) -> Entry:
    number, name, kept, made, imported, model, task, method, seed, options, *rest = row
    return Entry(
        number,
        name,
        datetime.fromisoformat(kept),
        datetime.fromisoformat(made) if made else None,
        bool(imported),
        model,
        task,
        method,
        seed,
        tuple((str(option), value) for option, value in json.loads(options)),
        *rest,
    )


def _unpacked(packed: bytes) -> Discovery:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, MAX_DOCUMENT)
        if not unpacker.eof:
            raise ValueError("cut short")
        return Discovery.from_dict(orjson.loads(text))
    except (zlib.error, ValueError) as error:
        raise UserError("This run is damaged in the library; delete it, and run it anew.") from error


def _condition(search: str) -> tuple[str, list[str]]:
    """SQL that holds where every word occurs, a number as a word of its own, and its parameters."""
    words = [f" {word} " if word.isdigit() else word for word in _folded(search).split()]
    return " AND ".join(["instr(folded(' ' || name || ' ' || words || ' '), ?)"] * len(words)) or "1", words


def _folded(text: str) -> str:
    return text.casefold()


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(_CREATE)
    connection.execute("CREATE INDEX IF NOT EXISTS runs_request ON runs (request)")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Bring a library of an earlier schema to this one, wholly or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    for earlier in range(version, SCHEMA):
        connection.execute(_UPGRADES[earlier])
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
