"""The pseudo terminal driver, with real programs' ends of it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_streams import make

from vbox_pdm import PdmError
from vbox_pdm.testing import Bench
from vbox_plugin_host import pty, pump

UP, DOWN = (True, True, False, True), (False, False, False, False)
BIG = bytes(range(256)) * 2048


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


def open_terminal(driver: pty.PtyStream) -> int:
    return os.open(driver.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)


def read_some(bench: Bench, terminal: int, size: int, seconds: float = 10.0) -> bytes:
    data, end = b"", time.monotonic() + seconds
    while len(data) < size and time.monotonic() < end:
        if select.select([terminal], [], [], 0.02)[0]:
            data += os.read(terminal, 65536)
        bench.advance(0)
    return data


def test_bytes_pass_both_ways_unchanged(bench: Bench) -> None:
    line, driver = make(bench, pty, "pty")
    terminal = open_terminal(driver)
    assert bench.wait(lambda: line.status == UP)

    os.write(terminal, b"\x03\x04\r\n\xff\x11\x13")
    assert bench.wait(lambda: line.taken == b"\x03\x04\r\n\xff\x11\x13")
    line.send(b"out\n\xff\x00")
    assert read_some(bench, terminal, 6) == b"out\n\xff\x00"
    os.close(terminal)


def test_programs_come_and_go_and_the_guest_never_waits_for_nobody(bench: Bench) -> None:
    line, driver = make(bench, pty, "pty")

    for number in range(2):
        line.send(BIG)
        assert not line.to_send
        terminal = open_terminal(driver)
        assert bench.wait(lambda: line.status == UP)
        line.send(b"hello %d" % number)
        assert read_some(bench, terminal, 7) == b"hello %d" % number
        os.close(terminal)
        assert bench.wait(lambda: line.status == DOWN)


def test_terminal_that_is_left_full_does_not_keep_the_worker_busy(bench: Bench) -> None:
    line, driver = make(bench, pty, "pty")
    terminal = open_terminal(driver)
    assert bench.wait(lambda: line.status == UP)
    line.send(BIG)
    bench.wait(lambda: False, 0.1)  # what the kernel holds is full
    before = time.process_time()

    os.close(terminal)
    assert bench.wait(lambda: line.status == DOWN)

    assert time.process_time() - before < pump.DRAIN_SECONDS / 2


def test_output_is_held_when_asked(bench: Bench) -> None:
    line, driver = make(bench, pty, "pty", hold=True)
    line.send(b"early")
    bench.wait(lambda: False, 0.2)

    terminal = open_terminal(driver)

    assert read_some(bench, terminal, 5) == b"early"
    os.close(terminal)


def test_large_transfers_lose_nothing_in_either_direction(bench: Bench) -> None:
    line, driver = make(bench, pty, "pty")
    terminal = open_terminal(driver)
    assert bench.wait(lambda: line.status == UP)
    line.send(BIG)
    received, sent = b"", 0

    end = time.monotonic() + 20
    while (len(received) < len(BIG) or len(line.taken) < len(BIG)) and time.monotonic() < end:
        readable, writable, _ = select.select([terminal], [terminal] if sent < len(BIG) else [], [], 0.02)
        if readable:
            received += os.read(terminal, 65536)
        if writable:
            sent += os.write(terminal, BIG[sent : sent + 1024])
        bench.advance(0)
    os.close(terminal)

    assert received == BIG
    assert line.taken == BIG


def test_link_leads_to_the_terminal_and_goes_at_the_end(bench: Bench, tmp_path: Path) -> None:
    link = tmp_path / "console"
    link.symlink_to("/nowhere")

    _, driver = make(bench, pty, "pty", link=str(link))

    assert os.readlink(link) == driver.path
    bench.destruct()
    assert not link.is_symlink()


def test_link_never_replaces_a_file(bench: Bench, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")

    with pytest.raises(PdmError, match="only a link is replaced"):
        make(bench, pty, "pty", link=str(precious))

    assert precious.read_text() == "data"


def test_terminal_survives_suspend_and_resume(bench: Bench) -> None:
    line, driver = make(bench, pty, "pty")
    terminal = open_terminal(driver)
    assert bench.wait(lambda: line.status == UP)

    bench.suspend()
    os.write(terminal, b"typed ahead")
    bench.resume()

    assert bench.wait(lambda: line.taken == b"typed ahead")
    os.close(terminal)
