"""A database on the mount that gets one transaction after the other. Standard library only.

Run as a file, isolated: the path and the number of transactions are its arguments. It says each
number when it is committed.
"""

from __future__ import annotations

import sqlite3
import sys


def data(number: int) -> bytes:
    """What transaction `number` stores."""
    return bytes([number % 256]) * (number * 379 % 9_000 + 1)


def work(path: str, count: int) -> None:
    base = sqlite3.connect(path, timeout=30, isolation_level=None)
    base.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB, times INTEGER)")
    for number in range(count):
        base.execute("BEGIN IMMEDIATE")
        base.execute("INSERT INTO t VALUES (?, ?, 0)", (number, data(number)))
        base.execute("UPDATE t SET times = times + 1 WHERE n % 3 = ?", (number % 3,))
        base.execute("COMMIT")
        print(number, flush=True)
    base.close()


def examine(path: str, count: int) -> str:
    """What is wrong with it after all of that, or ""."""
    base = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        good = base.execute("PRAGMA integrity_check").fetchone()[0]
        rows = base.execute("SELECT n, data, times FROM t ORDER BY n").fetchall()
    finally:
        base.close()
    if good != "ok":
        return f"integrity check: {good}"
    for number in range(count):
        # Each transaction counts in all rows of its residue that are there by then.
        times = sum(other % 3 == number % 3 for other in range(number, count))
        if rows[number : number + 1] != [(number, data(number), times)]:
            return f"row {number} is wrong"
    return "" if len(rows) == count else f"{len(rows)} rows instead of {count}"


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
