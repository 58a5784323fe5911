"""What `pysshfsctl status` prints for people: one mount's state, as the daemon told it, in words.

Pure functions of the answer to `status` (see `control_server.py`) and of the time.
"""

from __future__ import annotations

from typing import Any, Final

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
    lines = [f"{state['source']} on {state['mountpoint']}"]
    if state["answers"]:
        lines += _answered(state, now)
    else:
        lines.append(f"  state        {state['reason']}")
    waiting = state["waiting"]
    if waiting is None:
        lines.append(
            "  waiting      unknown: mount -t fusectl none /sys/fs/fuse/connections (as root)"
        )
    else:
        lines.append(f"  waiting      {waiting} requests")
    return "\n".join(map(printable, lines))


def connection_text(state: dict[str, Any], now: float) -> str:
    """The state of the connection, since when and why: `waiting for 12 s (Connection refused)`."""
    why = f" ({state['reason']})" if state.get("reason") else ""
    return f"{state['state']} for {_whole(now - state['since'])} s{why}"


def undelivered_text(state: dict[str, Any], now: float) -> str:
    """What has not reached the server, and how the connection to it fares."""
    count, promised = state["unacknowledged_bytes"], state.get("unanswered_operations", 0)
    what = f"{count:,} bytes" + (f" and {promised:,} operations" if promised else "")
    return f"{what} are not delivered yet; connection {connection_text(state, now)}"


def _answered(state: dict[str, Any], now: float) -> list[str]:
    mounted = _whole(now - state["mounted_at"])
    interrupted = f"{state['interrupts_honoured']} interrupted"
    if state["interrupted_in_flight"]:
        interrupted += f", {state['interrupted_in_flight']} of them not yet answered by the server"
    return [
        f"  state        {connection_text(state, now)}",
        f"  daemon       pid {state['pid']}, mounted for {mounted} s",
        f"  server       {state['server'] or 'unknown'}, cipher {state['cipher'] or 'unknown'}",
        f"  link         {_link(state)}",
        f"  traffic      {state['bytes_received']:,} bytes in, {state['bytes_sent']:,} out, "
        f"{state['sftp_requests']:,} SFTP requests, {state['sftp_in_flight']} in flight, "
        f"{state['sftp_sessions']} sessions",
        f"  kernel       {state['requests_served']:,} requests, {len(state['requests'])} being"
        f" served, {interrupted}",
        f"  settings     {_settings(state['kernel'])}",
        *_requests(state["requests"]),
        f"  buffered     {state['unacknowledged_bytes']:,} bytes not acknowledged",
        *_promised(state),
        *(f"  undelivered  {name}" for name in state["undelivered"]),
        f"  memory       {state['cache_bytes']:,} of {state['cache_size']:,} bytes: "
        + ", ".join(f"{state[f'{name}_bytes']:,} {words}" for name, words in _SHARES),
        f"  tables       {state['inodes']:,} inodes, {state['open_files']} open files",
    ]


def _promised(state: dict[str, Any]) -> list[str]:
    """With `async_ops` only."""
    open_, broken = state.get("unanswered_operations"), state.get("unreported_failures")
    lines = [f"  promised     {open_:,} operations not answered"] if open_ else []
    if broken:
        lines.append(f"  promised     {broken:,} failures that no program has been told of")
    return lines


def _link(state: dict[str, Any]) -> str:
    round_trip, silent = state["round_trip_ms"], state["silent_seconds"]
    parts = [f"round trip {'unknown' if round_trip is None else f'{round_trip:.1f} ms'}"]
    if silent is not None:
        parts.append(f"silent for {silent:.1f} s")
    times = state["reconnects"]
    parts.append(f"reconnected {times} time{'' if times == 1 else 's'}")
    return ", ".join(parts)


def _settings(kernel: dict[str, Any]) -> str:
    """What was settled with the kernel."""
    return (
        f"max_background {kernel['max_background']},"
        f" congestion_threshold {kernel['congestion_threshold']},"
        f" writes of {kernel['max_write'] >> 10} KiB at most,"
        f" kernel's read-ahead {kernel['max_readahead'] >> 10} KiB"
    )


def _requests(requests: list[dict[str, Any]]) -> list[str]:
    oldest = sorted(requests, key=lambda request: -request["seconds"])
    lines = [
        f"  serving      {each['operation']} for {each['seconds']:.1f} s, pid {each['pid']}"
        for each in oldest[:_MOST_REQUESTS]
    ]
    if len(oldest) > _MOST_REQUESTS:
        lines.append(f"  serving      {len(oldest) - _MOST_REQUESTS} more")
    return lines


def _whole(seconds: float) -> int:
    """Whole seconds of a span; the clock may have been set back in it."""
    return max(int(seconds), 0)
