"""The command line: where options may stand, what their values may be, and what is refused."""

import pytest

from pysshfs.cli.options import OPTIONS
from pysshfs.cli.optiontypes import Destination, Kind, Option
from pysshfs.cli.parser import Action, Invocation, kernel_options, parse_argv, split_options
from pysshfs.cli.usage import UsageError


def mount(*options: str) -> Invocation:
    """Parse a complete command line with these -o lists."""
    words = [word for option in options for word in ("-o", option)]
    return parse_argv(["host:/dir", "/mnt", *words])


def refusal(*argv: str) -> str:
    """Return the message with which a command line is refused."""
    with pytest.raises(UsageError) as caught:
        parse_argv(argv)
    assert "\n" not in caught.value.message
    return caught.value.message


def option_refusal(option: str) -> str:
    return refusal("host:", "/mnt", "-o", option)


class TestWords:
    @pytest.mark.parametrize(
        "argv",
        [
            ["-f", "-o", "ro", "-p", "22", "host:/dir", "/mnt"],
            ["host:/dir", "-f", "-o", "ro", "/mnt", "-p", "22"],
            ["host:/dir", "/mnt", "-f", "-oro", "-p22"],
            ["host:/dir", "/mnt", "-fp22", "-o", "ro"],
            ["host:/dir", "-foro", "/mnt", "-oport=22"],
            ["-p", "22", "-fo", "ro", "--", "host:/dir", "/mnt"],
        ],
    )
    def test_order_and_spelling_do_not_matter(self, argv: list[str]) -> None:
        found = parse_argv(argv)
        assert found.action is Action.MOUNT
        assert found.source == (None, "host", b"/dir", "host:/dir")
        assert found.mountpoint == "/mnt"
        assert found.foreground
        assert not found.debug
        assert found.kernel_options == ["ro"]
        assert found.ssh_options == [("Port", "22")]

    def test_plain_command_line(self) -> None:
        found = parse_argv(["host:", "/mnt"])
        assert not found.foreground and not found.debug
        assert found.ssh_config_file is None
        assert found.kernel_options == [] and found.ssh_options == []

    def test_two_dashes_end_the_options(self) -> None:
        assert parse_argv(["host:", "--", "-f"]).mountpoint == "-f"
        assert parse_argv(["host:", "--", "--"]).mountpoint == "--"
        assert not parse_argv(["host:", "--", "-f"]).foreground

    def test_short_options(self) -> None:
        found = parse_argv(["-C", "-F", "/my conf", "host:", "/mnt"])
        assert found.ssh_options == [("Compression", "yes")]
        assert found.ssh_config_file == "/my conf"

    @pytest.mark.parametrize("words", [["-d"], ["--debug"], ["-o", "debug"]])
    def test_debug_implies_foreground(self, words: list[str]) -> None:
        found = parse_argv([*words, "host:", "/mnt"])
        assert found.debug and found.foreground
        assert found.settings.log_level == "debug"

    @pytest.mark.parametrize("word", ["-h", "--help"])
    def test_help(self, word: str) -> None:
        assert parse_argv([word]).action is Action.HELP
        assert parse_argv(["host:", word, "--nonsense"]).action is Action.HELP

    @pytest.mark.parametrize("word", ["-V", "--version", "-fV"])
    def test_version(self, word: str) -> None:
        assert parse_argv([word]).action is Action.VERSION

    def test_argument_count(self) -> None:
        assert "are missing" in refusal()
        assert "mount point is missing after 'host:'" in refusal("host:")
        assert "too many: 'extra'" in refusal("host:", "/mnt", "extra")
        assert "mount point" in refusal("host:", "")

    def test_wrong_words(self) -> None:
        assert "'-x'" in refusal("-x", "host:", "/mnt")
        assert "'-x' in '-fx'" in refusal("-fx", "host:", "/mnt")
        assert "'--verbose'" in refusal("--verbose")
        assert "did you mean '--version'" in refusal("--versoin")
        assert "did you mean '-o readahead=4M'" in refusal("--readahead=4M")
        assert "'--help' takes no value" in refusal("--help=x")
        assert "'-o' needs a value" in refusal("host:", "/mnt", "-o")
        assert "'-p' needs a value" in refusal("host:", "/mnt", "-p")
        assert "'-F' needs a value" in refusal("host:", "/mnt", "-F", "")
        assert "'-p': '0' is not a whole number from 1 to 65535" in refusal("-p0", "h:", "/m")


class TestLists:
    @pytest.mark.parametrize(
        ("text", "items"),
        [
            ("a,b", ["a", "b"]),
            ("a\\,b,c", ["a,b", "c"]),
            ("a\\\\,b", ["a\\", "b"]),
            ("a\\\\\\,b", ["a\\,b"]),
            ("a\\b\\", ["a\\b\\"]),
            (",a,,b,", ["a", "b"]),
            ("", []),
        ],
    )
    def test_split(self, text: str, items: list[str]) -> None:
        assert split_options(text) == items

    def test_lists_add_up(self) -> None:
        found = mount("ro,uid=5", "gid=6")
        assert (found.settings.uid, found.settings.gid) == (5, 6)
        assert found.kernel_options == ["ro"]

    def test_values_keep_spaces_commas_and_equal_signs(self) -> None:
        found = mount("IdentityFile=/a b", r"ProxyCommand=x -o a=b\,c %h")
        assert found.ssh_options == [
            ("IdentityFile", "/a b"),
            ("ProxyCommand", "x -o a=b,c %h"),
        ]

    def test_the_last_wins(self) -> None:
        assert mount("uid=1,uid=2").settings.uid == 2
        assert mount("no_readahead,readahead=4M").settings.readahead == 4 << 20
        assert mount("readahead=4M", "no_readahead").settings.readahead == 0
        assert mount("max_read=4096,max_read=8192").kernel_options == ["max_read=8192"]
        assert mount("ro,noatime,rw").kernel_options == ["noatime", "rw"]
        assert mount("sync,async").kernel_options == []

    def test_the_last_ssh_keyword_wins_unless_it_adds_up(self) -> None:
        found = parse_argv(
            ["-p1", "h:", "/m", "-o", "User=a,port=2,IdentityFile=/a,USER=b,identityfile=/b"]
        )
        assert found.ssh_options == [
            ("Port", "2"),
            ("IdentityFile", "/a"),
            ("User", "b"),
            ("IdentityFile", "/b"),
        ]


class TestOurValues:
    def test_aliases(self) -> None:
        settings = mount("cache=no,cache_timeout=5,cache_stat_timeout=6,cache_max_size=7").settings
        assert not settings.dir_cache
        assert settings.dcache_timeout == 5 and settings.dcache_stat_timeout == 6
        assert settings.dcache_link_timeout == 5 and settings.dcache_dir_timeout == 5
        assert settings.dcache_max_size == 7

    def test_flags_and_their_opposites(self) -> None:
        settings = mount("auto_cache,direct_io,kernel_cache,sshfs_sync,reconnect").settings
        assert settings.auto_cache and settings.direct_io and settings.kernel_cache
        assert settings.sshfs_sync and settings.reconnect
        assert not mount("auto_cache,noauto_cache").settings.auto_cache

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("0", 0),
            ("4096", 4096),
            ("64k", 65536),
            ("64K", 65536),
            ("2M", 2 << 20),
            ("1g", 1 << 30),
        ],
    )
    def test_sizes(self, text: str, size: int) -> None:
        assert mount(f"readahead={text}").settings.readahead == size

    @pytest.mark.parametrize(("text", "time"), [("0", 0.0), ("1.5", 1.5), (".5", 0.5), ("3", 3.0)])
    def test_times(self, text: str, time: float) -> None:
        value = mount(f"entry_timeout={text}").settings.entry_timeout
        assert value == time and isinstance(value, float)

    def test_other_kinds(self) -> None:
        settings = mount("umask=022,dmask=7,idmap=user,log_file=/a b,fsname=x,subtype=y").settings
        assert (settings.umask, settings.dmask, settings.fmask) == (0o22, 7, None)
        assert (settings.idmap, settings.log_file) == ("user", "/a b")
        assert (settings.fsname, settings.subtype) == ("x", "y")
        settings = mount("idmap=file,uidfile=/u,nomap=ignore").settings
        assert (settings.idmap, settings.uidfile, settings.gidfile) == ("file", "/u", None)
        assert settings.nomap == "ignore"
        assert mount("gidfile=/g,idmap=file").settings.nomap == "error"

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("uid=x", "option 'uid': 'x' is not a whole number from 0 to 4294967294"),
            ("uid=-1", "'-1' is not"),
            ("uid=1_0", "'1_0' is not"),
            ("uid=+1", "'+1' is not"),
            ("uid=\u0663", "is not a whole number"),
            ("uid=4294967295", "is not a whole number"),
            ("uid=" + "9" * 5000, "is not a whole number"),
            ("max_background=0", "from 1 to 65535"),
            ("max_background=65536", "from 1 to 65535"),
            ("dcache_timeout=nan", "'nan' is not a number of seconds from 0"),
            ("dcache_timeout=inf", "'inf' is not"),
            ("dcache_timeout=1e3", "'1e3' is not"),
            ("dcache_timeout=.", "'.' is not"),
            ("dcache_timeout=-1", "'-1' is not"),
            ("dcache_timeout=1000000001", "from 0 to 1000000000"),
            ("readahead=1T", "'1T' is not a number of bytes from 0 to 1G"),
            ("readahead=k", "'k' is not"),
            ("readahead=2G", "from 0 to 1G"),
            ("User=-l", "the name may not begin with '-'"),
            ("user@x=y", "unknown option"),
            ("User=a;b", "the name may not contain ';'"),
            ("HostName=-oProxyCommand=x", "the name may not begin with '-'"),
            ("HostName=$(x)", "the name may not contain '$'"),
            ("umask=8", "'8' is not an octal mode from 0 to 777"),
            ("umask=1000", "from 0 to 777"),
            ("idmap=all", "one of none, user, file, name"),
            ("idmap=file", "'idmap=file' needs a file: 'uidfile', 'gidfile' or both"),
            ("idmap=file,nomap=maybe", "one of error, ignore"),
            ("log_level=loud", "one of error, warning, info, debug"),
            ("dir_cache=maybe", "'maybe' is not 'yes' or 'no'"),
            ("dir_cache", "'dir_cache' needs a value: 'yes' or 'no'"),
            ("uid", "'uid' needs a value: a whole number"),
            ("uid=", "'uid' needs a value"),
            ("direct_io=yes", "option 'direct_io' takes no value, but was given 'yes'"),
            ("direct_io=", "takes no value, but was given ''"),
            ("no_readahead=1", "option 'no_readahead' takes no value"),
            ("noauto_cache=1", "option 'noauto_cache' takes no value"),
            ("cache=x", "option 'cache': 'x'"),
            ("=5", "without a name"),
            ("fsname=a\nb", "option 'fsname': the value 'a\\nb' contains a line break"),
            ("User=a\0b", "contains a line break or a NUL"),
            ("x-a=b\nc", "contains a line break"),
            ("IdentityFile=a\rb", "contains a line break"),
        ],
    )
    def test_refused_values(self, option: str, message: str) -> None:
        assert message in option_refusal(option)


class TestWhenTheServerDoesNotAnswer:
    """The options that say what a lost or silent connection means to programs."""

    def test_what_holds_without_any(self) -> None:
        settings = mount().settings
        assert (settings.timeout, settings.others_timeout, settings.interrupt_grace) == (0, 60, 2)
        assert settings.reconnect
        assert not settings.strict_ambiguity and not settings.fsync_on_close
        assert not settings.async_ops and not mount("async").settings.async_ops
        assert settings.undelivered_quota == 1 << 30

    @pytest.mark.parametrize(
        ("options", "timeout"),
        [
            ("hard", 0.0),
            ("soft", 30.0),
            ("timeout=0", 0.0),
            ("timeout=2.5", 2.5),
            ("timeout=30", 30.0),
            ("soft,timeout=7", 7.0),
            ("timeout=7,soft", 7.0),
            ("soft,timeout=7,soft", 7.0),
            ("hard,timeout=0", 0.0),
            ("timeout=0,hard", 0.0),
            ("timeout=7,timeout=0,hard", 0.0),  # the last of one option's values is its value
            ("timeout=7,timeout=9", 9.0),
            ("soft,soft", 30.0),
        ],
    )
    def test_hard_soft_and_timeout_come_to_one_time(self, options: str, timeout: float) -> None:
        found = mount(options).settings.timeout
        assert found == timeout and isinstance(found, float)
        assert mount(*options.split(",")).settings.timeout == timeout

    @pytest.mark.parametrize(
        ("options", "first", "second"),
        [
            ("hard,soft", "hard", "soft"),
            ("soft,hard", "hard", "soft"),
            ("hard,timeout=5", "hard", "timeout=5"),
            ("timeout=0.5,hard", "hard", "timeout=0.5"),
            ("hard,timeout=30", "hard", "timeout=30"),
            ("hard,timeout=0,soft", "hard", "soft"),
            ("soft,timeout=0", "soft", "timeout=0"),
        ],
    )
    def test_contradictions_are_refused(self, options: str, first: str, second: str) -> None:
        expected = f"options '{first}' and '{second}' contradict each other"
        assert option_refusal(options) == expected
        assert refusal("h:", "/m", *(f"-o{word}" for word in options.split(","))) == expected

    def test_times_flags_and_quota(self) -> None:
        settings = mount(
            "interrupt_grace=.5,others_timeout=0,strict_ambiguity,fsync_on_close,async_ops,"
            "undelivered_quota=64M"
        ).settings
        assert (settings.interrupt_grace, settings.others_timeout) == (0.5, 0.0)
        assert settings.strict_ambiguity and settings.fsync_on_close and settings.async_ops
        assert settings.undelivered_quota == 64 << 20
        assert mount("undelivered_quota=0").settings.undelivered_quota == 0

    def test_reconnect_and_its_opposite(self) -> None:
        assert mount("reconnect").settings.reconnect
        assert not mount("no_reconnect").settings.reconnect
        assert mount("no_reconnect,reconnect").settings.reconnect
        assert not mount("reconnect,no_reconnect").settings.reconnect

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            *(
                (f"{name}={value}", f"option '{name}': '{value}' is not a number of seconds")
                for name in ("timeout", "others_timeout", "interrupt_grace")
                for value in ("-1", "soon", "1000000001", "9" * 400, "5s", "inf")
            ),
            *(
                (f"undelivered_quota={value}", f"'{value}' is not a number of bytes from 0 to 1")
                for value in ("-1", "much", "1025G", "9" * 400, "1T", "1.5G")
            ),
            ("timeout", "option 'timeout' needs a value: a number of seconds"),
            ("others_timeout=", "option 'others_timeout' needs a value"),
            ("undelivered_quota", "option 'undelivered_quota' needs a value"),
            *(
                (f"{name}=1", f"option '{name}' takes no value, but was given '1'")
                for name in (
                    *("hard", "soft", "reconnect", "no_reconnect"),
                    *("strict_ambiguity", "fsync_on_close"),
                )
            ),
            ("sofft", "did you mean 'soft'?"),
            ("noreconnect", "did you mean 'no_reconnect'?"),
        ],
    )
    def test_refused_values(self, option: str, message: str) -> None:
        assert message in option_refusal(option)


class TestWhatTheServerMayMakeOfItsTree:
    def test_what_holds_without_any(self) -> None:
        settings = mount().settings
        assert settings.max_dir_entries == 1_000_000
        assert settings.max_dir_bytes == 256 << 20
        assert settings.max_dir_time == 600
        assert settings.max_depth == 200
        assert not settings.hide_special

    def test_others(self) -> None:
        settings = mount(
            "max_dir_entries=5,max_dir_bytes=64k,max_dir_time=0,max_depth=1,hide_special"
        ).settings
        assert (settings.max_dir_entries, settings.max_dir_bytes) == (5, 65536)
        assert (settings.max_dir_time, settings.max_depth) == (0, 1)
        assert settings.hide_special

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            *((f"max_dir_entries={v}", "whole number") for v in ("0", "-1", "1.5", "many", "1k")),
            *((f"max_dir_bytes={v}", "number of bytes") for v in ("0", "1023", "-1", "2T", "x")),
            *((f"max_dir_time={v}", "number of seconds") for v in ("-1", "soon", "1m")),
            *((f"max_depth={v}", "whole number") for v in ("0", "-1", "2049", "deep")),
            ("max_depth", "option 'max_depth' needs a value"),
            ("hide_special=1", "option 'hide_special' takes no value"),
        ],
    )
    def test_refused_values(self, option: str, message: str) -> None:
        assert message in option_refusal(option)


class TestSshValues:
    @pytest.mark.parametrize(
        ("option", "pair"),
        [
            ("port=22", ("Port", "22")),
            ("PORT=022", ("Port", "22")),
            ("User=me", ("User", "me")),
            ("compression=TRUE", ("Compression", "yes")),
            ("batchmode=no", ("BatchMode", "no")),
            ("stricthostkeychecking=Accept-New", ("StrictHostKeyChecking", "accept-new")),
            ("serveraliveinterval=15", ("ServerAliveInterval", "15")),
            ("ConnectTimeout=1m30", ("ConnectTimeout", "1m30")),
            ("loglevel=debug", ("LogLevel", "DEBUG")),
            ("HostKeyAlgorithms=+ssh-rsa", ("HostKeyAlgorithms", "+ssh-rsa")),
        ],
    )
    def test_keyword_is_canonical(self, option: str, pair: tuple[str, str]) -> None:
        assert mount(option).ssh_options == [pair]

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("Port=65536", "option 'Port': '65536' is not a whole number from 1 to 65535"),
            ("port=ssh", "option 'port': 'ssh'"),
            ("User", "option 'User' needs a value"),
            ("User=", "option 'User' needs a value"),
            ("Compression=9", "'9' is not 'yes' or 'no'"),
            ("ServerAliveInterval=m", "'m' is not a time such as"),
            ("ServerAliveInterval=5x", "'5x' is not a time such as"),
            ("ServerAliveInterval=1mm", "'1mm' is not a time such as"),
            ("AddressFamily=ipv4", "one of any, inet, inet6"),
            ("knownhostscommand=x", "not supported: host keys are only read from files"),
        ],
    )
    def test_refused(self, option: str, message: str) -> None:
        assert message in option_refusal(option)


class TestDroppedAndRefused:
    @pytest.mark.parametrize(
        "option",
        [
            "defaults,auto,noauto,users,nouser,owner,group,nofail,_netdev,async,relatime",
            "user",
            "user=alice",
            "comment=,comment=x,x-systemd.automount,x-systemd.idle-timeout=60,X-mount.mkdir",
            "nonempty,intr,large_read,hard_remove,sync_readdir,no_check_root,nodiratime",
            "dcache_clean_interval=5,cache_clean_interval=6,workaround=rename,ssh_protocol=2",
            "ControlMaster=auto,controlpath=/x,ControlPersist=yes",
        ],
    )
    def test_dropped_without_effect(self, option: str) -> None:
        assert mount(option) == mount()

    @pytest.mark.parametrize(
        "option", [option for option in OPTIONS if option.destination is Destination.REFUSED]
    )
    def test_refused_with_or_without_a_value(self, option: Option) -> None:
        name, reason = option.name, option.help
        expected = f"option '{name}' is not supported: {reason}"
        assert option_refusal(name) == expected
        assert option_refusal(f"{name}=7") == expected

    @pytest.mark.parametrize(
        ("option", "meant"),
        [
            ("dcache_timout=3", "unknown option 'dcache_timout': did you mean 'dcache_timeout'?"),
            ("RO", "did you mean 'ro'?"),
            ("identifyfile=x", "did you mean 'IdentityFile'?"),
            ("alow_other", "did you mean 'allow_other'?"),
        ],
    )
    def test_unknown_with_a_suggestion(self, option: str, meant: str) -> None:
        assert meant in option_refusal(option)

    def test_unknown_without_a_suggestion(self) -> None:
        assert option_refusal("qqqq=1") == "unknown option 'qqqq'"
        assert "unknown option 'foreground'" in option_refusal("foreground")


class TestKernelOptions:
    def test_every_flag_is_passed_on_under_its_name(self) -> None:
        for option in OPTIONS:
            if option.destination is Destination.KERNEL and option.kind is Kind.FLAG:
                assert mount(option.name).kernel_options == [option.name]

    def test_order_is_that_of_the_command_line(self) -> None:
        assert mount("ro,max_read=65536", "allow_other").kernel_options == [
            "ro",
            "max_read=65536",
            "allow_other",
        ]

    @pytest.mark.parametrize("value", ["4095", "1048577", "64k", "x"])
    def test_max_read_is_bounded(self, value: str) -> None:
        message = f"option 'max_read': '{value}' is not a whole number from 4096 to 1048576"
        assert option_refusal(f"max_read={value}") == message

    def test_nosuid_and_nodev_are_always_there(self) -> None:
        assert kernel_options(mount("ro"), 1000) == ["nosuid", "nodev", "ro"]
        assert kernel_options(mount("ro"), 0) == ["nosuid", "nodev", "ro"]
        assert kernel_options(mount("nodev,nosuid"), 1000) == ["nodev", "nosuid"]

    def test_root_may_have_suid_and_dev(self) -> None:
        assert kernel_options(mount("suid"), 0) == ["nodev", "suid"]
        assert kernel_options(mount("dev,suid"), 0) == ["dev", "suid"]
        assert kernel_options(mount("suid,nosuid"), 0) == ["nodev", "nosuid"]

    @pytest.mark.parametrize("name", ["suid", "dev"])
    def test_others_may_not(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"'{name}' is for root only"):
            kernel_options(mount(f"no{name},{name}"), 1000)
        kernel_options(mount(f"{name},no{name}"), 1000)

    def test_invocation_is_left_alone(self) -> None:
        found = mount("ro")
        kernel_options(found, 1000)
        assert found.kernel_options == ["ro"]

    @pytest.mark.parametrize(
        ("options", "symlinks", "transform"),
        [
            ("", "contain", False),
            ("contain_symlinks", "strict", False),
            ("no_contain_symlinks", "all", False),
            ("follow_symlinks", "follow", False),
            ("transform_symlinks", "contain", True),
            ("transform_symlinks,no_contain_symlinks", "all", True),
            ("contain_symlinks,no_contain_symlinks", "all", False),
            ("no_contain_symlinks,contain_symlinks", "strict", False),
            ("follow_symlinks,no_contain_symlinks", "follow", False),
            ("contain_symlinks,follow_symlinks", "follow", False),
            ("follow_symlinks,symlinks=all", "all", False),
            ("symlinks=contain+system", "contain+system", False),
        ],
    )
    def test_links(self, options: str, symlinks: str, transform: bool) -> None:
        settings = mount(options).settings if options else mount().settings
        assert (settings.symlinks, settings.transform_symlinks) == (symlinks, transform)

    @pytest.mark.parametrize("other", ["allow_other", "allow_root"])
    def test_the_systems_own_programs_are_not_for_others(self, other: str) -> None:
        for options in (f"symlinks=contain+system,{other}", f"{other},symlinks=contain+system"):
            assert f"'symlinks=contain+system' and '{other}' exclude" in option_refusal(options)
        assert mount(f"symlinks=contain,{other}").settings.symlinks == "contain"

    def test_the_systems_own_programs_are_not_for_root(self) -> None:
        found = mount("symlinks=contain+system")
        assert "nosuid" in kernel_options(found, 1000)
        with pytest.raises(UsageError, match="not for mounts that root makes"):
            kernel_options(found, 0)

    def test_allow_other_and_allow_root_exclude_each_other(self) -> None:
        assert "exclude each other" in option_refusal("allow_other,allow_root")
