"""What ssh's configuration and the options of the command line say for a host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pysshfs.errors import StartupError
from pysshfs.remote.route import Hop, parse_jumps
from pysshfs.remote.sshconfig import HostConfig, SshConfiguration


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without any configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def options(*pairs: str, host: str = "far") -> HostConfig:
    """What -o options alone say."""
    split = [(name, value) for name, _, value in (pair.partition("=") for pair in pairs)]
    return SshConfiguration(split, "none").for_host(host, None, None)


def file(home: Path, text: str, *pairs: str, host: str = "far") -> HostConfig:
    """What ~/.ssh/config says, after -o options."""
    (home / ".ssh" / "config").write_text(text)
    split = [(name, value) for name, _, value in (pair.partition("=") for pair in pairs)]
    return SshConfiguration(split, None).for_host(host, None, None)


def test_the_defaults() -> None:
    config = options()
    assert config.strict_host_key_checking == "ask"
    assert not config.hash_known_hosts and not config.batch_mode and not config.identities_only
    assert (config.password_prompts, config.connection_attempts) == (3, 1)
    assert not config.has_ciphers and not config.has_keepalive and not config.has_connect_timeout
    assert not config.has_host_key_algorithms
    assert config.proxy_jump is config.proxy_command is config.host_key_alias is None
    assert config.identity_files is None
    assert config.address("far", None) == ("far", 22)
    home = Path(os.environ["HOME"])
    assert config.user_known_hosts == [
        home / ".ssh" / "known_hosts", home / ".ssh" / "known_hosts2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "meaning"),
    [("yes", "yes"), ("true", "yes"), ("ask", "ask"), ("accept-new", "accept-new"),
     ("no", "no"), ("off", "no"), ("false", "no"), ("YES", "yes")],
)  # fmt: skip
def test_strict_host_key_checking(home: Path, value: str, meaning: str) -> None:
    assert options(f"StrictHostKeyChecking={value}").strict_host_key_checking == meaning
    config = file(home, f"StrictHostKeyChecking {value}\n")
    assert config.strict_host_key_checking == meaning


def test_a_mistake_in_it_is_no_default(home: Path) -> None:
    config = file(home, "StrictHostKeyChecking maybe\n")
    with pytest.raises(StartupError, match="maybe"):
        _ = config.strict_host_key_checking


def test_the_first_value_counts_and_options_are_first(home: Path) -> None:
    text = "Host far\n NumberOfPasswordPrompts 5\nHost *\n NumberOfPasswordPrompts 7\n"
    assert file(home, text).password_prompts == 5
    assert file(home, text, host="near").password_prompts == 7
    assert file(home, text, "NumberOfPasswordPrompts=2").password_prompts == 2


def test_identity_files_add_up(home: Path) -> None:
    config = file(home, "IdentityFile /b\nIdentityFile /c\n", "IdentityFile=/a")
    assert config.identity_files == ["/a", "/b", "/c"]


@pytest.mark.parametrize("path", ["/with blank/key", "/with\\backslash", "/plain", "/pa#th"])
def test_a_path_of_an_option_is_taken_as_it_is(path: str) -> None:
    assert options(f"IdentityFile={path}").identity_files == [path]


def test_a_backslash_of_an_option_is_kept(home: Path) -> None:
    config = SshConfiguration([("HostKeyAlias", "a\\b")], "none").for_host("far", None, None)
    assert config.host_key_alias == "a\\b"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("90s", 90), ("1m", 60), ("1m30s", 90), ("1h", 3600), ("2D", 172800),
     ("1w", 604800), ("1m30", 90)],
)  # fmt: skip
@pytest.mark.parametrize("keyword", ["ServerAliveInterval", "ConnectTimeout"])
def test_times_become_seconds(keyword: str, text: str, seconds: int) -> None:
    config = options(f"{keyword}={text}")
    assert config._parsed.get(keyword) == seconds


@pytest.mark.parametrize("value", ["unbound", "host-bound", "yes"])
def test_public_key_authentication_is_on_in_all_its_forms(value: str) -> None:
    assert options(f"PubkeyAuthentication={value}")._parsed.get("PubkeyAuthentication") is True


def test_a_proxy_command_is_passed_on_with_its_quotes() -> None:
    command = "sh -c 'nc \"$0\" %p' %h | tee \\'x"
    config = options(f"ProxyCommand={command}", "HostName=real", "Port=7")
    assert config.proxy_command == "sh -c 'nc \"$0\" 7' real | tee \\'x"
    assert options("ProxyCommand=none").proxy_command is None


def test_tokens_know_the_address(home: Path) -> None:
    text = "Host far\n HostName 10.0.0.7\n Port 2222\n ProxyCommand nc %h %p %n\n"
    assert file(home, text).proxy_command == "nc 10.0.0.7 2222 far"
    assert file(home, text).address("far", None) == ("10.0.0.7", 2222)
    assert file(home, text).address("far", 7) == ("10.0.0.7", 7)


def test_no_known_hosts_file_is_an_empty_list() -> None:
    assert options("UserKnownHostsFile=none").user_known_hosts == []
    config = options("UserKnownHostsFile=~/one /two")
    assert config.user_known_hosts == [Path(os.environ["HOME"]) / "one", Path("/two")]


def test_match_blocks(home: Path) -> None:
    text = (
        "Match host far user someone\n BatchMode yes\n"
        "Match host near\n HashKnownHosts yes\n"
        "Match all\n ConnectionAttempts 4\n"
    )
    (home / ".ssh" / "config").write_text(text)
    configuration = SshConfiguration([], None)
    assert configuration.for_host("far", "someone", None).batch_mode
    assert not configuration.for_host("far", "other", None).batch_mode
    near = configuration.for_host("near", None, None)
    assert near.hash_known_hosts and near.connection_attempts == 4


def test_the_home_directory_is_the_environments(home: Path) -> None:
    assert file(home, "BatchMode yes\n").batch_mode


def test_a_named_file_alone_is_read(home: Path, tmp_path: Path) -> None:
    (home / ".ssh" / "config").write_text("BatchMode yes\n")
    named = tmp_path / "named"
    named.write_text("HashKnownHosts yes\n")
    config = SshConfiguration([], str(named)).for_host("far", None, None)
    assert config.hash_known_hosts and not config.batch_mode
    for none in ("none", "NONE"):
        assert not SshConfiguration([], none).for_host("far", None, None).batch_mode
    with pytest.raises(StartupError, match="nonexistent"):
        SshConfiguration([], "/nonexistent")


@pytest.mark.parametrize(
    "text", [b"Port many\n", b"Host 'far\n", b"BatchMode perhaps\n", b"\xff\n", b"Port\n"]
)
def test_a_file_that_cannot_be_parsed(home: Path, text: bytes) -> None:
    (home / ".ssh" / "config").write_bytes(text)
    with pytest.raises(StartupError, match="ssh configuration"):
        SshConfiguration([], None).for_host("far", None, None)


def test_options_cannot_be_read_from_the_file_system() -> None:
    configuration = SshConfiguration([("User", "someone")], "none")
    (path,) = configuration.paths
    assert os.readlink(path).startswith("/memfd:")


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        (None, []),
        ("none", []),
        ("gate", [Hop("gate", None, None)]),
        ("me@gate:2222", [Hop("gate", "me", 2222)]),
        ("a, b@c ,[::1]:22", [Hop("a", None, None), Hop("c", "b", None), Hop("::1", None, 22)]),
        ("me@corp@gate", [Hop("gate", "me@corp", None)]),
        ("ssh://me@gate:22", [Hop("gate", "me", 22)]),
    ],
)
def test_jumps(text: str | None, hops: list[Hop]) -> None:
    assert parse_jumps(text) == hops


@pytest.mark.parametrize(
    "text",
    [
        "gate:port", "@", ":22", "-oProxyCommand=x", "me@-x", "a;b@gate", "gate$(x)", "[-x]:22",
        "me@ga te", "`x`",
    ],
)  # fmt: skip
def test_what_is_no_jump(text: str) -> None:
    with pytest.raises(StartupError, match="ProxyJump"):
        parse_jumps(text)


@pytest.mark.parametrize(
    ("text", "pairs", "host", "said"),
    [
        ("Host *\n HostName $(x)\n", (), "far", "HostName"),
        ("Host *\n HostName %h;x\n", (), "far", "HostName"),
        ("Host *\n HostName -oProxyCommand=x\n", (), "far", "HostName"),
        ("Host *\n User a;b\n", (), "far", "User"),
        ("Host *\n User -l\n", (), "far", "User"),
        ("", ("User=$(x)",), "far", "User"),
        ("", ("HostName=`x`",), "far", "HostName"),
        ("", (), "-far", "host"),
        ("", (), "fa r", "host"),
        ("Host *\n HostName real\n", (), "a|b", "host"),
    ],
)
def test_no_name_reaches_the_shell_of_a_proxy_command(
    home: Path, text: str, pairs: tuple[str, ...], host: str, said: str
) -> None:
    with pytest.raises(StartupError, match=rf"ProxyCommand: {said} .*a shell would act on it"):
        file(home, text, *pairs, "ProxyCommand=nc %h %p %n %r", host=host)
    # Without one they are names, if odd ones: no other program gets to see them.
    assert file(home, text, *pairs, host=host).proxy_command is None


def test_a_user_of_a_domain_is_no_shells_word(home: Path) -> None:
    text = "Host *\n User DOM\\\\me\n ProxyCommand nc %h %r ${HOME}\n"
    assert file(home, text, host="fe80::1").proxy_command == f"nc fe80::1 DOM\\me {home}"


def test_keepalive_and_certificates(home: Path) -> None:
    config = options("ServerAliveInterval=1m", "CertificateFile=/keys/one")
    assert config.has_keepalive and config.keepalive == (60, 3)
    assert config.certificate_files == ["/keys/one"]
    config = file(home, "ServerAliveInterval 0\nServerAliveCountMax 7\n")
    assert config.keepalive == (0, 7) and config.certificate_files is None
