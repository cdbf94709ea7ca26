"""Raw images, on real files."""

from __future__ import annotations

import errno
import os
import random
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import Image

from vbox_pdm import MediaOp, PdmError
from vbox_pdm.testing import Bench
from vbox_plugin_storage import file_io

SIZE = 64 * 512
CONTENT = random.Random(7).randbytes(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk.img"
    made.write_bytes(CONTENT)
    return made


def test_raw_reads_and_writes_the_bytes_of_the_file(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    info = image.driver.media_info()
    assert (info.size, info.sector_size, info.read_only) == (SIZE, 512, False)
    assert image.read(512, 3000, 7, 1000, 1) == CONTENT[512:3512]
    image.write(1024, b"new" * 100, 1, 2, 3)
    assert image.error(MediaOp.FLUSH) is None
    assert path.read_bytes() == CONTENT[:1024] + b"new" * 100 + CONTENT[1324:]


operations = st.one_of(
    st.tuples(st.just("read"), st.integers(0, SIZE), st.integers(0, 9000), st.lists(st.integers(1, 3000))),
    st.tuples(st.just("write"), st.integers(0, SIZE), st.integers(0, 9000), st.lists(st.integers(1, 3000))),
    st.tuples(st.just("flush"), st.just(0), st.just(0), st.just([])),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=15), st.integers(0, 511))
def test_raw_equals_a_model_also_when_many_requests_are_under_way(script: list[Any], odd: int) -> None:
    content = CONTENT[: SIZE - odd]
    with tempfile.NamedTemporaryFile() as file, Bench() as bench:
        file.write(content)
        file.flush()
        image = Image(bench, "raw-image", path=file.name)
        model = bytearray(CONTENT[: SIZE - odd].ljust(SIZE, b"\0"))
        expected, requests = [], []
        for number, (what, offset, length, cuts) in enumerate(script):
            length = min(length, SIZE - offset)
            if what == "flush":
                requests.append(image.start(MediaOp.FLUSH))
                continue
            memory = bytearray(random.Random(number).randbytes(length))
            views, at = [], 0
            for size in cuts:
                views.append(memoryview(memory)[at : at + size])
                at += size
            views.append(memoryview(memory)[at:])
            if what == "write":
                model[offset : offset + length] = memory
                requests.append(image.start(MediaOp.WRITE, offset, tuple(views)))
            else:
                expected.append((memory, bytes(model[offset : offset + length])))
                requests.append(image.start(MediaOp.READ, offset, tuple(views)))
        image.finish(*requests)
        assert all(request.error is None for request in requests)
        assert image.order == requests
        for memory, wanted in expected:
            assert memory == wanted
        on_disk = Path(file.name).read_bytes()
        assert on_disk == model[: len(on_disk)]
        assert not any(model[len(on_disk) :])


def test_raw_odd_file_reads_zeros_behind_its_end_and_grows_by_a_write(bench: Bench, path: Path) -> None:
    path.write_bytes(b"x" * 1000)
    image = Image(bench, "raw-image", path=str(path))
    assert image.driver.media_info().size == 1000
    assert image.read(512, 512) == b"x" * 488 + bytes(24)
    assert path.stat().st_size == 1000
    image.write(512, b"y" * 512)
    assert image.read(0, 1024) == b"x" * 512 + b"y" * 512
    assert path.stat().st_size == 1024
    assert image.error(MediaOp.READ, 1024) == "VERR_OUT_OF_RANGE"
    assert any("no whole sectors" in line for line in bench.log_lines)


def test_raw_truncated_file_fails_and_gives_no_zeros(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    os.truncate(path, 1000)
    assert image.read(0, 512) == CONTENT[:512]
    assert image.error(MediaOp.READ, 512) == "VERR_READ_ERROR"
    assert image.error(MediaOp.READ, 8192) == "VERR_READ_ERROR"
    image.write(512, b"z" * 512)
    assert image.read(512, 512) == b"z" * 512


def test_raw_discard_makes_zeros_and_keeps_the_size(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    assert image.error(MediaOp.DISCARD, 4096, 8192) is None
    assert path.stat().st_size == SIZE
    assert path.read_bytes() in (CONTENT[:4096] + bytes(8192) + CONTENT[12288:], CONTENT)


def test_raw_more_views_than_one_system_call_takes(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    assert image.read(0, SIZE, *[9] * 3000) == CONTENT
    image.write(0, CONTENT[::-1], *[9] * 3000)
    assert path.read_bytes() == CONTENT[::-1]


def test_raw_short_transfers_are_continued(bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(bench, "raw-image", path=str(path))
    real_read, real_write = os.preadv, os.pwritev
    monkeypatch.setattr(file_io.os, "preadv", lambda fd, views, at, *_: real_read(fd, [views[0][:700]], at))
    monkeypatch.setattr(file_io.os, "pwritev", lambda fd, views, at: real_write(fd, [views[0][:700]], at))
    assert image.read(100, 5000, 1000, 3) == CONTENT[100:5100]
    image.write(0, CONTENT[::-1], 1, 5000)
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("op", [MediaOp.READ, MediaOp.WRITE])
@pytest.mark.parametrize("offset", [-1, -512, SIZE - 511, SIZE, 1 << 62])
def test_raw_outside_of_the_medium_nothing_happens(
    bench: Bench, path: Path, op: MediaOp, offset: int
) -> None:
    image = Image(bench, "raw-image", path=str(path))
    assert image.error(op, offset) == "VERR_OUT_OF_RANGE"
    assert path.read_bytes() == CONTENT


def test_raw_read_only_image_refuses_writes(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path), read_only=True)
    assert image.error(MediaOp.WRITE) == "VERR_WRITE_PROTECT"
    assert image.error(MediaOp.DISCARD) == "VERR_WRITE_PROTECT"
    assert image.error(MediaOp.FLUSH) is None
    assert path.read_bytes() == CONTENT


def test_raw_eject_takes_the_medium_away(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    image.driver.media_eject()
    assert image.driver.media_info() is None
    assert image.error(MediaOp.READ) == "VERR_PDM_MEDIA_NOT_MOUNTED"


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda p: None, "VERR_FILE_NOT_FOUND"),
        (lambda p: p.mkdir(), "VERR_IS_A_DIRECTORY"),
        (lambda p: p.write_bytes(b""), "VERR_VD_INVALID_SIZE"),
        (lambda p: os.mkfifo(p), "VERR_VD_RAW_INVALID_TYPE"),
        (lambda p: p.symlink_to("/dev/null"), "VERR_VD_RAW_INVALID_TYPE"),
        (lambda p: p.symlink_to(p), "VERR_ACCESS_DENIED"),
    ],
)
def test_raw_what_cannot_be_an_image_is_named(bench: Bench, tmp_path: Path, make: Any, status: str) -> None:
    path = tmp_path / "odd"
    make(path)
    with pytest.raises(PdmError) as caught:
        Image(bench, "raw-image", path=str(path))
    assert caught.value.status == status
    assert str(path) in caught.value.message
    assert caught.value.remedy


def test_raw_without_permission_the_remedy_is_read_only(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(file_io.os, "open", refuse)  # root may open everything
    with pytest.raises(PdmError) as caught:
        Image(bench, "raw-image", path=str(path))
    assert caught.value.status == "VERR_ACCESS_DENIED"
    assert "read_only=on" in caught.value.remedy


def test_raw_second_writer_is_refused_and_readers_share(path: Path) -> None:
    with Bench() as first, Bench() as second, Bench() as third:
        Image(first, "raw-image", path=str(path))
        for read_only in (False, True):
            with pytest.raises(PdmError) as caught:
                Image(second, "raw-image", path=str(path), read_only=read_only)
            assert caught.value.status == "VERR_SHARING_VIOLATION"
        first.destruct()
        Image(third, "raw-image", path=str(path), read_only=True)
        with Bench() as fourth:
            Image(fourth, "raw-image", path=str(path), read_only=True)
        with Bench() as fifth, pytest.raises(PdmError):
            Image(fifth, "raw-image", path=str(path))


# --- what the host has in memory


class Memory:
    """os.preadv of a host that answers reads which must not wait as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], int]) -> None:
        self.asked = 0
        self._answer = answer
        self._real = os.preadv
        monkeypatch.setattr(file_io.os, "preadv", self.preadv)

    def preadv(self, descriptor: int, views: list[memoryview], offset: int, flags: int = 0) -> int:
        if not flags:
            return self._real(descriptor, views, offset)
        assert flags == os.RWF_NOWAIT
        self.asked += 1
        return self._answer(self._real(descriptor, views, offset))


def refusal(number: int) -> Callable[[int], int]:
    def answer(count: int) -> int:
        raise OSError(number, os.strerror(number))

    return answer


def test_raw_read_at_hand_is_done_when_submitted_and_completed_by_the_queue(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image(bench, "raw-image", path=str(path))
    Memory(monkeypatch, lambda count: count)
    memory = bytearray(512)

    read = image.start(MediaOp.READ, 512, (memoryview(memory),))

    assert memory == CONTENT[512:1024]
    assert image.order == []
    image.finish(read)


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (lambda count: count // 2, 2),
        (refusal(errno.EAGAIN), 2),
        (refusal(errno.EIO), 2),
        (refusal(errno.EOPNOTSUPP), 1),  # never again
    ],
    ids=["short", "EAGAIN", "EIO", "EOPNOTSUPP"],
)
def test_raw_read_not_at_hand_is_left_to_the_worker(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], int], asked: int
) -> None:
    image = Image(bench, "raw-image", path=str(path))
    memory = Memory(monkeypatch, answer)

    contents = [image.read(0, 4096, 700) for _ in range(2)]

    assert contents == [CONTENT[:4096]] * 2
    assert memory.asked == asked


def test_raw_read_behind_a_write_that_may_be_under_way_finds_it_done(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    data = bytearray(512)

    write = image.start(MediaOp.WRITE, 0, (memoryview(bytearray(b"w" * 512)),))
    read = image.start(MediaOp.READ, 0, (memoryview(data),))
    image.finish(write, read)

    assert data == b"w" * 512
    assert image.order == [write, read]


def test_raw_read_of_the_odd_end_is_left_to_the_worker(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with path.open("ab") as file:
        file.write(b"odd")
    image = Image(bench, "raw-image", path=str(path))
    memory = Memory(monkeypatch, lambda count: count)

    end = image.read(SIZE, 512)

    assert end == b"odd" + bytes(509)
    assert memory.asked == 0


# --- where runs must repeat exactly


@pytest.fixture
def at_once(bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """An image that is told to carry requests out where they are submitted."""
    image = Image(bench, "raw-image", path=str(path))
    monkeypatch.setattr(type(image.driver.helpers), "at_once", True)  # the kernel's or the bench's
    return image


def test_raw_at_once_is_done_when_submitted_and_completed_by_the_queue(at_once: Image) -> None:
    image = at_once
    memory = bytearray(512)

    write = image.start(MediaOp.WRITE, 512, (memoryview(bytearray(b"w" * 512)),))
    read = image.start(MediaOp.READ, 512, (memoryview(memory),))

    assert memory == b"w" * 512
    assert image.order == []
    image.finish(write, read)
    assert image.order == [write, read]


def test_raw_at_once_disk_full_keeps_order_and_loses_nothing(
    at_once: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, bench = at_once, at_once.bench
    disk = Disk(monkeypatch, errno.ENOSPC)
    memory = bytearray(512)
    write = image.start(MediaOp.WRITE, 0, (memoryview(bytearray(b"w" * 512)),))
    read = image.start(MediaOp.READ, 0, (memoryview(memory),))
    assert bench.wait(lambda: bench.runtime_errors)
    bench.suspend()
    disk.full = False

    bench.resume()

    image.finish(write, read)
    assert image.order == [write, read]
    assert memory == b"w" * 512
    assert image.read(0, 512) == b"w" * 512


# --- errors of the host


class Disk:
    """os.pwritev of a host whose disk is full, or broken, at will."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.full = True
        self.number = number
        self.refused = 0
        self._write = os.pwritev
        monkeypatch.setattr(file_io.os, "pwritev", self.pwritev)

    def pwritev(self, descriptor: int, views: Any, offset: int) -> int:
        if self.full:
            self.refused += 1
            raise OSError(self.number, os.strerror(self.number))
        return self._write(descriptor, views, offset)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_raw_disk_full_suspends_and_nothing_is_lost_nor_out_of_order(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    image = Image(bench, "raw-image", path=str(path))
    disk = Disk(monkeypatch, number)
    data, memory = bytearray(b"precious" * 64), bytearray(512)
    write = image.start(MediaOp.WRITE, 1024, (memoryview(data),))
    read = image.start(MediaOp.READ, 1024, (memoryview(memory),))
    assert bench.wait(lambda: bench.runtime_errors)
    bench.suspend()
    error = bench.runtime_errors[0]
    assert error.error_id == "DrvVD_DISKFULL"
    assert str(path) in error.text
    assert image.order == []

    bench.resume()  # nobody made room
    assert bench.wait(lambda: len(bench.runtime_errors) == 2)
    bench.suspend()
    disk.full = False
    bench.resume()

    image.finish(write, read)
    assert image.order == [write, read]
    assert memory == data == path.read_bytes()[1024:1536]
    assert len(bench.runtime_errors) == 2
    assert disk.refused == 2


def test_raw_disk_full_while_suspending_is_told_after_resume(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image(bench, "raw-image", path=str(path))
    disk = Disk(monkeypatch, errno.ENOSPC)
    suspending = threading.Event()
    refuse = disk.pwritev

    def late(descriptor: int, views: Any, offset: int) -> int:
        while not image.driver.queue._suspending and not suspending.wait(0.001):
            pass
        suspending.set()
        return refuse(descriptor, views, offset)

    monkeypatch.setattr(file_io.os, "pwritev", late)
    write = image.start(MediaOp.WRITE, 0, (memoryview(bytearray(512)),))
    bench.suspend()
    image.driver.queue._collect(None)  # as a host does that hands on queues while it suspends
    assert bench.runtime_errors == []  # the VM stands already
    assert disk.refused == 1
    bench.resume()
    assert bench.wait(lambda: bench.runtime_errors)
    bench.suspend()
    disk.full = False
    bench.resume()
    image.finish(write)


def test_raw_io_error_fails_that_request_only(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image(bench, "raw-image", path=str(path))
    disk = Disk(monkeypatch, errno.EIO)
    assert image.error(MediaOp.WRITE) == "VERR_WRITE_ERROR"
    disk.full = False
    assert image.error(MediaOp.WRITE) is None
    assert bench.runtime_errors == []


def test_raw_suspend_waits_for_what_is_under_way(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    memory = bytearray(SIZE)
    requests = [image.start(MediaOp.READ, 0, (memoryview(memory),)) for _ in range(50)]
    bench.suspend()
    assert image.order == requests
    bench.resume()
    requests.append(image.start(MediaOp.READ, 0, (memoryview(memory),)))
    bench.reset()
    assert image.order == requests
    requests.append(image.start(MediaOp.WRITE, 0, (memoryview(memory),)))
    bench.power_off()
    assert image.order == requests


def test_raw_end_of_a_parked_request_is_an_error(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image(bench, "raw-image", path=str(path))
    Disk(monkeypatch, errno.ENOSPC)
    requests = [image.start(MediaOp.WRITE, 0, (memoryview(bytearray(512)),)) for _ in range(3)]
    assert bench.wait(lambda: bench.runtime_errors)
    bench.reset()
    bench.power_off()
    assert image.order == []
    bench.destruct()
    assert image.order == requests
    assert {request.error for request in requests} == {"VERR_PDM_MEDIA_NOT_MOUNTED"}
    assert any("3 writes were not carried out" in line for line in bench.log_lines)


def test_raw_detached_image_finishes_its_writes(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    data = bytearray(b"late" * 128)
    request = image.start(MediaOp.WRITE, 0, (memoryview(data),))
    bench.detach(bench.backend.instances()[0], 0)
    assert image.order == [request]
    assert request.error is None
    assert path.read_bytes()[:512] == data


def test_raw_unusable_views_are_an_error_not_a_dead_worker(bench: Bench, path: Path) -> None:
    image = Image(bench, "raw-image", path=str(path))
    memory = memoryview(bytearray(512))
    request = image.start(MediaOp.FLUSH)
    broken = image.start(MediaOp.READ, 0, (memory, memory.toreadonly()))
    image.finish(request, broken)
    assert broken.error is not None
    assert image.read(0, 512) == CONTENT[:512]
