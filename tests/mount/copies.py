"""What programs do with copy_file_range(2), run by `tests/mount/test_copying.py` on a mount and on
a local directory. Raises AssertionError where a file is not what it must be."""

from __future__ import annotations

import errno
import os
import random

_MIB = 1 << 20


def copied(source: int, target: int, count: int, at: int, to: int) -> int:
    """Copy the whole range, however many calls it takes; how much there was."""
    done = 0
    while done < count:
        step = os.copy_file_range(source, target, count - done, at + done, to + done)
        if step == 0:
            break
        done += step
    return done


def random_copies(seed: int, steps: int) -> None:
    """Ranges of every size and alignment, holes among them, between two files and in one, with
    writes, reads and truncations in between."""
    choice = random.Random(seed)
    names, model = ("one", "two"), [bytearray(), bytearray()]
    fds = [os.open(name, os.O_CREAT | os.O_RDWR) for name in names]
    for which in (0, 1):
        model[which][:] = choice.randbytes(6 * _MIB)
        os.pwrite(fds[which], model[which], 0)
    for _ in range(steps):
        source, target = choice.choice(((0, 1), (1, 0), (0, 1), (1, 0), (0, 0)))
        count = choice.choice((1, 4096, 70_000, 2 * _MIB, 3 * _MIB + 1, 5 * _MIB))
        at, to = choice.randrange(0, 8 * _MIB), choice.randrange(0, 8 * _MIB)
        if choice.random() < 0.3:
            at, to = at & -4096, to & -4096
        data = choice.randbytes(choice.choice((1, 5000, 200_000)))
        match choice.choices(("copy", "write", "read", "cut"), (6, 3, 2, 1))[0]:
            case "copy":
                _copy(model, fds, source, target, count, at, to)
            case "write":
                os.pwrite(fds[target], data, to)
                _put(model[target], to, data)
            case "read":
                assert os.pread(fds[source], count, at) == model[source][at : at + count]
            case "cut":
                os.ftruncate(fds[target], to)
                _put(model[target], to, b"")
                del model[target][to:]
        assert os.fstat(fds[target]).st_size == len(model[target])
    for fd, name, expected in zip(fds, names, model, strict=True):
        assert os.pread(fd, len(expected) + 1, 0) == expected
        os.close(fd)
        with open(name, "rb") as file:
            assert file.read() == expected


def _copy(
    model: list[bytearray], fds: list[int], source: int, target: int, count: int, at: int, to: int
) -> None:
    if source == target and abs(at - to) < min(count, max(len(model[source]) - at, 0)):
        try:
            os.copy_file_range(fds[source], fds[target], count, at, to)
        except OSError as error:
            assert error.errno == errno.EINVAL, error
            return
        raise AssertionError("ranges that overlap were copied")
    data = bytes(model[source][at : at + count])
    assert copied(fds[source], fds[target], count, at, to) == len(data)
    if data:
        _put(model[target], to, data)


def _put(content: bytearray, at: int, data: bytes) -> None:
    content.extend(bytes(max(at - len(content), 0)))
    content[at : at + len(data)] = data


def seen_by_others() -> None:
    """Who has the target open, or mapped pages of it read, has the new content at once."""
    old, new = random.Random(1).randbytes(3 * _MIB), random.Random(2).randbytes(3 * _MIB)
    with open("source", "wb") as file:
        file.write(new)
    with open("target", "wb") as file:
        file.write(old)
    source, target = os.open("source", os.O_RDONLY), os.open("target", os.O_WRONLY)
    reader = os.open("target", os.O_RDONLY)
    assert os.pread(reader, 3 * _MIB, 0) == old
    assert copied(source, target, 2 * _MIB, 100, 5) == 2 * _MIB
    expected = old[:5] + new[100 : 100 + 2 * _MIB] + old[5 + 2 * _MIB :]
    assert os.pread(reader, 3 * _MIB, 0) == expected
    os.close(target)
    with open("target", "rb") as file:
        assert file.read() == expected
    os.close(source)
    os.close(reader)
