"""The exit codes of `pysshfsctl`, and their one-line descriptions.

Like those of `pysshfs`, with which they agree where they mean the same, a code keeps its meaning
for ever. `--help` and docs/pysshfsctl.md list `DESCRIPTIONS`.
"""

import enum


class CtlCode(enum.IntEnum):
    """How `pysshfsctl` ended."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NO_MOUNT = 3
    UNDELIVERED = 12
    NOT_ANSWERING = 20
    NOT_PERMITTED = 21
    BUSY = 22
    NO_CONTROL = 23
    CHECKS_FAILED = 24
    INTERRUPTED = 130


DESCRIPTIONS: dict[CtlCode, str] = {
    CtlCode.OK: "done; of status: every mount that is shown answers",
    CtlCode.FAILURE: "it failed; the message says why",
    CtlCode.USAGE: "wrong command line",
    CtlCode.NO_MOUNT: "no pysshfs mount there, or more than one to choose from",
    CtlCode.UNDELIVERED: "the server has not taken all that was written",
    CtlCode.NOT_ANSWERING: "not answering: daemon stopped, busy or gone, or nothing completes",
    CtlCode.NOT_PERMITTED: "another user's mount",
    CtlCode.BUSY: "the mount is busy: programs use it",
    CtlCode.NO_CONTROL: "the FUSE control filesystem is not mounted",
    CtlCode.CHECKS_FAILED: "doctor found something that does not work",
    CtlCode.INTERRUPTED: "interrupted from the keyboard",
}


class CtlError(Exception):
    """The command ends with this line and this code."""

    def __init__(self, message: str, code: CtlCode = CtlCode.FAILURE) -> None:
        super().__init__(message)
        self.code = code
