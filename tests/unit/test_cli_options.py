"""The registry: it agrees with Settings, it is consistent, and the help is made from it."""

import subprocess
import sys
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from pysshfs.cli.exitcodes import DESCRIPTIONS, ExitCode
from pysshfs.cli.help import WIDTH, allowed_text, default_text, help_text, version_text
from pysshfs.cli.options import OPTIONS, SHORT_OPTIONS, Settings, find_option, known_names
from pysshfs.cli.optiontypes import Destination, Group, Kind, Option
from pysshfs.cli.parser import parse_argv

OURS = [option for option in OPTIONS if option.destination is Destination.OURS]
BASE_TYPES = {
    Kind.FLAG: bool,
    Kind.YESNO: bool,
    Kind.INTEGER: int,
    Kind.SECONDS: float,
    Kind.SIZE: int,
    Kind.OCTAL: int,
    Kind.STRING: str,
    Kind.PATH: str,
}


def option_named(name: str) -> Option:
    found = find_option(name)
    assert found is not None, name
    return found[0]


def test_settings_has_exactly_the_options_of_ours() -> None:
    assert sorted(Settings._fields) == sorted(option.name for option in OURS)


@pytest.mark.parametrize("option", OURS, ids=lambda option: option.name)
def test_settings_default_and_type_agree(option: Option) -> None:
    default = getattr(Settings(), option.name)
    assert default == option.default
    assert type(default) is type(option.default)
    hint = get_type_hints(Settings)[option.name]
    if option.kind is Kind.CHOICE:
        assert get_origin(hint) is Literal
        assert get_args(hint) == option.choices
        assert default in option.choices
    elif option.default is None:
        assert hint == BASE_TYPES[option.kind] | None
    else:
        assert hint is BASE_TYPES[option.kind]


@pytest.mark.parametrize("option", OURS, ids=lambda option: option.name)
def test_parsed_value_has_the_type_of_settings(option: Option) -> None:
    samples = {
        Kind.FLAG: "",
        Kind.YESNO: "=no",
        Kind.OCTAL: "=22",
        Kind.STRING: "=text",
        Kind.PATH: "=/x",
        Kind.CHOICE: f"={option.choices[-1] if option.choices else ''}",
    }
    sample = samples.get(option.kind, f"={int(option.bounds[1])}")
    value = getattr(parse_argv(["h:", "/m", "-o", option.name + sample]).settings, option.name)
    assert type(value) is BASE_TYPES.get(option.kind, str)


def test_numeric_defaults_are_within_bounds() -> None:
    for option in OPTIONS:
        if option.kind in (Kind.INTEGER, Kind.SECONDS, Kind.SIZE, Kind.OCTAL):
            low, high = option.bounds
            assert low < high, option.name
            if option.default is not None:
                assert low <= float(option.default) <= high, option.name


def test_names_are_unique_in_any_spelling() -> None:
    names = [
        name
        for option in OPTIONS
        for name in (option.name, *option.aliases, *(short for short, _ in option.shorthands))
    ]
    assert len(names) == len(set(names))
    keywords = {option.name.lower() for option in OPTIONS if option.group is Group.SSH}
    others = {option.name for option in OPTIONS if option.group is not Group.SSH}
    assert keywords & others == {"user"}  # the one that mount(8) and ssh share


def test_every_option_is_described() -> None:
    for option in OPTIONS:
        assert option.help and "\n" not in option.help, option.name
        needs_metavar = option.destination in (
            Destination.OURS,
            Destination.KERNEL,
            Destination.SSH,
        )
        if needs_metavar:
            assert bool(option.metavar) == (option.kind is not Kind.FLAG), option.name
        assert bool(option.choices) == (option.kind is Kind.CHOICE), option.name
        for other in (*option.cancels, option.follows):
            assert not other or option_named(other).name == other


def test_ssh_destination_and_group_agree() -> None:
    for option in OPTIONS:
        if option.destination is Destination.SSH:
            assert option.group is Group.SSH
        if option.group is Group.SSH:
            assert option.destination not in (Destination.OURS, Destination.KERNEL)


def test_lookup() -> None:
    assert option_named("port").name == "Port"
    assert option_named("identityFILE").name == "IdentityFile"
    assert option_named("USER").destination is Destination.SSH
    assert option_named("user").destination is Destination.DROPPED
    assert option_named("cache_timeout").name == "dcache_timeout"
    assert option_named("x-systemd.automount").destination is Destination.DROPPED
    assert find_option("no_readahead") == (option_named("readahead"), "0")
    assert option_named("delay_connect").destination is Destination.REFUSED
    for unknown in ("", "RO", "Dcache_timeout", "foreground", "x"):
        assert find_option(unknown) is None


def test_known_names_are_for_suggestions() -> None:
    names = known_names()
    assert {"dcache_timeout", "cache", "no_readahead", "Port", "ro"} <= set(names)
    assert not {"fd", "x-*", "ssh_command"} & set(names)


def test_from_values_follows_dcache_timeout_and_debug() -> None:
    settings = Settings.from_values({"dcache_timeout": 3.0, "dcache_dir_timeout": 7.0})
    assert (settings.dcache_stat_timeout, settings.dcache_link_timeout) == (3.0, 3.0)
    assert settings.dcache_dir_timeout == 7.0
    assert Settings.from_values({}) == Settings()
    assert Settings.from_values({"debug": True}).log_level == "debug"
    assert Settings.from_values({"debug": True, "log_level": "error"}).log_level == "error"


def test_settings_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Settings().uid = 1  # type: ignore[misc]  # the assignment is what is tested


def test_help_lists_every_option_within_the_width() -> None:
    text = help_text()
    assert text.endswith("\n") and text.isascii()
    assert max(map(len, text.splitlines())) <= WIDTH == 80
    words = text.replace(",", " ").split()
    for option in OPTIONS:
        listed = {option.name, f"{option.name}={option.metavar}"} & set(words)
        assert bool(listed) == (option.destination is not Destination.REFUSED), option.name
    for short in SHORT_OPTIONS:
        assert not short.letter or f"-{short.letter}" in words
        assert not short.long or f"--{short.long}" in words


def test_help_shows_defaults() -> None:
    text = " ".join(help_text().split())
    for option in OURS:
        default = default_text(option)
        assert not default or f"default: {default})" in text, option.name
    assert default_text(option_named("readahead")) == "32M"
    assert default_text(option_named("dcache_timeout")) == "20"
    assert default_text(option_named("dcache_stat_timeout")) == "dcache_timeout"
    assert default_text(option_named("dir_cache")) == "yes"
    assert default_text(option_named("direct_io")) == ""
    assert default_text(option_named("undelivered_quota")) == "1G"


def test_help_tells_what_the_words_for_a_silent_server_stand_for() -> None:
    text = " ".join(help_text().split())
    assert "hard: same as 0; soft: same as 30 (default: 0)" in text
    assert "connection is lost (default); no_reconnect: off" in text


def test_allowed_text() -> None:
    assert allowed_text(option_named("max_background")) == "a whole number from 1 to 65535"
    assert allowed_text(option_named("umask")) == "an octal mode from 0 to 777"
    assert allowed_text(option_named("idmap")) == "one of none, user, file, name"
    assert "from 64k to 4G" in allowed_text(option_named("max_write_buffer"))


def test_version_text() -> None:
    assert version_text("1.2.3") == "pysshfs 1.2.3\n"


def test_exit_codes_are_described_and_keep_their_numbers() -> None:
    assert set(DESCRIPTIONS) == set(ExitCode)
    assert all(text and "\n" not in text for text in DESCRIPTIONS.values())
    assert [int(code) for code in ExitCode] == [*range(13), 130]


def test_import_is_light() -> None:
    heavy = "asyncio trio pyfuse3 asyncssh argparse dataclasses inspect difflib textwrap logging"
    program = (
        "import sys, pysshfs.cli.help, pysshfs.cli.parser, pysshfs.cli.exitcodes;"
        f"print(*[name for name in {heavy.split()!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
