"""The throw-away overlay, over media in memory and over read-only files."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import Image

from vbox_pdm import MediaOp, PdmError
from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_media import FakeMedia
from vbox_plugin_storage import file_io
from vbox_plugin_storage.overlay import CLUSTER, SECTOR, SectorMap

SIZE = 3 * CLUSTER
CONTENT = random.Random(11).randbytes(SIZE)

aligned = st.integers(0, SIZE // SECTOR - 1).map(lambda sector: sector * SECTOR)
offsets = st.one_of(aligned, aligned, st.integers(0, SIZE - 1))
lengths = st.one_of(st.integers(1, 40).map(lambda n: n * SECTOR), st.integers(0, 3000), st.just(2 * CLUSTER))
operations = st.tuples(st.sampled_from(["read", "write", "write"]), offsets, lengths, st.integers(0, 999))


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=20), st.integers(0, 511))
def test_overlay_equals_a_model_with_everything_under_way(script: list[Any], odd: int) -> None:
    content = CONTENT[: SIZE - odd]
    below = FakeMedia(content, read_only=True, hold=True)
    with Bench() as bench:
        image = Image(bench, "overlay", below=below)
        model, expected, requests = bytearray(content.ljust(SIZE, b"\0")), [], []
        for what, offset, length, seed in script:
            length = min(length, SIZE - offset)
            memory = bytearray(random.Random(seed).randbytes(length))
            views = (memoryview(memory)[: length // 3], memoryview(memory)[length // 3 :])
            if what == "write":
                model[offset : offset + length] = memory
                requests.append(image.start(MediaOp.WRITE, offset, views))
            else:
                expected.append((memory, bytes(model[offset : offset + length])))
                requests.append(image.start(MediaOp.READ, offset, views))
            if seed % 3 == 0 and below.held:
                below.release(seed % len(below.held))
        while not all(request in image.order for request in requests):
            below.release_all()
            bench.wait(lambda: below.held or all(request in image.order for request in requests))
        assert all(request.error is None for request in requests)
        for memory, wanted in expected:
            assert memory == wanted
        below.hold = False
        assert image.read(0, SIZE) == model
        assert below.data == content
        assert all(seen.op is MediaOp.READ for seen in below.seen)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300)), max_size=8), st.integers(0, 700000))
def test_sector_map_runs_cover_a_range_as_a_set_would(pieces: list[tuple[int, int]], offset: int) -> None:
    sectors, mapped = set(), SectorMap()
    for first, count in pieces:
        mapped.add(first * SECTOR, count * SECTOR)
        sectors |= set(range(first, first + count))
    assert mapped.size == len(sectors) * SECTOR
    at, before = offset, None
    for mine, first, length in mapped.runs(offset, 200000):
        assert first == at
        assert length > 0
        assert mine is not before
        assert all(
            (sector in sectors) is mine for sector in range(first // SECTOR, -(-(first + length) // SECTOR))
        )
        at, before = first + length, mine
    assert at == offset + 200000


def test_overlay_over_a_file_is_gone_afterwards_and_the_file_is_untouched(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    path.chmod(0o400)
    (tmp_path / "folder").mkdir()
    for _ in range(2):
        with Bench() as bench:
            below = ("raw-image", {"path": str(path), "read_only": True})
            image = Image(bench, "overlay", below=below, folder=str(tmp_path / "folder"))
            info = image.driver.media_info()
            assert (info.size, info.read_only) == (SIZE, False)
            assert image.read(0, SIZE) == CONTENT
            image.write(1024, b"changed!" * 64)
            assert image.error(MediaOp.FLUSH) is None
            assert image.read(1000, 1000) == CONTENT[1000:1024] + b"changed!" * 64 + CONTENT[1536:2000]
            assert list((tmp_path / "folder").iterdir()) == []
    assert path.read_bytes() == CONTENT


def test_overlay_two_share_one_image(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    with Bench() as one, Bench() as other:
        images = [
            Image(bench, "overlay", below=("raw-image", {"path": str(path), "read_only": True}))
            for bench in (one, other)
        ]
        images[0].write(0, b"1" * 512)
        images[1].write(0, b"2" * 512)
        assert images[0].read(0, 512) == b"1" * 512
        assert images[1].read(0, 512) == b"2" * 512


def test_overlay_discard_zeroes_what_was_written_and_leaves_the_rest(bench: Bench) -> None:
    image = Image(bench, "overlay", below=FakeMedia(CONTENT, read_only=True))
    image.write(4096, b"x" * 4096)
    assert image.error(MediaOp.DISCARD, 0, 16384) is None
    assert image.read(4096, 4096) in (bytes(4096), b"x" * 4096)
    assert image.read(8192, 4096) == CONTENT[8192:12288]


@pytest.mark.parametrize("op", [MediaOp.READ, MediaOp.WRITE, MediaOp.DISCARD])
@pytest.mark.parametrize("offset", [-512, SIZE - 256, SIZE, 1 << 62])
def test_overlay_outside_of_the_medium_nothing_happens(bench: Bench, op: MediaOp, offset: int) -> None:
    image = Image(bench, "overlay", below=FakeMedia(CONTENT))
    assert image.error(op, offset) == "VERR_OUT_OF_RANGE"


def test_overlay_read_error_below_is_passed_on(bench: Bench) -> None:
    below = FakeMedia(CONTENT)
    image = Image(bench, "overlay", below=below)
    image.write(512, b"x" * 512)
    below.fail(MediaOp.READ, "VERR_READ_ERROR", 1024, 512)
    assert image.error(MediaOp.READ, 0, 2048) == "VERR_READ_ERROR"
    assert image.error(MediaOp.WRITE, 1030, 10) == "VERR_READ_ERROR"
    assert image.read(0, 1024) == CONTENT[:512] + b"x" * 512


def test_overlay_new_medium_below_starts_empty_and_is_told(bench: Bench) -> None:
    below = FakeMedia(CONTENT)
    image = Image(bench, "overlay", below=below)
    image.write(0, b"x" * 512)
    told = image.driver.above
    below.change(b"n" * 2048)
    assert image.read(0, 2048) == b"n" * 2048
    assert image.driver.media_info().identity == "another"
    assert told.connected
    image.driver.media_eject()
    assert below.ejected == 1
    assert image.error(MediaOp.READ) == "VERR_PDM_MEDIA_NOT_MOUNTED"


def test_overlay_the_same_medium_again_keeps_what_was_written(bench: Bench) -> None:
    below = FakeMedia(CONTENT)
    image = Image(bench, "overlay", below=below)
    image.write(0, b"x" * 512)
    below.change(CONTENT, identity=below.identity)
    assert image.read(0, 1024) == b"x" * 512 + CONTENT[512:1024]


@pytest.mark.parametrize("identity", ["", "another"])
def test_overlay_medium_that_may_be_another_starts_empty(bench: Bench, identity: str) -> None:
    below = FakeMedia(CONTENT, identity=identity)
    image = Image(bench, "overlay", below=below)
    image.write(0, b"x" * 512)
    below.change(CONTENT + bytes(512 if identity else 0), identity=identity)
    assert image.read(0, 512) == CONTENT[:512]


def test_overlay_disk_full_suspends_and_nothing_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image(bench, "overlay", below=FakeMedia(CONTENT))
    real, full = os.pwritev, [True]

    def pwritev(descriptor: int, views: Any, offset: int) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, views, offset)

    monkeypatch.setattr(file_io.os, "pwritev", pwritev)
    memory = bytearray(1024)
    write = image.start(MediaOp.WRITE, 512, (memoryview(bytearray(b"y" * 512)),))
    read = image.start(MediaOp.READ, 0, (memoryview(memory),))
    assert bench.wait(lambda: bench.runtime_errors)
    assert bench.runtime_errors[0].error_id == "DrvVD_DISKFULL"
    assert "overlay" in bench.runtime_errors[0].text
    bench.suspend()
    full[0] = False
    bench.resume()
    image.finish(write, read)
    assert memory == CONTENT[:512] + b"y" * 512


def test_overlay_suspend_waits_for_a_write_that_waits_for_what_is_around_it(bench: Bench) -> None:
    below = FakeMedia(CONTENT, hold=True)
    image = Image(bench, "overlay", below=below)
    settled = image.driver.queue._settled  # what the host asks while it suspends
    assert settled()
    write = image.start(MediaOp.WRITE, 100, (memoryview(bytearray(b"around")),))
    assert not settled()
    below.release_all()
    image.finish(write)
    assert settled()


def test_overlay_suspend_waits_for_reads_that_are_put_together(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    image = Image(bench, "overlay", below=("raw-image", {"path": str(path), "read_only": True}))
    image.write(512, b"z" * 512)
    memory = bytearray(SIZE)
    requests = [image.start(MediaOp.READ, 0, (memoryview(memory),)) for _ in range(10)]
    requests.append(image.start(MediaOp.WRITE, 2000, (memoryview(bytearray(b"q" * 100)),)))
    bench.suspend()
    assert {id(request) for request in requests} <= {id(request) for request in image.order}
    bench.resume()
    assert image.read(2000, 100) == b"q" * 100


@pytest.mark.parametrize(
    ("folder", "status"), [("none", "VERR_PATH_NOT_FOUND"), ("file", "VERR_PATH_NOT_FOUND")]
)
def test_overlay_impossible_folder_is_named(bench: Bench, tmp_path: Path, folder: str, status: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PdmError) as caught:
        Image(bench, "overlay", below=FakeMedia(512), folder=str(tmp_path / folder))
    assert caught.value.status == status
    assert folder in caught.value.message


def test_overlay_needs_something_below(bench: Bench) -> None:
    with pytest.raises(PdmError):
        Image(bench, "overlay")
