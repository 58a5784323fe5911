"""`pysshfsctl status`: what is known of each mount, gathered within 200 ms whatever it does.

From mountinfo and the control filesystem, and from the daemons, which are asked all at once. The
fields are those of docs/control-protocol.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from pysshfs.cli import procstat
from pysshfs.cli.ctl_codes import CtlCode
from pysshfs.cli.ctl_mounts import all_mounts, ask_daemons, mount_of, silence
from pysshfs.cli.status_text import rendered
from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysshfs.cli.ctl_parser import Arguments
    from pysshfs.fuse.mountinfo import MountEntry

# Of the 200 ms from the start of the process: how much may have passed when the daemons have been
# waited for, and how long they are waited for at the least and at the most (seconds).
_ANSWER_BY: Final = 0.18
_LEAST_WAIT: Final = 0.1
_MOST_WAIT: Final = 0.15
#: For so long requests wait and nothing comes before a mount counts as not answering (seconds).
STALLED_SECONDS: Final = 3.0
# What a daemon of an earlier release does not tell.
_EARLIER: Final[dict[str, Any]] = {
    "last_error": None, "requests_active": 0, "stalled_seconds": 0.0, "traced_by": 0,
    "memory_bytes": 0, "read_hits": 0, "read_misses": 0,
}  # fmt: skip
_NO_ANSWER: Final = ("not answering", "dead")


def run(arguments: Arguments) -> CtlCode:
    entries = all_mounts() if arguments.place is None else [mount_of(arguments.place)]
    states = gather(entries, _time_left())
    if arguments.has("--json"):
        print(json.dumps(states, indent=2))
    elif not states:
        print("no pysshfs mounts")
    else:
        print("\n\n".join(rendered(state, time.time()) for state in states))
    sys.stdout.flush()
    silent = any(state["health"] in _NO_ANSWER for state in states)
    return CtlCode.NOT_ANSWERING if silent else CtlCode.OK


def _time_left() -> float:
    """How long the daemons may take: starting Python took its part."""
    ticks = int(procstat.fields("self")[19])  # starttime
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    passed = now - ticks / os.sysconf("SC_CLK_TCK")
    return min(max(_ANSWER_BY - passed, _LEAST_WAIT), _MOST_WAIT)


def gather(entries: Sequence[MountEntry], seconds: float) -> list[dict[str, Any]]:
    """The states of these mounts; their daemons have so long to answer."""
    answers = ask_daemons(entries, "status", seconds, longer_if_busy=True)
    states = []
    for entry, answer in zip(entries, answers, strict=True):
        state = _known(entry)
        if answer.told is not None and "pid" in answer.told:
            state |= {**_EARLIER, **answer.told, "answers": True, "waiting": state["waiting"]}
            for request in state["requests"]:
                request |= _program(request["pid"])
        else:
            said = (answer.told or {}).get("error")
            state["answers"] = False
            state["reason"] = said or str(silence(answer.error, answer.pid))
            if answer.pid is not None:
                state["pid"] = answer.pid
        states.append({**state, **_health(state)})
    return states


def _known(entry: MountEntry) -> dict[str, Any]:
    """What can be told without the daemon."""
    waiting = mountinfo.waiting_requests(entry)
    return {
        "source": os.fsdecode(entry.source),
        "mountpoint": os.fsdecode(entry.mountpoint),
        "connection": entry.minor,
        "owner": mountinfo.owner(entry),
        "options": entry.options,
        "waiting": waiting,
        "control_mounted": waiting is not None or mountinfo.is_control_mounted(),
        "max_background": mountinfo.control_value(entry, "max_background"),
        "congestion_threshold": mountinfo.control_value(entry, "congestion_threshold"),
    }


def _program(tid: int) -> dict[str, Any]:
    """Of a thread: its process, and the name of that. None for what has ended."""
    try:
        with open(f"/proc/{tid}/status", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.partition(":") for line in file.read(1024).splitlines()]
        known = {name: value.strip() for name, _, value in lines}
        return {"process": int(known["Tgid"]), "program": known["Name"]}
    except (OSError, ValueError, KeyError):
        return {"process": None, "program": None}


def _health(state: dict[str, Any]) -> dict[str, str]:
    """`health` in one word, and why it is not `ok` in a few."""
    waiting = state["waiting"] or 0
    if not state["answers"]:
        is_dead = state["reason"].startswith("no daemon")
        count = f"; {_count(waiting)} waiting" if waiting else ""
        return {
            "health": "dead" if is_dead else "not answering",
            "health_reason": state["reason"] + count,
        }
    if (state["stalled_seconds"] or 0) >= STALLED_SECONDS:
        count = _count(max(waiting, state["requests_active"]))
        why = f"{count} waiting, none was answered for {state['stalled_seconds']:.0f} s"
        return {"health": "not answering", "health_reason": why}
    if state["state"] != "up":
        return {"health": "disconnected", "health_reason": state["reason"]}
    return {"health": "ok", "health_reason": ""}


def _count(requests: int) -> str:
    return f"{requests} request{'' if requests == 1 else 's'}"
