"""SRST, DEVICE RESET, diagnostics, hard resets with something under way."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from ide_host import (
    BSY,
    COMMAND,
    COUNT,
    DATA,
    DEVICE,
    DRQ,
    ERROR,
    HIGH,
    LOW,
    MID,
    READY,
    SRST,
    STATUS,
    Host,
    cdrom,
    disk,
)

from vbox_pdm.drive import DriveReset
from vbox_pdm.testing.fake_drive import FakeDrive

DISK = [1, 1, 1, 0, 0, 0, READY]


def registers(host: Host) -> list[int]:
    return [host.get(register) for register in range(1, 8)]


def begun(host: Host, what: str) -> None:
    """Leave a command in some stage."""
    if what == "idle":
        return
    if what == "packet":
        host.put(COMMAND, 0xA0)
    elif what == "in":
        host.command(0x20, count=2)
        host.receive(100)
    elif what == "out":
        host.command(0x30, count=2)
        host.send(bytes(600))
    elif what == "dma":
        host.command(0xC8)
    elif what == "interrupt":
        host.command(0xEF)


@pytest.mark.parametrize("what", ["idle", "in", "out", "dma", "interrupt"])
def test_software_reset_of_both_devices(what: str) -> None:
    drives = disk(), cdrom()
    host = Host(lun0=drives[0], lun1=drives[1])
    begun(host, what)
    host.control(SRST)
    assert not host.irq
    assert host.alt == host.get(STATUS) == BSY
    host.put(COUNT, 0x55)
    host.put(DEVICE, 0x10)
    host.put(COMMAND, 0x90)
    assert host.alt == BSY
    assert host.get(DATA, 2) == 0xFFFF
    host.control(0)
    assert registers(host) == DISK
    host.put(DEVICE, 0x10)
    assert registers(host) == [1, 1, 1, 0x14, 0xEB, 0x10, 0]
    assert not host.irq
    assert [drive.resets for drive in drives] == [[DriveReset.SOFTWARE]] * 2
    host.put(DEVICE, 0)
    host.command(0xEC)
    assert host.alt == READY | DRQ


def test_software_reset_waits_for_the_request_under_way() -> None:
    drive = disk(hold=True)
    host = Host(lun0=drive)
    host.command(0x20)
    host.control(SRST)
    host.control(0)
    assert host.alt == BSY
    drive.complete()
    assert registers(host) == DISK
    assert not host.irq


def test_software_reset_that_outlasts_the_request() -> None:
    drive = disk(hold=True)
    host = Host(lun0=drive)
    host.command(0x20)
    host.control(SRST)
    drive.complete()
    assert host.alt == BSY
    host.control(0)
    assert registers(host) == DISK


@pytest.mark.parametrize("what", ["idle", "packet", "in", "busy"])
def test_device_reset_gets_through_to_a_packet_device(what: str) -> None:
    drive = cdrom(hold=what == "busy")
    host = Host(lun1=drive)
    host.put(DEVICE, 0xB0)
    if what == "packet":
        host.put(COMMAND, 0xA0)
    elif what != "idle":
        host.packet(bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1]), device=0xB0)
    host.put(COMMAND, 8)
    assert not host.irq
    if what == "busy":
        assert host.alt == BSY
        host.put(COMMAND, 8)  # once is enough
        drive.complete()
    assert registers(host) == [1, 1, 1, 0x14, 0xEB, 0x10, 0]
    assert drive.resets == [DriveReset.DEVICE]
    assert not host.irq


def test_device_reset_of_a_disk_is_a_command_that_it_aborts() -> None:
    host = Host(lun0=(drive := disk()))
    host.put(COMMAND, 8)
    assert host.get(ERROR) == 4
    assert not drive.resets
    host.command(0x20)
    host.put(COMMAND, 8)
    assert host.alt == READY | DRQ


@pytest.mark.parametrize("device", [0, 0x10])
def test_diagnostic_is_for_both_devices(device: int) -> None:
    host = Host(lun0=disk(), lun1=cdrom())
    host.put(DEVICE, device)
    host.put(COUNT, 7)
    host.put(COMMAND, 0x90)
    assert host.irq
    assert registers(host) == DISK
    assert not host.irq
    host.put(DEVICE, 0x10)
    assert registers(host) == [1, 1, 1, 0x14, 0xEB, 0x10, 0]


def test_diagnostic_without_device_0_interrupts_nobody() -> None:
    host = Host(lun1=disk())
    host.put(DEVICE, 0x10)
    host.put(COMMAND, 0x90)
    assert not host.irq
    host.put(DEVICE, 0x10)
    assert not host.irq
    assert host.get(LOW) == 1


def test_hard_reset_takes_a_request_under_way_with_it() -> None:
    drive = disk(hold=True)
    host = Host(lun0=drive)
    host.command(0x30)
    host.send(bytes(512))
    host.bench.reset()
    assert drive.held is None
    host.power()
    assert registers(host) == DISK
    assert not host.irq


def test_hard_reset_waits_for_a_request_under_way() -> None:
    drive = disk(hold=True, stubborn=True)
    host = Host(lun0=drive)
    host.prds((0x2000, 512))
    host.start(True)
    host.command(0xC8)
    ended: list[Any] = []

    def end() -> None:
        time.sleep(0.1)
        ended.append(drive.held)
        drive._release(drive.held)  # type: ignore[arg-type]

    worker = threading.Thread(target=end)
    worker.start()
    host.bench.reset()
    worker.join()
    assert ended
    assert ended[0] is not None
    host.power()
    assert registers(host) == DISK
    assert host.master(2) == 0
    assert not host.irq


def test_drive_that_asks_for_more_and_moves_nothing_is_given_up() -> None:
    class Stuck(FakeDrive):
        def _release(self, request: Any) -> None:
            self.held = None
            request.moved, request.more = 0, True
            request.done(request)

    drive = Stuck()
    drive.commands = disk().commands
    host = Host(lun0=drive)
    host.command(0x20)
    assert host.irq
    assert host.get(ERROR) == 4
    assert host.bench.log_lines


def test_drive_that_raises_does_not_leave_the_channel_busy() -> None:
    class Broken(FakeDrive):
        def drive_submit(self, request: Any) -> None:
            raise RuntimeError("broken")

    drive = Broken()
    drive.commands = disk().commands
    host = Host(lun0=drive)
    host.bench.strict = False
    host.command(0x20)
    assert host.bench.failures
    assert host.irq
    assert host.get(ERROR) == 4
    assert (host.get(MID), host.get(HIGH)) == (0, 0)
    host.bench.reset()
