"""What `pysshfsctl status` prints for people: one mount's state, as the daemon told it, in words.

Pure functions of what `ctl_status.py` gathered (docs/control-protocol.md) and of the time.
"""

from __future__ import annotations

from typing import Any, Final

from pysshfs.cli.ctl_mounts import MOUNT_CONTROL
from pysshfs.cli.usage import printable

_MOST_REQUESTS: Final = 8  # shown, the oldest first
# The shares of the memory ceiling (`vfs/budget.py`), in words.
_SHARES: Final = (
    ("written", "not acknowledged"),
    ("read_ahead", "read ahead"),
    ("metadata", "attributes"),
    ("listings", "listings"),
)


def rendered(state: dict[str, Any], now: float) -> str:
    """Everything about one mount; `now` is the time of day."""
    lines = [f"{state['source']} on {state['mountpoint']}", *_health(state)]
    if state["answers"]:
        lines += _answered(state, now)
    elif state.get("pid"):
        lines.append(_line("daemon", f"pid {state['pid']}"))
    lines += _kernel(state)
    return "\n".join(map(printable, lines))


def _line(word: str, text: str) -> str:
    return f"  {word:<12} {text}"


def _health(state: dict[str, Any]) -> list[str]:
    """What is wrong, if anything is: the state of the connection has a line of its own."""
    if state["health"] in ("ok", "disconnected"):
        return []
    reason = state["health_reason"]
    text = reason if reason.startswith(("no daemon", "the daemon")) else f"not answering: {reason}"
    return [_line("health", text)]


def connection_text(state: dict[str, Any], now: float) -> str:
    """The state of the connection, since when and why: `waiting for 12 s (Connection refused)`."""
    why = f" ({state['reason']})" if state.get("reason") else ""
    return f"{state['state']} for {_whole(now - state['since'])} s{why}"


def undelivered_text(state: dict[str, Any], now: float) -> str:
    """What has not reached the server, and how the connection to it fares."""
    return f"{owed_text(state)} are not delivered yet; connection {connection_text(state, now)}"


def owed_text(state: dict[str, Any]) -> str:
    """How much that is."""
    count, promised = state["unacknowledged_bytes"], state.get("unanswered_operations", 0)
    return f"{count:,} bytes" + (f" and {promised:,} operations" if promised else "")


def hit_rate(hits: int, misses: int) -> str:
    """`97% of 1,200`, or that nobody asked."""
    asked = hits + misses
    return f"{100 * hits // asked}% of {asked:,}" if asked else "none asked for"


def _answered(state: dict[str, Any], now: float) -> list[str]:
    mounted = _whole(now - state["mounted_at"])
    interrupted = f"{state['interrupts_honoured']} interrupted"
    if state["interrupted_in_flight"]:
        interrupted += f", {state['interrupted_in_flight']} of them not yet answered by the server"
    at_once = state["requests_answered_at_once"]
    return [
        _line("state", connection_text(state, now)),
        _line("daemon", f"pid {state['pid']}, mounted for {mounted} s, "
                        f"{state['memory_bytes']:,} bytes of memory"),
        _line("server", f"{state['server'] or 'unknown'}, cipher {state['cipher'] or 'unknown'}"),
        _line("extensions", ", ".join(state["extensions"]) or "none"),
        _line("link", _link(state)),
        *_last_error(state, now),
        _line("traffic", f"{state['bytes_received']:,} bytes in, {state['bytes_sent']:,} out, "
                         f"{state['sftp_requests']:,} SFTP requests, "
                         f"{state['sftp_in_flight']} in flight, {state['sftp_sessions']} sessions"),
        _line("requests", f"{state['requests_served']:,} from the kernel, {at_once:,} of them"
                          f" answered at once, {state['requests_active']} being served,"
                          f" {interrupted}"),
        *_requests(state),
        _line("buffered", f"{state['unacknowledged_bytes']:,} bytes not acknowledged"),
        *_promised(state),
        *(_line("undelivered", name) for name in state["undelivered"]),
        _line("caches", f"{state['cache_bytes']:,} of {state['cache_size']:,} bytes: "
              + ", ".join(f"{state[f'{name}_bytes']:,} {words}" for name, words in _SHARES)),
        _line("hits", f"attributes {hit_rate(state['cache_hits'], state['cache_misses'])}, "
                      f"reads {hit_rate(state['read_hits'], state['read_misses'])}"),
        _line("tables", f"{state['inodes']:,} inodes, {state['open_files']} open files"),
        *([_line("traced", f"by {state['traced_by']}")] if state["traced_by"] else []),
    ]  # fmt: skip


def _promised(state: dict[str, Any]) -> list[str]:
    """With `async_ops` only."""
    open_, broken = state.get("unanswered_operations"), state.get("unreported_failures")
    lines = [_line("promised", f"{open_:,} operations not answered")] if open_ else []
    if broken:
        lines.append(_line("promised", f"{broken:,} failures that no program has been told of"))
    return lines


def _link(state: dict[str, Any]) -> str:
    parts = [f"round trip {round_trip_text(state)}"]
    silent = state["silent_seconds"]
    if silent is not None:
        parts.append(f"silent for {silent:.1f} s")
    times = state["reconnects"]
    parts.append(f"reconnected {times} time{'' if times == 1 else 's'}")
    return ", ".join(parts)


def round_trip_text(state: dict[str, Any]) -> str:
    known = state["round_trip_ms"]
    return "unknown" if known is None else f"{known:.1f} ms"


def _last_error(state: dict[str, Any], now: float) -> list[str]:
    last = state["last_error"]
    if last is None:
        return []
    return [_line("last error", f"{_whole(now - last['at'])} s ago: {last['text']}")]


def _kernel(state: dict[str, Any]) -> list[str]:
    """What the control filesystem says, and what was settled with the kernel."""
    waiting = state["waiting"]
    if waiting is not None:
        text = f"{waiting} request{'' if waiting == 1 else 's'}"
    elif state["control_mounted"]:
        text = "unknown: the control filesystem does not say"
    else:
        text = f"unknown: the control filesystem is not mounted (as root: {MOUNT_CONTROL})"
    lines = [_line("waiting", text)]
    settled = state.get("kernel") or {}
    limits = [
        f"{name} {value}"
        for name in ("max_background", "congestion_threshold")
        # The control filesystem knows of later changes.
        if (value := state[name] if state[name] is not None else settled.get(name)) is not None
    ]
    if settled:
        limits.append(f"writes of {settled['max_write'] >> 10} KiB at most")
        limits.append(f"kernel's read-ahead {settled['max_readahead'] >> 10} KiB")
    return [*lines, _line("settings", ", ".join(limits))] if limits else lines


def _requests(state: dict[str, Any]) -> list[str]:
    oldest = sorted(state["requests"], key=lambda request: -request["seconds"])
    lines = [_line("serving", request_text(each)) for each in oldest[:_MOST_REQUESTS]]
    more = state["requests_active"] - min(len(oldest), _MOST_REQUESTS)
    return [*lines, _line("serving", f"{more} more")] if more > 0 else lines


def request_text(request: dict[str, Any]) -> str:
    """`read of notes for 1.2 s, pid 4711 (tar)`."""
    paths = [each for each in (request.get("path"), request.get("new_path")) if each is not None]
    named = " to ".join(each or "." for each in paths)
    pid = request.get("process") or request["pid"]
    program = f" ({request['program']})" if request.get("program") else ""
    of = f" of {named}" if named else ""
    return f"{request['operation']}{of} for {request['seconds']:.1f} s, pid {pid}{program}"


def _whole(seconds: float) -> int:
    """Whole seconds of a span; the clock may have been set back in it."""
    return max(int(seconds), 0)
