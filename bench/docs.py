"""Puts results into docs/performance.md, between two comments, and the figure beside it."""

from __future__ import annotations

from tests.support.procs import ROOT

PAGE = ROOT / "docs/performance.md"


def replace_between(text: str, name: str, content: str) -> str:
    """The text with `content` between its comments for `name`; ValueError if they are not there."""
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{PAGE.name} has no {begin} ... {end}")
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"


def publish(name: str, content: str, figure: str) -> None:
    """Replace the part called `name` of the page and its figure; OSError, ValueError."""
    place = PAGE.with_name(f"performance-{name}.svg")
    image = f"![{name}]({place.name})"
    PAGE.write_text(replace_between(PAGE.read_text(), name, f"{content.strip()}\n\n{image}"))
    place.write_text(figure)
