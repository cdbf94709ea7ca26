"""Configuration space, decoding, the task file, and devices that are not there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ide_host import (
    BSY,
    COMMAND,
    COUNT,
    DEVICE,
    DRQ,
    ERR,
    ERROR,
    FEATURES,
    HIGH,
    HOB,
    LOW,
    MASTER,
    MID,
    NIEN,
    READY,
    SRST,
    STATUS,
    Host,
    cdrom,
    disk,
)

from vbox_pdm import Device
from vbox_pdm.drive import ATA_SIGNATURE, DriveReset
from vbox_pdm.testing.fake_drive import Answer, FakeDrive


@pytest.mark.parametrize(
    ("kind", "identity", "revision"), [("PIIX3", 0x70108086, 0), ("PIIX4", 0x71118086, 1)]
)
def test_ide_configuration_follows_the_data_sheet(kind: str, identity: int, revision: int) -> None:
    host = Host(on=False, config={"type": kind})
    for offset, size, value in (
        (0x00, 4, identity), (0x04, 2, 0), (0x06, 2, 0x0280), (0x08, 4, 0x01018000 | revision),
        (0x0E, 1, 0), (0x10, 4, 0), (0x14, 4, 0), (0x18, 4, 0), (0x1C, 4, 0), (0x20, 4, 1),
        (0x2C, 4, 0), (0x3C, 2, 0), (0x40, 4, 0), (0x44, 4, 0),
    ):  # fmt: skip
        assert host.bench.pci_read(1, 1, offset, size) == value, hex(offset)
    for offset in range(0, 256, 4):
        if offset != 0x20:
            host.bench.pci_write(1, 1, offset, 4, 0xFFFFFFFF)
    ultra = (0x0F, 0x3333) if kind == "PIIX4" else (0, 0)
    for offset, size, value in (
        (0x00, 4, identity), (0x04, 2, 0x0005), (0x06, 2, 0x0280), (0x0C, 2, 0xF000), (0x10, 4, 0),
        (0x3C, 4, 0), (0x40, 4, 0xF3FFF3FF), (0x44, 1, 0xFF), (0x48, 1, ultra[0]), (0x4A, 2, ultra[1]),
    ):  # fmt: skip
        assert host.bench.pci_read(1, 1, offset, size) == value, hex(offset)


def test_ide_ports_answer_only_where_the_channel_is_decoded() -> None:
    host = Host(on=False, lun0=disk(), lun2=disk())
    assert host.get(STATUS) == 0xFF
    host.bench.pci_write(1, 1, 0x40, 2, 0x8000)
    assert host.get(STATUS) == host.alt == 0xFF  # I/O is off
    host.bench.pci_write(1, 1, 4, 2, 1)
    assert host.get(STATUS) == host.alt == READY
    assert host.bench.port_read(0x177) == 0xFF
    host.bench.pci_write(1, 1, 0x42, 2, 0x8000)
    assert host.bench.port_read(0x177) == host.bench.port_read(0x376) == READY
    host.bench.pci_write(1, 1, 0x41, 1, 0)
    host.put(COUNT, 5)
    assert host.get(STATUS) == 0xFF
    assert host.bench.port_read(0x177) == READY
    host.bench.reset()
    assert host.bench.port_read(0x177) == 0xFF
    host.power()
    assert host.get(COUNT) == 1


@pytest.mark.parametrize("port", [0x3F4, 0x3F5, 0x3F7, 0x374, 0x375, 0x377])
def test_ide_leaves_the_ports_of_the_diskette_alone(port: int) -> None:
    host = Host(lun0=disk())
    assert host.bench.port_read(port) == 0xFF


def test_ide_signatures_after_power_on() -> None:
    host = Host(lun0=disk(), lun1=cdrom())
    assert [host.get(register) for register in range(1, 8)] == [1, 1, 1, 0, 0, 0, READY]
    host.put(DEVICE, 0x10)
    assert [host.get(register) for register in range(1, 8)] == [1, 1, 1, 0x14, 0xEB, 0x10, 0]


def test_ide_registers_are_two_deep() -> None:
    drive = disk()
    host = Host(lun0=drive)
    for register, values in (
        (FEATURES, (1, 2)),
        (COUNT, (3, 4)),
        (LOW, (5, 6)),
        (MID, (7, 8)),
        (HIGH, (9, 10)),
    ):
        for value in values:
            host.put(register, value)
    assert [host.get(register) for register in (COUNT, LOW, MID, HIGH)] == [4, 6, 8, 10]
    host.control(HOB)
    assert [host.get(register) for register in (COUNT, LOW, MID, HIGH)] == [3, 5, 7, 9]
    host.put(DEVICE, 0x40)  # takes HOB back
    assert host.get(COUNT) == 4
    host.put(COMMAND, 0xEF)
    task = drive.steps[0].task
    assert (task.features, task.count, task.lba, task.device) == (0x102, 0x304, 0x0907050A0806, 0x40)


def test_ide_end_of_a_command_shows_both_bytes_of_its_registers() -> None:
    drive = disk()
    drive.commands[0x27] = Answer(count=0x1122, lba=0xAABBCCDDEEFF, device=0x5F, error=0x12, status=0x51)
    host = Host(lun0=drive)
    host.put(COMMAND, 0x27)
    assert host.irq
    assert host.get(ERROR) == 0x12
    assert [host.get(register) for register in (COUNT, LOW, MID, HIGH, DEVICE)] == [
        0x22,
        0xFF,
        0xEE,
        0xDD,
        0x4F,
    ]
    host.control(HOB)
    assert [host.get(register) for register in (COUNT, LOW, MID, HIGH)] == [0x11, 0xCC, 0xBB, 0xAA]
    assert host.get(STATUS) == 0x51


def test_ide_status_takes_the_interrupt_back_and_alternate_status_does_not() -> None:
    host = Host(lun0=disk())
    host.put(COMMAND, 0xEF)
    assert host.irq
    assert host.alt == READY
    assert host.irq
    assert host.get(STATUS) == READY
    assert not host.irq


def test_ide_nien_floats_the_line_without_forgetting() -> None:
    host = Host(lun0=disk())
    host.control(NIEN)
    host.put(COMMAND, 0xEF)
    assert not host.irq
    assert not host.master(2) & 4
    host.control(0)
    assert host.irq
    assert host.master(2) & 4
    host.control(NIEN)
    assert not host.irq
    host.get(STATUS)
    host.control(0)
    assert not host.irq


def test_ide_line_follows_the_selected_device() -> None:
    host = Host(lun0=disk(), lun1=disk())
    host.put(COMMAND, 0xEF)
    host.put(DEVICE, 0x10)
    assert not host.irq
    host.get(STATUS)  # of device 1
    host.put(DEVICE, 0)
    assert host.irq
    host.put(COMMAND, 0xEC)  # a command takes it back, and brings its own
    host.get(STATUS)
    assert not host.irq


@pytest.mark.parametrize("device", [0x00, 0x10])
def test_ide_empty_channel_keeps_nothing(device: int) -> None:
    host = Host(lun2=disk())
    host.put(DEVICE, device)
    host.put(COUNT, 0x55)
    host.put(LOW, 0xAA)
    assert [host.get(register) for register in range(1, 8)] == [0] * 7
    assert host.alt == 0
    host.control(SRST)
    host.control(0)
    for command in (0xEC, 0x90, 0xA0, 0x08):
        host.put(COMMAND, command)
        assert host.get(STATUS) == 0
    assert host.get(0, 2) == 0xFFFF
    assert not host.irq


def test_ide_disk_answers_for_a_missing_device_1() -> None:
    drive = disk()
    host = Host(lun0=drive)
    host.put(DEVICE, 0x10)
    host.put(COUNT, 0x55)
    assert host.get(COUNT) == 0x55
    assert host.get(DEVICE) == 0x10
    assert host.get(STATUS) == host.alt == 0
    host.put(COMMAND, 0xEC)
    assert not drive.steps
    assert host.alt == 0
    host.put(COMMAND, 0x90)
    assert host.irq
    assert [host.get(register) for register in range(1, 8)] == [1, 1, 1, 0, 0, 0, READY]


def test_ide_packet_device_answers_zeros_for_a_missing_device_1() -> None:
    host = Host(lun0=cdrom())
    host.put(DEVICE, 0x10)
    host.put(COUNT, 0x55)
    assert [host.get(register) for register in range(1, 8)] == [0] * 7
    host.put(DEVICE, 0)
    assert host.get(COUNT) == 0x55


def test_ide_missing_device_0_reads_zeros() -> None:
    host = Host(lun1=disk())
    assert [host.get(register) for register in range(1, 8)] == [0] * 7
    host.put(COMMAND, 0xEC)
    assert host.alt == 0
    host.put(DEVICE, 0x10)
    assert host.get(STATUS) == READY
    host.put(COMMAND, 0xEC)
    assert host.get(STATUS) == READY | DRQ


def test_ide_busy_device_takes_nothing() -> None:
    drive = disk(hold=True)
    host = Host(lun0=drive, lun1=disk())
    host.command(0x20, lba=3)
    before = [host.get(register) for register in range(1, 7)]
    assert host.alt & BSY
    for register, value in (
        (COUNT, 9),
        (LOW, 9),
        (DEVICE, 0x10),
        (COMMAND, 0xEC),
        (COMMAND, 0x90),
        (COMMAND, 8),
    ):
        host.put(register, value)
    assert [host.get(register) for register in range(1, 7)] == before
    assert host.alt & BSY
    drive.complete()
    host.put(DEVICE, 0x10)
    host.put(COMMAND, 0xEF)
    assert host.alt & DRQ
    assert len(drive.steps) == 1


def test_ide_unknown_command_is_aborted_with_an_interrupt() -> None:
    host = Host(lun0=disk())
    host.put(COMMAND, 0x77)
    assert host.irq
    assert host.get(STATUS) == READY | ERR
    assert host.get(ERROR) == 4


def test_ide_wide_accesses_of_narrow_registers_are_bytes() -> None:
    host = Host(lun0=disk())
    host.put(COUNT, 0x04030201, 4)
    assert host.get(COUNT, 2) == 0x0201
    assert host.get(LOW, 4) == 0x040302


def test_ide_two_disks_of_each_channel_are_luns() -> None:
    drives = [disk() for _ in range(4)]
    host = Host(**{f"lun{at}": drive for at, drive in enumerate(drives)})
    for at, drive in enumerate(drives):
        host.channel = at >> 1
        host.put(DEVICE, 0x10 * (at & 1))
        host.put(COMMAND, 0xEF)
        assert host.irq
        assert [len(other.steps) for other in drives] == [1] * (at + 1) + [0] * (3 - at)
        assert drive.steps
        host.get(STATUS)


@pytest.mark.parametrize(
    ("lchs", "bits"),
    [
        (None, 0xFF),
        ((1024, 255, 63), 0xFD),
        ((1024, 16, 63), 0xFC),
        ((2000, 16, 63), 0xFD),
        ((20, 4, 17), 0xFC),
    ],
)
def test_ide_tells_firmware_the_translation(lchs: Any, bits: int) -> None:
    class Clock(Device[Any]):
        """CMOS."""

        def pdm_construct(self) -> None:
            self.cells = bytearray(b"\xff" * 128)
            self.helpers.provide_rtc(self)

        def cmos_read(self, index: int) -> int:
            return self.cells[index]

        def cmos_write(self, index: int, value: int) -> None:
            self.cells[index] = value

    host = Host(on=False, lun0=disk(lchs=lchs))
    clock = host.bench.add(Clock)
    host.bench.power_on()
    assert clock.cells[0x39] == bits


def test_ide_without_cmos_is_content() -> None:
    host = Host(lun3=disk(lchs=(1024, 255, 63)))
    host.channel = 1
    host.put(DEVICE, 0x10)
    assert host.get(STATUS) == READY


def test_ide_drive_comes_and_goes() -> None:
    host = Host()
    assert host.get(STATUS) == 0
    drive = disk(hold=True)
    host.bench.attach(host.device, 0, drive)
    assert host.get(STATUS) == READY
    host.command(0x20)
    request = drive.held
    assert request is not None
    host.bench.detach(host.device, 0)
    assert host.get(STATUS) == 0
    assert not host.irq
    host.bench.attach(host.device, 0, other := cdrom())
    assert host.get(MID) == 0x14
    host.put(COMMAND, 0xA1)
    held = host.receive(512)
    drive._release(request)  # late, into memory that is its own
    assert held == other.commands[0xA1].data  # type: ignore[union-attr]
    assert host.get(STATUS) == 0x50


def test_ide_disk_that_appears_below_its_drive_is_seen() -> None:
    drive = FakeDrive(None)
    host = Host(lun0=drive)
    assert host.get(STATUS) == 0
    drive.signature = ATA_SIGNATURE
    drive.notify()
    assert host.get(STATUS) == READY
    drive.signature = None
    drive.notify()
    assert host.get(STATUS) == 0


def test_ide_hard_reset_is_as_power_on() -> None:
    drive = disk()
    host = Host(lun0=drive, lun1=cdrom())
    before = host.bench.save()["piix3ide#0"]
    host.put(DEVICE, 0x10)
    host.put(COUNT, 4)
    host.control(NIEN | HOB)
    host.set_master(4, 0x1234, 4)
    host.set_master(0, 9)
    host.put(DEVICE, 0)
    host.put(COMMAND, 0xEC)
    host.bench.reset()
    assert host.bench.save()["piix3ide#0"] == before
    assert DriveReset.POWER in drive.resets
    assert not host.irq
    host.power()
    assert [host.get(register) for register in range(1, 8)] == [1, 1, 1, 0, 0, 0, READY]


def test_ide_info_says_what_goes_on() -> None:
    host = Host(lun0=disk(hold=True), lun3=cdrom())
    host.command(0x20, lba=0x1234)
    text = host.bench.info(host.device)
    assert text is not None
    assert "command 20 of master" in text
    assert "packet device" in text
    assert "nobody" in text


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)), max_size=30
    )
)
def test_ide_bus_master_registers_keep_their_bits(writes: list[tuple[int, int, int]]) -> None:
    host = Host()
    model = [[0, 0, 0] for _ in range(2)]  # command, status, pointer
    for offset, size, value in writes:
        if offset % size:
            continue
        value &= (1 << 8 * size) - 1
        host.bench.port_write(MASTER + offset, size, value)
        for at in range(size):
            byte = value >> 8 * at & 0xFF
            channel, register = model[offset + at >> 3], offset + at & 7
            if register == 0:
                if byte & 1 and not channel[0] & 1:
                    channel[1] |= 1
                elif not byte & 1:
                    channel[1] &= ~1
                channel[0] = byte & 9
            elif register == 2:
                channel[1] = channel[1] & ~(byte & 6) & ~0x60 | byte & 0x60
            elif register >= 4:
                shift = 8 * (register - 4)
                channel[2] = (channel[2] & ~(0xFF << shift) | byte << shift) & ~3
    for number, (command, status, pointer) in enumerate(model):
        base = MASTER + 8 * number
        assert host.bench.port_read(base) == command
        assert host.bench.port_read(base + 2) == status
        assert host.bench.port_read(base + 4, 4) == pointer
        assert host.bench.port_read(base, 4) == command | status << 16
