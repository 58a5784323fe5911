"""pyfuse3, loaded behind our extension. Everything in `fuse/` that needs either takes it from here.

The extension must come first and with its symbols global: pyfuse3's calls to `fuse_session_new`
and `fuse_session_mount` then reach it (see `_session.c`).
"""

from __future__ import annotations

import os
import sys

_flags = sys.getdlopenflags()
sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
try:
    from pysshfs.fuse import _session
finally:
    sys.setdlopenflags(_flags)

import pyfuse3  # noqa: E402  # must follow the extension, which must be loaded by the lines above

__all__ = ["_session", "pyfuse3"]
