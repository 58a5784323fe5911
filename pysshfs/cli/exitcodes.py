"""The exit codes of the program and their one-line descriptions.

Scripts and service managers act on these numbers, so a code keeps its meaning forever: a new
situation gets a new number.  The manual page lists `DESCRIPTIONS`.
"""

import enum


class ExitCode(enum.IntEnum):
    """How the program ended."""

    #: The mount was made (or help was printed), or a mounted filesystem was unmounted in order.
    OK = 0
    #: Something failed that no other code describes; the message says what.
    FAILURE = 1
    #: The command line is wrong; nothing was attempted.
    USAGE = 2
    #: The mount point is missing, is not a directory, or may not be mounted on.
    MOUNTPOINT = 3
    #: The server could not be reached: unknown name, connection refused, no answer in time.
    UNREACHABLE = 4
    #: The server's host key is unknown or differs from the known one.
    HOST_KEY = 5
    #: The server accepted none of the ways to log in.
    AUTHENTICATION = 6
    #: The directory to mount is missing on the server, or is not a directory.
    REMOTE_DIRECTORY = 7
    #: The server refused the SFTP subsystem, or answered with something that is not SFTP.
    SFTP_REFUSED = 8
    #: FUSE cannot be used here: no /dev/fuse, no fusermount3, or no permission for them.
    FUSE_UNAVAILABLE = 9
    #: The mounted filesystem ended because the connection was lost for good.
    CONNECTION_LOST = 10
    #: The mounted filesystem was aborted through the kernel's FUSE control filesystem.
    ABORTED = 11
    #: The mounted filesystem ended with written data that the server did not get.
    UNDELIVERED = 12
    #: Interrupted from the keyboard before the mount was made (128 + SIGINT, as shells count).
    INTERRUPTED = 130


DESCRIPTIONS: dict[ExitCode, str] = {
    ExitCode.OK: "success",
    ExitCode.FAILURE: "unexpected failure",
    ExitCode.USAGE: "wrong command line",
    ExitCode.MOUNTPOINT: "mount point missing, not a directory, or not permitted",
    ExitCode.UNREACHABLE: "server not reachable (name not found, refused, timed out)",
    ExitCode.HOST_KEY: "host key unknown or changed",
    ExitCode.AUTHENTICATION: "authentication failed",
    ExitCode.REMOTE_DIRECTORY: "remote directory missing or not a directory",
    ExitCode.SFTP_REFUSED: "SFTP subsystem refused or its protocol not understood",
    ExitCode.FUSE_UNAVAILABLE: "FUSE not available",
    ExitCode.CONNECTION_LOST: "mounted filesystem ended: connection lost",
    ExitCode.ABORTED: "mounted filesystem ended: aborted through the FUSE control filesystem",
    ExitCode.UNDELIVERED: "mounted filesystem ended: the server did not get all that was written",
    ExitCode.INTERRUPTED: "interrupted from the keyboard before the mount was made",
}
