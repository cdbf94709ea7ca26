"""Disk faults over a medium in memory: what fails, what passes, when, and that all ends once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import ConfigError, MediaOp, MediaRequest
from vbox_pdm.testing import Bench, FakeMedia
from vbox_plugin_diskfaults import SECTOR

SIZE = 64 * SECTOR
CONTENT = random.Random(3).randbytes(SIZE)
MICROSECOND = 1000


class Disk:
    """The filter between this, which plays the drive, and a medium in memory."""

    connected = True

    def __init__(self, bench: Bench, *, hold: bool = False, **config: object) -> None:
        self.below: Any = None
        self.medium = FakeMedia(CONTENT, hold=hold)
        self.changes = 0
        self.ends: list[MediaRequest] = []
        """Requests in the order of their ends."""
        self.driver = bench.add_driver("diskfaults", above=self, below=self.medium, config=config)
        bench.power_on()

    def media_changed(self) -> None:
        self.changes += 1

    @property
    def content(self) -> bytes:
        """What is on the medium."""
        return bytes(self.medium.data or b"")

    def submit(self, op: MediaOp, sector: int = 0, count: int = 1, data: bytes | None = None) -> MediaRequest:
        memory = bytearray(data or bytes(count * SECTOR))
        views = (memoryview(memory),) if op in (MediaOp.READ, MediaOp.WRITE) else ()
        length = count * SECTOR if op is MediaOp.DISCARD else 0
        request = MediaRequest(op, self.ends.append, sector * SECTOR, views, length)
        self.below.media_submit(request)
        return request

    def failures(self, op: MediaOp, times: int) -> list[bool]:
        """Whether each of so many requests failed."""
        return [self.submit(op).error is not None for _ in range(times)]


# --- what fails


def test_diskfaults_without_keys_lets_all_pass(bench: Bench) -> None:
    disk = Disk(bench)

    read = disk.submit(MediaOp.READ, 3, 2)
    disk.submit(MediaOp.WRITE, 5, data=b"w" * SECTOR)
    disk.submit(MediaOp.DISCARD, 6)
    disk.submit(MediaOp.FLUSH)

    assert [request.error for request in disk.ends] == [None] * 4
    assert bytes(read.views[0]) == CONTENT[3 * SECTOR : 5 * SECTOR]
    assert disk.medium.stable[5 * SECTOR : 7 * SECTOR] == b"w" * SECTOR + bytes(SECTOR)


@pytest.mark.parametrize(
    ("key", "errors"),
    [
        ("read_errors", {MediaOp.READ: "VERR_READ_ERROR"}),
        ("write_errors", {MediaOp.WRITE: "VERR_WRITE_ERROR", MediaOp.DISCARD: "VERR_WRITE_ERROR"}),
        ("flush_errors", {MediaOp.FLUSH: "VERR_WRITE_ERROR"}),
    ],
)
def test_diskfaults_share_of_one_fails_that_kind_alone(
    bench: Bench, key: str, errors: dict[MediaOp, str]
) -> None:
    config: dict[str, Any] = {key: 1.0}
    disk = Disk(bench, **config)

    for op in MediaOp:
        disk.submit(op)

    assert {request.op: request.error for request in disk.ends if request.error} == errors
    assert {seen.op for seen in disk.medium.seen} == set(MediaOp) - set(errors)


def test_diskfaults_write_that_failed_changes_nothing(bench: Bench) -> None:
    disk = Disk(bench, write_errors=1.0)

    disk.submit(MediaOp.WRITE, data=b"x" * SECTOR)

    assert disk.content == CONTENT


def test_diskfaults_share_between_is_about_that_share_and_the_seeds(bench: Bench) -> None:
    faults = Disk(bench, read_errors=0.25).failures(MediaOp.READ, 1000)
    with Bench() as same:
        again = Disk(same, read_errors=0.25).failures(MediaOp.READ, 1000)
    with Bench(seed=1) as other:
        others = Disk(other, read_errors=0.25).failures(MediaOp.READ, 1000)

    assert 150 < sum(faults) < 350
    assert again == faults
    assert others != faults


@pytest.mark.parametrize(
    ("first", "count", "fails"),
    [(7, 1, False), (7, 2, True), (8, 1, True), (11, 5, True), (12, 8, False), (12, 9, True), (20, 1, True)],
)
@pytest.mark.parametrize("op", [MediaOp.READ, MediaOp.WRITE, MediaOp.DISCARD])
def test_diskfaults_bad_sectors_fail_whatever_touches_them(
    bench: Bench, op: MediaOp, first: int, count: int, fails: bool
) -> None:
    disk = Disk(bench, bad="20+8-11")

    assert (disk.submit(op, first, count).error is not None) is fails
    assert disk.submit(MediaOp.FLUSH).error is None


@pytest.mark.parametrize(
    ("kind", "status"), [("protected", "VERR_WRITE_PROTECT"), ("missing", "VERR_PDM_MEDIA_NOT_MOUNTED")]
)
def test_diskfaults_error_is_of_the_kind_that_was_chosen(bench: Bench, kind: str, status: str) -> None:
    disk = Disk(bench, bad="0", error=kind)

    assert disk.submit(MediaOp.WRITE).error == status


@pytest.mark.parametrize("text", ["x", "5-", "9-8", "-1", "1,2", "1++2"])
def test_diskfaults_bad_that_is_no_range_is_refused(bench: Bench, text: str) -> None:
    with pytest.raises(ConfigError, match="neither a sector nor a range") as caught:
        bench.add_driver("diskfaults", below=FakeMedia(CONTENT), config={"bad": text})

    assert caught.value.status == "VERR_INVALID_PARAMETER"


# --- what passes besides requests


def test_diskfaults_medium_shows_through(bench: Bench) -> None:
    disk = Disk(bench)

    disk.below.media_lock(True)
    assert disk.medium.locked
    assert disk.below.media_info().size == SIZE

    disk.medium.change(bytes(SECTOR))
    assert disk.changes == 1
    assert disk.below.media_info().size == SECTOR

    disk.below.media_eject()
    assert disk.medium.ejected == 1
    assert disk.below.media_info() is None


# --- when


def test_diskfaults_latency_delays_success_and_failure_in_order(bench: Bench) -> None:
    disk = Disk(bench, latency=100, bad="1")
    first, second = disk.submit(MediaOp.READ, 0), disk.submit(MediaOp.READ, 1)
    bench.advance(60 * MICROSECOND)
    third = disk.submit(MediaOp.READ, 2)

    bench.advance(40 * MICROSECOND - 1)
    assert disk.ends == []

    bench.advance(1)
    assert disk.ends == [first, second]

    bench.advance(60 * MICROSECOND)
    assert disk.ends == [first, second, third]
    assert [request.error for request in disk.ends] == [None, "VERR_READ_ERROR", None]


@pytest.mark.parametrize("event", [Bench.suspend, Bench.reset, Bench.power_off, Bench.save])
def test_diskfaults_delayed_requests_go_on_when_the_machine_stops(
    bench: Bench, event: Callable[[Bench], Any]
) -> None:
    disk = Disk(bench, latency=100, bad="1")
    requests = [disk.submit(MediaOp.READ, 0), disk.submit(MediaOp.READ, 1)]

    event(bench)

    assert disk.ends == requests
    assert bench.now == 0


def test_diskfaults_suspended_delays_nothing_until_resume(bench: Bench) -> None:
    disk = Disk(bench, latency=100)

    bench.suspend()
    disk.submit(MediaOp.READ)
    assert len(disk.ends) == 1

    bench.resume()
    disk.submit(MediaOp.READ)
    assert len(disk.ends) == 1
    assert bench.run_until_idle()
    assert len(disk.ends) == 2


def test_diskfaults_eject_sends_what_was_asked_of_the_old_medium(bench: Bench) -> None:
    disk = Disk(bench, latency=100)
    request = disk.submit(MediaOp.READ)

    disk.below.media_eject()

    assert disk.ends == [request]
    assert request.error is None


def test_diskfaults_medium_that_was_changed_gets_nothing_of_the_old_one(bench: Bench) -> None:
    disk = Disk(bench, latency=100)
    request = disk.submit(MediaOp.WRITE, data=b"x" * SECTOR)

    disk.medium.change(bytes(SIZE))

    assert disk.ends == [request]
    assert request.error == "VERR_PDM_MEDIA_NOT_MOUNTED"
    assert disk.content == bytes(SIZE)


def test_diskfaults_destroyed_before_it_ran_ends_its_requests() -> None:
    with Bench() as bench:
        disk = Disk.__new__(Disk)
        disk.ends = []
        disk.driver = bench.add_driver("diskfaults", above=disk, below=FakeMedia(CONTENT), latency=100)
        request = disk.submit(MediaOp.READ)

    assert disk.ends == [request]
    assert request.error == "VERR_PDM_MEDIA_NOT_MOUNTED"


def test_diskfaults_neighbour_that_raises_leaves_the_others_their_turn() -> None:
    with Bench(strict=False) as bench:
        disk = Disk(bench, latency=100)

        def raises(request: MediaRequest) -> None:
            raise RuntimeError("the drive has a bug")

        disk.below.media_submit(MediaRequest(MediaOp.FLUSH, raises))
        request = disk.submit(MediaOp.FLUSH)

        assert bench.run_until_idle()
        assert disk.ends == [request]
        assert len(bench.failures) == 1


# --- anything

steps = st.one_of(
    st.tuples(st.sampled_from([*MediaOp]), st.integers(0, 63), st.integers(1, 4)),
    st.sampled_from(["suspend", "resume", "reset", "save", "release"]),
    st.integers(0, 150 * MICROSECOND),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(steps, max_size=30), st.booleans(), st.sampled_from([0, 100]), st.sampled_from([0.0, 0.5, 1.0])
)
def test_diskfaults_ends_each_request_once_and_what_went_well_is_on_the_medium(
    script: list[Any], hold: bool, latency: int, share: float
) -> None:
    with Bench() as bench:
        disk = Disk(
            bench, hold=hold, latency=latency, read_errors=share, write_errors=share, flush_errors=share
        )
        submitted: list[MediaRequest] = []
        model = bytearray(CONTENT)
        for number, step in enumerate(script):
            if isinstance(step, tuple):
                op, sector, count = step
                count = min(count, 64 - sector)
                submitted.append(disk.submit(op, sector, count, bytes([number]) * count * SECTOR))
            elif isinstance(step, int):
                bench.advance(step)
            elif step == "release":
                disk.medium.release_all()
            elif step != ("resume" if bench.state == "running" else "suspend"):
                getattr(bench, step)()
        if bench.state == "suspended":
            bench.resume()
        while not bench.run_until_idle() or disk.medium.held:
            disk.medium.release_all()

        assert Counter(map(id, disk.ends)) == Counter(map(id, submitted))
        assert disk.driver.passed + disk.driver.failed == len(submitted)
        for request in submitted:
            if request.error is None and request.op in (MediaOp.WRITE, MediaOp.DISCARD):
                data = b"".join(request.views) or bytes(request.length)
                model[request.offset : request.offset + len(data)] = data
        assert disk.content == model
