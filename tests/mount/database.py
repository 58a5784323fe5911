"""A database on the mount, used the way programs use one. Run there, standard library only."""

from __future__ import annotations

import sqlite3
import sys


def work(path: str, journal: str, tag: str, rounds: int) -> list[object]:
    """Many small transactions, some given up, beside other processes that do the same."""
    with sqlite3.connect(path, timeout=30, isolation_level=None) as base:
        mode = base.execute(f"PRAGMA journal_mode={journal}").fetchone()[0]
        base.execute("CREATE TABLE IF NOT EXISTS t (tag TEXT, n INTEGER, data BLOB)")
        for number in range(rounds):
            base.execute("BEGIN IMMEDIATE")
            data = bytes([number % 256]) * (number * 37 % 6000)
            base.execute("INSERT INTO t VALUES (?, ?, ?)", (tag, number, data))
            if number % 5 == 4:
                base.execute("UPDATE t SET data = data || x'00' WHERE tag = ?", (tag,))
            base.execute("ROLLBACK" if number % 7 == 6 else "COMMIT")
    base.close()
    return [mode]


def examine(path: str) -> list[object]:
    """Whether it is whole, and what is in it."""
    with sqlite3.connect(path, timeout=30) as base:
        good = base.execute("PRAGMA integrity_check").fetchone()[0]
        rows = base.execute("SELECT tag, n, length(data) FROM t ORDER BY tag, n").fetchall()
    base.close()
    return [good, [list(row) for row in rows]]


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
