"""The file driver."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_streams import make

from vbox_pdm import PdmError
from vbox_pdm.testing import Bench
from vbox_plugin_host import file, pump

BIG = bytes(range(256)) * 4096


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


def test_output_goes_to_the_file_as_it_comes(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old")
    line, _ = make(bench, file, "file", path=str(path))

    line.send(b"new\r\n")

    assert bench.wait(lambda: path.read_bytes() == b"new\r\n")


def test_append_keeps_what_was_there(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old")
    line, _ = make(bench, file, "file", path=str(path), append=True)

    line.send(b"new")

    assert bench.wait(lambda: path.read_bytes() == b"oldnew")


def test_large_output_is_whole_at_the_end(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "log"
    line, _ = make(bench, file, "file", path=str(path))

    line.send(BIG)
    assert bench.wait(lambda: not line.to_send)
    bench.destruct()

    assert path.read_bytes() == BIG


def test_input_that_finds_the_queue_full_comes_later(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "QUEUE_ITEMS", 1)
    source = tmp_path / "input"
    source.write_bytes(BIG)
    line, driver = make(bench, file, "file", path=str(tmp_path / "out"), input=str(source))
    until = time.monotonic() + 5
    while not driver._posts and time.monotonic() < until:  # nobody empties the queue meanwhile
        time.sleep(0.001)

    assert bench.wait(lambda: line.taken == BIG)


def test_input_is_read_at_the_guests_pace_to_its_end(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.write_bytes(BIG)
    line, _ = make(bench, file, "file", path=str(tmp_path / "out"), input=str(source))
    assert bench.wait(lambda: line.taken == BIG)

    assert not line.overrun
    line.send(b"and output still works")
    assert bench.wait(lambda: (tmp_path / "out").read_bytes() == b"and output still works")


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({"path": "{0}/none/log"}, "VERR_FILE_NOT_FOUND"),
        ({"path": "{0}"}, "VERR_ACCESS_DENIED"),
        ({"path": "{0}/log", "input": "{0}/none"}, "VERR_FILE_NOT_FOUND"),
    ],
)
def test_files_that_cannot_be_opened_are_named(
    bench: Bench, tmp_path: Path, config: dict[str, str], status: str
) -> None:
    values = {name: value.format(tmp_path) for name, value in config.items()}

    with pytest.raises(PdmError) as caught:
        make(bench, file, "file", **values)

    assert caught.value.status == status
    assert str(tmp_path) in caught.value.message
    assert not (tmp_path / "log").exists()


def test_full_disk_suspends_and_nothing_is_missing_afterwards(bench: Bench, tmp_path: Path) -> None:
    line, driver = make(bench, file, "file", path="/dev/full")

    line.send(b"precious")
    assert bench.wait(lambda: bench.runtime_errors)
    bench.suspend()
    assert "No space left" in bench.runtime_errors[0].text
    mended = tmp_path / "mended"
    with mended.open("wb") as other:  # the disk has room again
        os.dup2(other.fileno(), driver.sink)
    bench.resume()

    assert bench.wait(lambda: mended.read_bytes() == b"precious")
