"""The verdicts of reviewers in SQLite: only ever added to, on the disk before anybody is told that they are kept."""

import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from milscope.types import InputError, refuse

VERDICTS = ("abnormal", "normal", "unsure", "artefact")
VERSION = 1
PATIENCE = 10.0
"""Seconds for which a process waits while another one writes."""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS verdicts (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, reviewer TEXT NOT NULL, task TEXT NOT NULL, slide TEXT NOT NULL,
  cell TEXT NOT NULL, verdict TEXT CHECK (verdict IN {VERDICTS}), withdrawn INTEGER REFERENCES verdicts (id),
  x REAL, y REAL, width REAL, height REAL);
CREATE INDEX IF NOT EXISTS verdicts_of_cells ON verdicts (task, slide, reviewer, cell, id);
CREATE UNIQUE INDEX IF NOT EXISTS verdicts_withdrawn ON verdicts (withdrawn) WHERE withdrawn IS NOT NULL;
CREATE TABLE IF NOT EXISTS rankings (at TEXT NOT NULL, ranked TEXT NOT NULL UNIQUE, cells TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS verdicts_stay BEFORE UPDATE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts are kept'); END;
CREATE TRIGGER IF NOT EXISTS verdicts_last BEFORE DELETE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts are kept'); END;
"""
_FIELDS = "at, reviewer, task, slide, cell, verdict, x, y, width, height"
_LIVE = "withdrawn IS NULL AND NOT EXISTS (SELECT 1 FROM verdicts AS later WHERE later.withdrawn = verdicts.id)"


class Verdict(NamedTuple):
    """What a reviewer said of a cell, and when (UTC); `verdict` None: that nothing is to stand. Place in slide pixels."""

    at: str
    reviewer: str
    task: str
    slide: str
    cell: str
    verdict: str | None
    x: float | None
    y: float | None
    width: float | None
    height: float | None


class Ranked(NamedTuple):
    """Fingerprints of the ranking that is reviewed, and of the cells that it ranks."""

    ranked: str
    cells: str


class VerdictStore:
    """The verdicts of one run; several processes may have it open, and each sees what the others wrote.

    Args:
        path: The database; it is made if there is none.
        ranked: What is reviewed now.
        fits: Whether a verdict is on a cell of this run, asked only if the cells are not those that were reviewed before.

    Raises:
        InputError: If it is no such database, of a newer version, of another run's cells, or cannot be written.
    """

    def __init__(self, path: Path, ranked: Ranked, fits: Callable[[Verdict], bool]) -> None:
        self.path, self._lock = Path(path), threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(self.path, error) from error
        try:
            self._prepare(ranked, fits)
        except sqlite3.Error as error:
            self.close()
            raise _unusable(self.path, error) from error
        except InputError:
            self.close()
            raise

    def keep(self, verdict: Verdict) -> None:
        """Writes a verdict to the disk; what the reviewer says already is not written twice.

        Raises:
            sqlite3.Error: If it could not be written; then it is not kept.
        """
        with self._writing() as connection:
            last = self._last(connection, verdict)
            if last != (verdict.verdict,) and (last is not None or verdict.verdict is not None):
                connection.execute(f"INSERT INTO verdicts ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", verdict)

    def undo(self, reviewer: str, task: str, here: Callable[[Verdict], bool]) -> tuple[Verdict, str | None] | None:
        """Withdraws the latest that a reviewer said; gives it and what stands in its place, or None if there is nothing.

        Args:
            reviewer: Whose.
            task: In which task.
            here: Whether a verdict is on a cell that is shown; others stay as they are.
        """
        with self._writing() as connection:
            query = f"SELECT id, {_FIELDS} FROM verdicts WHERE task = ? AND reviewer = ? AND {_LIVE} ORDER BY id DESC"
            for number, *fields in connection.execute(query, (task, reviewer)):
                undone = Verdict(*fields)
                if here(undone):
                    row = (now(), *undone[1:5], None, number)
                    connection.execute("INSERT INTO verdicts (at, reviewer, task, slide, cell, verdict, withdrawn) "
                                       "VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                    left = self._last(connection, undone)
                    return undone, left[0] if left else None
        return None

    def standing(self, task: str, *, slide: str | None = None, reviewer: str | None = None) -> list[Verdict]:
        """The last verdict of every reviewer on every cell, in the order in which they were given."""
        where, values = "task = ?", [task]
        for name, value in (("slide", slide), ("reviewer", reviewer)):
            if value is not None:
                where, values = f"{where} AND {name} = ?", [*values, value]
        query = (f"SELECT max(id), {_FIELDS} FROM verdicts WHERE {where} AND {_LIVE} "
                 "GROUP BY slide, reviewer, cell ORDER BY max(id)")  # SQLite takes the other columns from the row of the max
        with self._lock:
            rows = self._connection.execute(query, values).fetchall()
        return [verdict for verdict in (Verdict(*row[1:]) for row in rows) if verdict.verdict is not None]

    def reviewers(self) -> list[str]:
        """The names of all who ever said anything, sorted."""
        with self._lock:
            return [name for (name,) in self._connection.execute("SELECT DISTINCT reviewer FROM verdicts ORDER BY reviewer")]

    def close(self) -> None:
        """Gives the database back; the last process to do so leaves one file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """A transaction that no other process can come between."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @staticmethod
    def _last(connection: sqlite3.Connection, verdict: Verdict) -> tuple[str | None] | None:
        """What the reviewer said last of the cell, and did not withdraw."""
        query = f"SELECT verdict FROM verdicts WHERE task = ? AND slide = ? AND reviewer = ? AND cell = ? AND {_LIVE}"
        return connection.execute(f"{query} ORDER BY id DESC LIMIT 1",
                                  (verdict.task, verdict.slide, verdict.reviewer, verdict.cell)).fetchone()

    def _prepare(self, ranked: Ranked, fits: Callable[[Verdict], bool]) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            raise refuse(str(self.path), f"of version {VERSION} or older", f"version {found}", "Update milscope.")
        _into_wal(self._connection)
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._writing() as connection:
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            seen = connection.execute("SELECT ranked, cells FROM rankings").fetchall()
            if ranked.cells not in {cells for _, cells in seen}:
                self._refuse_another(connection, fits)
            connection.execute("INSERT OR IGNORE INTO rankings VALUES (?, ?, ?)", (now(), *ranked))

    def _refuse_another(self, connection: sqlite3.Connection, fits: Callable[[Verdict], bool]) -> None:
        """Verdicts none of which is on a cell of this run are another run's."""
        judged = connection.execute(f"SELECT {_FIELDS} FROM verdicts WHERE withdrawn IS NULL GROUP BY slide, cell, x, y")
        rows = [Verdict(*row) for row in judged]
        if rows and not any(fits(verdict) for verdict in rows):
            raise refuse(str(self.path), "the verdicts on this run's cells",
                         f"{len(rows)} judged cells, none of which is one of this run", "Move the file to the run it is from.")


def now() -> str:
    """The time, UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _into_wal(connection: sqlite3.Connection) -> None:
    """Write-ahead logging; two processes that both make the database may be in each other's way for a moment."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: all at once they would end the transaction."""
    held = ""
    for part in script.split(";"):
        held = f"{held}{part};"
        if sqlite3.complete_statement(held):
            if held.strip(" \n;"):
                yield held
            held = ""


def _unusable(path: Path, error: Exception) -> InputError:
    return refuse(str(path), "a database of verdicts that can be written", str(error) or type(error).__name__,
                  "Make the folder writable, or move the file away if it is none of `milscope review`.")
