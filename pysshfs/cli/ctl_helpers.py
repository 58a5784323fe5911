"""`pysshfsctl install-helpers`: the helpers of mount(8) put where it looks for them, or removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pysshfs.cli import installing
from pysshfs.cli.ctl_codes import CtlCode, CtlError

if TYPE_CHECKING:
    from pysshfs.cli.ctl_parser import Arguments


def run(arguments: Arguments) -> CtlCode:
    is_removal = arguments.has("--remove")
    work = installing.remove if is_removal else installing.install
    try:
        links = work(*([] if arguments.place is None else [Path(arguments.place)]))
    except installing.InstallationError as error:
        raise CtlError(str(error)) from None
    for link in links:
        print(f"{'removed' if is_removal else 'installed'}: {link}")
    return CtlCode.OK
