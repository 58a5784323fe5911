"""The `pysshfs` command, for which a session is a success however soon it is lost again.

A mount whose connection is lost every second makes longer and longer pauses before it connects
anew, and a sweep would be made of them. Nothing else is different.
"""

from __future__ import annotations

import sys

from pysshfs.cli.main import main
from pysshfs.remote import connection

_CONSTANT = "_SHORT_LIFE_SECONDS"

if __name__ == "__main__":
    assert hasattr(connection, _CONSTANT), "pauses are decided otherwise by now"
    setattr(connection, _CONSTANT, 0.0)
    sys.exit(main())
