"""The registry of every option: the parser, the help text and the manual page read it from here.

`OPTIONS` holds what `-o` takes, `SHORT_OPTIONS` the rest.  `Settings` is the typed result for the
options that pysshfs itself obeys; a unit test proves that the two agree.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pysshfs.cli.optiontypes import Destination, Group, Kind, Option, ShortOption, Value


class Settings(NamedTuple):
    """The options that pysshfs obeys, complete and checked.  Times in seconds, sizes in bytes."""

    dcache_timeout: float = 20.0
    dcache_stat_timeout: float = 20.0
    dcache_link_timeout: float = 20.0
    dcache_dir_timeout: float = 20.0
    dcache_max_size: int = 10000
    dir_cache: bool = True
    entry_timeout: float | None = None
    attr_timeout: float | None = None
    negative_timeout: float = 1.0
    direct_io: bool = False
    kernel_cache: bool = False
    auto_cache: bool = False
    cache_size: int = 256 << 20
    readahead: int = 32 << 20
    prefetch_ttl: float = 1.0  # 0: nothing
    max_write_buffer: int = 16 << 20
    sshfs_sync: bool = False
    disable_hardlink: bool = False
    symlinks: Literal["contain", "contain+system", "all", "strict", "none", "follow"] = "contain"
    transform_symlinks: bool = False
    idmap: Literal["none", "user", "file", "name"] = "none"
    uidfile: str | None = None
    gidfile: str | None = None
    nomap: Literal["error", "ignore"] = "error"
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    fmask: int | None = None
    dmask: int | None = None
    password_stdin: bool = False
    reconnect: bool = True
    timeout: float = 0.0  # 0: for ever
    others_timeout: float = 60.0  # 0: for ever
    interrupt_grace: float = 2.0
    async_ops: bool = False
    strict_ambiguity: bool = False
    fsync_on_close: bool = False
    undelivered_quota: int = 1 << 30
    max_dir_entries: int = 1_000_000
    max_dir_bytes: int = 256 << 20
    max_dir_time: float = 600.0  # 0: no bound
    max_depth: int = 200
    hide_special: bool = False
    sftp_server: str = "sftp"
    max_conns: int = 1
    if_not_mounted: bool = False
    fsname: str | None = None
    subtype: str | None = None
    max_background: int = 512
    congestion_threshold: int | None = None
    log_file: str | None = None
    log_level: Literal["error", "warning", "info", "debug"] = "warning"
    debug: bool = False

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Settings":
        """Complete the given values (checked ones, by option name) with the defaults.

        Unlike the bare constructor this also fills in the defaults that depend on other options:
        the cache timeouts follow dcache_timeout, and debug raises the log level.
        """
        complete = dict(values)
        for option in OPTIONS:
            if option.follows in complete:
                complete.setdefault(option.name, complete[option.follows])
        if complete.get("debug"):
            complete.setdefault("log_level", "debug")
        return cls(**complete)


_FOREVER = 1_000_000_000  # seconds; a bound only so that arithmetic with times stays exact
HIGHEST_ID = (1 << 32) - 2  # the id above it means "none" to the kernel
_TIMES = (0, _FOREVER)
_ID = (0, HIGHEST_ID)
_MODE = (0, 0o777)


def _ours(
    name: str, kind: Kind, text: str, metavar: str = "", default: Value = None, **more: Any
) -> Option:
    """Make an option of pysshfs itself; a flag is off unless told otherwise."""
    if kind is Kind.FLAG and default is None:
        default = False
    more.setdefault("group", Group.GENERAL)
    return Option(name, kind, Destination.OURS, help=text, metavar=metavar, default=default, **more)


def _cache(
    name: str, kind: Kind, text: str, metavar: str = "", default: Value = None, **more: Any
) -> Option:
    """Make an option of pysshfs itself that the help lists under caching."""
    return _ours(name, kind, text, metavar, default, group=Group.CACHING, **more)


def _cache_time(part: str, what: str) -> Option:
    """Make one of the options that override dcache_timeout for a part of the cache."""
    text = f"how long {what} are remembered"
    name, alias = f"dcache_{part}_timeout", f"cache_{part}_timeout"
    return _cache(name, Kind.SECONDS, text, "SECS", 20.0, bounds=_TIMES, aliases=(alias,),
                  follows="dcache_timeout")  # fmt: skip


# fmt: off
_OURS = (
    _ours("reconnect", Kind.FLAG, "connect again when the connection is lost (default)",
          default=True, shorthands=(("no_reconnect", "no"),)),
    _ours("timeout", Kind.SECONDS, "calls fail when the server does not answer for so long;"
          " 0: they wait for ever", "SECS", 0.0, bounds=_TIMES,
          shorthands=(("hard", "0"), ("soft", "30"))),
    _ours("others_timeout", Kind.SECONDS, "with allow_other, most that a call of another user"
          " takes; 0: for ever", "SECS", 60.0, bounds=_TIMES),
    _ours("interrupt_grace", Kind.SECONDS, "how long an interrupted call that changes the server"
          " waits for its reply", "SECS", 2.0, bounds=_TIMES),
    _ours("async_ops", Kind.FLAG, "making and removing names, and close, do not wait for the"
          " server; errors come later"),
    _ours("strict_ambiguity", Kind.FLAG, "a create, mkdir, symlink or link whose reply was lost"
          " fails; it is not decided by looking"),
    _ours("fsync_on_close", Kind.FLAG, "close waits until the server has synced the file"),
    _ours("undelivered_quota", Kind.SIZE, "most that is kept, under the state directory, of data"
          " the server did not take; 0: nothing", "BYTES", 1 << 30, bounds=(0, 1 << 40)),
    _ours("sshfs_sync", Kind.FLAG, "every write waits for the server"),
    _ours("disable_hardlink", Kind.FLAG, "refuse to make hard links"),
    _ours("symlinks", Kind.CHOICE, "which links may be followed: those that stay in the mount;"
          " those, and to this machine's own programs; all; relative ones without '..'; none; or"
          " all, on the server",
          "WHICH", "contain",
          choices=("contain", "contain+system", "all", "strict", "none", "follow"),
          shorthands=(("contain_symlinks", "strict"), ("no_contain_symlinks", "all"),
                      ("follow_symlinks", "follow"))),
    _ours("transform_symlinks", Kind.FLAG, "with symlinks=all or strict: links to absolute paths"
          " within the served directory become relative"),
    _ours("idmap", Kind.CHOICE, "whose files are: 'none': the server's numbers; 'user': the remote"
          " login is the mounting user; 'file': by uidfile and gidfile; 'name': whoever has the"
          " same name here", "TYPE", "none", choices=("none", "user", "file", "name")),
    _ours("uidfile", Kind.PATH, "with idmap=file: lines of 'local user name:remote uid'", "FILE"),
    _ours("gidfile", Kind.PATH, "with idmap=file: lines of 'local group name:remote gid'",
          "FILE"),
    _ours("nomap", Kind.CHOICE, "with idmap=file, owners that the files lack: 'error': EPERM;"
          " 'ignore': the same number", "TYPE", "error", choices=("error", "ignore")),
    _ours("uid", Kind.INTEGER, "owner of all files", "N", bounds=_ID),
    _ours("gid", Kind.INTEGER, "group of all files", "N", bounds=_ID),
    _ours("umask", Kind.OCTAL, "permission bits taken away from everything", "MASK", bounds=_MODE),
    _ours("fmask", Kind.OCTAL, "the same for files only", "MASK", bounds=_MODE),
    _ours("dmask", Kind.OCTAL, "the same for directories only", "MASK", bounds=_MODE),
    _ours("max_dir_entries", Kind.INTEGER, "most names of a directory; more: EOVERFLOW", "N",
          1_000_000, bounds=(1, 100_000_000)),
    _ours("max_dir_bytes", Kind.SIZE, "most bytes that the names of a directory have in all;"
          " more: EOVERFLOW", "BYTES", 256 << 20, bounds=(1 << 10, 1 << 40)),
    _ours("max_dir_time", Kind.SECONDS, "longest that one listing waits for the server in all;"
          " longer: EOVERFLOW; 0: no bound", "SECS", 600.0, bounds=_TIMES),
    _ours("max_depth", Kind.INTEGER, "most directories and names in one path below the served"
          " directory; more: ENAMETOOLONG", "N", 200, bounds=(1, 2048)),
    _ours("hide_special", Kind.FLAG, "device nodes, FIFOs and sockets are not there"),
    _ours("password_stdin", Kind.FLAG, "read the password from standard input"),
    _ours("sftp_server", Kind.STRING, "subsystem, or path of the server program, to start",
          "SERVER", "sftp"),
    _ours("max_conns", Kind.INTEGER, "connections to the server: those beyond the first carry"
          " large transfers only, and are made if that asks nobody anything", "N", 1,
          bounds=(1, 16)),
    _ours("if_not_mounted", Kind.FLAG, "if the same source is mounted there already, that is"
          " success, with a note"),
    _ours("fsname", Kind.STRING, "source shown in the list of mounts", "NAME",
          default_note="as typed"),
    _ours("subtype", Kind.STRING, "type shown after 'fuse.' in the list of mounts", "NAME",
          default_note="pysshfs"),
    _ours("max_background", Kind.INTEGER, "background requests the kernel keeps in flight", "N",
          512, bounds=(1, 65535)),
    _ours("congestion_threshold", Kind.INTEGER, "number of them from which the kernel slows down",
          "N", bounds=(1, 65535), default_note="3/4 of max_background"),
    _ours("log_file", Kind.PATH, "append the log to this file", "FILE"),
    _ours("log_level", Kind.CHOICE, "least severe messages to log", "LEVEL", "warning",
          choices=("error", "warning", "info", "debug"),
          default_note="warning; debug with -d"),
    _ours("debug", Kind.FLAG, "log everything and stay in the foreground"),
    _cache("dir_cache", Kind.YESNO, "remember names, attributes and symlinks", "yes|no", True,
           aliases=("cache",)),
    _cache("dcache_timeout", Kind.SECONDS, "how long they are remembered", "SECS", 20.0,
           bounds=_TIMES, aliases=("cache_timeout",)),
    _cache_time("stat", "attributes"),
    _cache_time("link", "symlink targets"),
    _cache_time("dir", "directory listings"),
    _cache("dcache_max_size", Kind.INTEGER, "most entries that are remembered", "N", 10000,
           bounds=(1, 100_000_000), aliases=("cache_max_size",)),
    _cache("entry_timeout", Kind.SECONDS, "how long the kernel remembers names", "SECS",
           bounds=_TIMES, default_note="as long as pysshfs does"),
    _cache("attr_timeout", Kind.SECONDS, "how long the kernel remembers attributes", "SECS",
           bounds=_TIMES, default_note="as long as pysshfs does"),
    _cache("negative_timeout", Kind.SECONDS, "how long a missing name is remembered", "SECS",
           1.0, bounds=_TIMES),
    _cache("cache_size", Kind.SIZE, "most memory that buffers and caches take in all; what is"
           " written gets at most half", "BYTES", 256 << 20, bounds=(16 << 20, 1 << 40)),
    _cache("readahead", Kind.SIZE, "most that is read ahead per open file; 0: nothing", "BYTES",
           32 << 20, bounds=(0, 1 << 30), shorthands=(("no_readahead", "0"),)),
    _cache("prefetch_ttl", Kind.SECONDS, "how long small files fetched ahead are good; 0: none are",
           "SECS", 1.0, bounds=_TIMES),
    _cache("max_write_buffer", Kind.SIZE, "most written data the server has yet to confirm",
           "BYTES", 16 << 20, bounds=(64 << 10, 4 << 30)),
    _cache("direct_io", Kind.FLAG, "bypass the kernel's page cache"),
    _cache("kernel_cache", Kind.FLAG, "never drop cached file data on open"),
    _cache("auto_cache", Kind.FLAG, "drop cached file data on open only if the file changed",
           shorthands=(("noauto_cache", "no"),)),
)


def _kernel(name: str, text: str, *cancels: str) -> Option:
    """Make a flag that is handed to the kernel."""
    return Option(name, Kind.FLAG, Destination.KERNEL, Group.KERNEL, text, cancels=cancels)


# Only what fusermount3 knows: it refuses the whole mount for any other word.
_KERNEL = (
    _kernel("allow_other", "let all users in"),
    _kernel("allow_root", "let root in"),
    _kernel("default_permissions", "the kernel checks permissions"),
    _kernel("ro", "mount read-only", "rw"),
    _kernel("rw", "mount read-write", "ro"),
    _kernel("suid", "obey set-user-id bits (root only)", "nosuid"),
    _kernel("nosuid", "ignore set-user-id bits (always, unless suid)", "suid"),
    _kernel("dev", "obey device files (root only)", "nodev"),
    _kernel("nodev", "ignore device files (always, unless dev)", "dev"),
    _kernel("exec", "let programs be run", "noexec"),
    _kernel("noexec", "let no program be run", "exec"),
    _kernel("atime", "keep access times", "noatime"),
    _kernel("noatime", "do not keep access times", "atime"),
    _kernel("sync", "all changes are synchronous"),
    _kernel("dirsync", "changes of directories are synchronous"),
    Option("max_read", Kind.INTEGER, Destination.KERNEL, Group.KERNEL, "largest read request",
           "BYTES", bounds=(4096, 1 << 20)),
    _kernel("auto_unmount", "unmount when pysshfs dies"),
)


def _ssh(name: str, kind: Kind, text: str, metavar: str = "", **more: Any) -> Option:
    """Make a keyword of ssh_config(5)."""
    if kind is Kind.YESNO:
        metavar = "yes|no"
    return Option(name, kind, Destination.SSH, Group.SSH, text, metavar, **more)


_COUNT = (0, 1_000_000)
_SSH = (
    _ssh("Port", Kind.INTEGER, "port of the server", "PORT", bounds=(1, 65535)),
    _ssh("User", Kind.STRING, "user to log in as", "NAME"),
    _ssh("HostName", Kind.STRING, "real name or address of the server", "HOST"),
    _ssh("AddressFamily", Kind.CHOICE, "kind of address to use", "FAMILY",
         choices=("any", "inet", "inet6")),
    _ssh("BindAddress", Kind.STRING, "local address to connect from", "ADDRESS"),
    _ssh("ProxyJump", Kind.STRING, "hosts to connect through", "HOSTS"),
    _ssh("ProxyCommand", Kind.STRING, "command that makes the connection", "COMMAND"),
    _ssh("ConnectTimeout", Kind.DURATION, "how long connecting may take", "TIME"),
    _ssh("ConnectionAttempts", Kind.INTEGER, "how often to try", "N", bounds=(1, 1_000_000)),
    _ssh("ServerAliveInterval", Kind.DURATION, "silence before the server is probed", "TIME"),
    _ssh("ServerAliveCountMax", Kind.INTEGER, "unanswered probes that end it", "N", bounds=_COUNT),
    _ssh("TCPKeepAlive", Kind.YESNO, "probe with TCP too"),
    _ssh("IdentityFile", Kind.PATH, "private key", "FILE", repeats=True),
    _ssh("CertificateFile", Kind.PATH, "certificate of a key", "FILE", repeats=True),
    _ssh("IdentitiesOnly", Kind.YESNO, "offer only the configured keys"),
    _ssh("IdentityAgent", Kind.STRING, "socket of the agent, or 'none'", "SOCKET"),
    _ssh("PKCS11Provider", Kind.STRING, "library of the smart card, or 'none'", "FILE"),
    _ssh("PreferredAuthentications", Kind.STRING, "order of the ways to log in", "LIST"),
    _ssh("PubkeyAuthentication", Kind.CHOICE, "log in with keys", "yes|no",
         choices=("yes", "no", "unbound", "host-bound")),
    _ssh("PasswordAuthentication", Kind.YESNO, "log in with a password"),
    _ssh("KbdInteractiveAuthentication", Kind.YESNO, "log in with questions and answers"),
    _ssh("ChallengeResponseAuthentication", Kind.YESNO, "old KbdInteractiveAuthentication"),
    _ssh("GSSAPIAuthentication", Kind.YESNO, "log in with Kerberos"),
    _ssh("HostbasedAuthentication", Kind.YESNO, "log in with the key of this host"),
    _ssh("NumberOfPasswordPrompts", Kind.INTEGER, "how often to ask", "N", bounds=_COUNT),
    _ssh("BatchMode", Kind.YESNO, "never ask anything"),
    _ssh("StrictHostKeyChecking", Kind.CHOICE, "what to do with unknown host keys", "yes|no|...",
         choices=("yes", "no", "ask", "accept-new", "off")),
    _ssh("UserKnownHostsFile", Kind.STRING, "known host keys of the user", "FILES"),
    _ssh("GlobalKnownHostsFile", Kind.STRING, "known host keys of the system", "FILES"),
    _ssh("HostKeyAlias", Kind.STRING, "name to look the host key up by", "NAME"),
    _ssh("HostKeyAlgorithms", Kind.STRING, "accepted kinds of host key", "LIST"),
    _ssh("CheckHostIP", Kind.YESNO, "check the host key by address too"),
    _ssh("HashKnownHosts", Kind.YESNO, "hide names in the known hosts file"),
    _ssh("UpdateHostKeys", Kind.CHOICE, "learn new host keys", "yes|no|ask",
         choices=("yes", "no", "ask")),
    _ssh("VisualHostKey", Kind.YESNO, "show the host key as a picture"),
    _ssh("Ciphers", Kind.STRING, "ciphers, in order", "LIST"),
    _ssh("MACs", Kind.STRING, "integrity codes, in order", "LIST"),
    _ssh("KexAlgorithms", Kind.STRING, "key exchanges, in order", "LIST"),
    _ssh("RekeyLimit", Kind.STRING, "when to change the keys", "LIMIT"),
    _ssh("Compression", Kind.YESNO, "compress what is sent"),
    _ssh("CanonicalizeHostname", Kind.CHOICE, "complete short host names", "yes|no|always",
         choices=("yes", "no", "always")),
    _ssh("ForwardAgent", Kind.STRING, "lend the agent to the server", "yes|no|SOCKET"),
    _ssh("SendEnv", Kind.STRING, "environment variables to send", "NAMES", repeats=True),
    _ssh("SetEnv", Kind.STRING, "environment variables to set", "NAME=VALUE", repeats=True),
    _ssh("LogLevel", Kind.CHOICE, "how much SSH logs", "LEVEL", choices=(
        "QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3")),
)

_DROPPED = tuple(
    Option(name, kind, Destination.DROPPED, group, why,
           cancels=("sync",) if name == "async" else ())
    for kind, group, why, names in (
        (Kind.FLAG, Group.COMPATIBILITY, "for mount(8), which has acted on it already",
         "defaults auto noauto users nouser nousers owner noowner group nogroup nofail _netdev"
         " async"),
        (Kind.ANY, Group.COMPATIBILITY, "for mount(8), which has acted on it already",
         "user x-* X-* comment helper uhelper"),
        (Kind.FLAG, Group.COMPATIBILITY, "access times are the server's business",
         "relatime norelatime strictatime nostrictatime lazytime nolazytime diratime nodiratime"),
        (Kind.FLAG, Group.COMPATIBILITY, "has no effect on this filesystem",
         "silent loud mand nomand iversion noiversion symfollow"),
        (Kind.FLAG, Group.COMPATIBILITY, "has no effect in this version of FUSE",
         "nonempty intr large_read hard_remove"),
        (Kind.STRING, Group.COMPATIBILITY, "the cache needs no periodic cleaning",
         "dcache_clean_interval dcache_min_clean_interval cache_clean_interval"),
        (Kind.FLAG, Group.COMPATIBILITY, "not needed here", "sync_readdir no_check_root"),
        (Kind.STRING, Group.COMPATIBILITY, "not needed here", "workaround ssh_protocol"),
        (Kind.STRING, Group.SSH, "connections are not shared with ssh",
         "ControlMaster ControlPath ControlPersist"),
    )
    for name in names.split()
)

_REFUSED = tuple(
    Option(name, Kind.ANY, Destination.REFUSED, group, why)
    for names, group, why in (
        ("fd rootmode user_id group_id", Group.COMPATIBILITY,
         "it is filled in by the mount helper, never by hand"),
        ("blkdev blksize", Group.COMPATIBILITY,
         "it is for block-device filesystems (fuseblk); a network filesystem has no block device"),
        ("ssh_command", Group.COMPATIBILITY,
         "pysshfs speaks SSH itself; use ProxyCommand, ProxyJump or IdentityFile instead"),
        ("passive slave directport", Group.COMPATIBILITY,
         "pysshfs always connects through SSH itself"),
        ("remount", Group.COMPATIBILITY, "a mount keeps the options that it was made with:"
         " unmount and mount again (ro and rw alone: mount -i -o remount,ro)"),
        ("nosymfollow", Group.COMPATIBILITY, "the programs that mount FUSE do not know it"),
        ("setuid drop_privileges", Group.COMPATIBILITY,
         "it is for mount(8) and its helper: mount -t fuse.pysshfs"),
        ("delay_connect",
         Group.COMPATIBILITY, "this option of sshfs is not supported"),
        ("KnownHostsCommand", Group.SSH,
         "host keys are only read from files; use UserKnownHostsFile or GlobalKnownHostsFile"),
    )
    for name in names.split()
)
# fmt: on

OPTIONS: tuple[Option, ...] = _OURS + _KERNEL + _SSH + _DROPPED + _REFUSED

SHORT_OPTIONS: tuple[ShortOption, ...] = (
    ShortOption("h", "help", "", "print this help and exit"),
    ShortOption("V", "version", "", "print the version and exit"),
    ShortOption("f", "", "", "stay in the foreground"),
    ShortOption("d", "debug", "", "log everything; implies -f", ("debug", None)),
    ShortOption("p", "", "PORT", "same as -o Port=PORT", ("Port", None)),
    ShortOption("C", "", "", "same as -o Compression=yes", ("Compression", "yes")),
    ShortOption("F", "", "FILE", "read this SSH configuration file instead of the usual ones"),
    ShortOption("", "if-not-mounted", "", "same as -o if_not_mounted", ("if_not_mounted", None)),
    ShortOption("o", "", "OPT[,OPT...]", "options as below; '\\,' is a comma in a value"),
)

# Every name to its option and, for a shorthand, the value that it stands for.
_BY_NAME: dict[str, tuple[Option, str | None]] = {}
for _option in OPTIONS:
    _BY_NAME.update({name: (_option, None) for name in (_option.name, *_option.aliases)})
    _BY_NAME.update({name: (_option, value) for name, value in _option.shorthands})
_SSH_BY_LOWER_NAME = {o.name.lower(): o for o in OPTIONS if o.group is Group.SSH}


def find_option(name: str) -> tuple[Option, str | None] | None:
    """Find an option by a name it has on the command line; None if there is none.

    The text in the result is the value that a shorthand such as no_readahead stands for.  Exact
    names go first: mount(8)'s `user` is not ssh's `User`, though ssh keywords match in any case.
    """
    if found := _BY_NAME.get(name):
        return found
    if name[:2] in ("x-", "X-"):
        return _BY_NAME[f"{name[:2]}*"]
    if keyword := _SSH_BY_LOWER_NAME.get(name.lower()):
        return keyword, None
    return None


def known_names() -> list[str]:
    """Return every name that is of use on the command line, for suggestions."""
    return [
        name
        for name, (option, _) in _BY_NAME.items()
        if option.destination is not Destination.REFUSED and not name.endswith("*")
    ]
