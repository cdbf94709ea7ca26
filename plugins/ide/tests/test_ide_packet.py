"""PACKET: blocks and their byte counts, DMA, errors."""

from __future__ import annotations

import struct

import pytest
from ide_host import (
    BMS,
    BSY,
    COMMAND,
    COUNT,
    DATA,
    DEVICE,
    DRQ,
    ERR,
    ERROR,
    FEATURES,
    HIGH,
    INTERRUPT,
    MID,
    NIEN,
    READY,
    STATUS,
    Host,
    cdrom,
)

from vbox_plugin_ide.command import packet_block

CD, IO = 1, 2


def read10(lba: int, count: int) -> bytes:
    return struct.pack(">BxIxHxxx", 0x28, lba, count)


def end(host: Host, status: int = READY) -> None:
    """The status phase of a packet."""
    assert host.irq
    assert host.get(COUNT) & 7 == CD | IO
    assert host.get(STATUS) == status
    assert not host.irq


def blocks(host: Host, reason: int = IO) -> list[int]:
    """Byte count of each block, whose data are moved as well."""
    counts = []
    while host.alt & DRQ:
        assert host.irq
        assert host.get(STATUS) == READY | DRQ
        assert host.get(COUNT) & 7 == reason
        counts.append(host.get(MID) | host.get(HIGH) << 8)
        if reason == IO:
            host.receive(counts[-1])
        else:
            host.send(bytes(counts[-1]))
    return counts


def test_packet_in_announces_each_block_with_its_byte_count() -> None:
    host = Host(lun0=(drive := cdrom()))
    host.packet(read10(3, 2), limit=2048)
    got = b""
    for _ in range(2):
        assert host.irq
        assert host.get(STATUS) == READY | DRQ
        assert host.get(COUNT) == IO
        assert host.get(MID) | host.get(HIGH) << 8 == 2048
        got += host.receive(2048)
    end(host)
    assert got == drive.data[2048 * 3 : 2048 * 5]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("limit", "total", "expected"),
    [
        (2048, 4096, [2048, 2048]),
        (0xFFFE, 4096, [4096]),
        (0xFFFF, 65536, [65534, 2]),
        (0, 65536, [65534, 2]),
        (3000, 4096, [3000, 1096]),
        (2049, 4096, [2048, 2048]),
        (4097, 4096, [4096]),
        (1, 4096, [2] * 2048),
        (63488, 262144, [63488, 63488, 63488, 63488, 8192]),
    ],
)
def test_packet_blocks_keep_the_limit(limit: int, total: int, expected: list[int]) -> None:
    host = Host(lun0=cdrom(bytes(1 << 18)))
    host.packet(read10(0, total // 2048), limit=limit)
    assert blocks(host) == expected
    end(host)


@pytest.mark.parametrize("limit", [*range(0, 40), 0xFFFD, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("length", [1, 7, 36, 70000])
def test_packet_block_is_never_empty_and_even_unless_it_is_all(limit: int, length: int) -> None:
    block = packet_block(limit, length)
    assert 1 <= block <= 0xFFFE
    assert block <= max(limit or 0xFFFE, 2)
    assert block % 2 == 0 or block >= length


def test_packet_with_less_to_say_ends_early() -> None:
    host = Host(lun0=cdrom())
    host.packet(bytes([0x12, 0, 0, 0, 96]), limit=0xFFFE)
    assert blocks(host) == [36]
    end(host)


def test_packet_of_odd_length_pads_the_last_item() -> None:
    host = Host(lun0=cdrom())
    host.packet(bytes([0x12, 0, 0, 0, 5]), limit=5)
    assert host.get(MID) == 5
    assert host.receive(6) == bytes([0, 1, 2, 3, 4, 0])
    end(host)


def test_packet_out_announces_each_block() -> None:
    host = Host(lun0=(drive := cdrom()))
    host.packet(struct.pack(">BxxxxxxHxxx", 0x55, 28), limit=20)
    sent = bytes(range(100, 128))
    for part in (sent[:20], sent[20:]):
        assert host.irq
        assert host.get(STATUS) == READY | DRQ
        assert host.get(COUNT) == 0
        assert host.get(MID) == len(part)
        host.send(part)
    end(host)
    assert drive.written[:28] == sent  # type: ignore[attr-defined]


def test_packet_without_data_goes_to_the_status_phase() -> None:
    host = Host(lun0=cdrom())
    host.packet(bytes(12))
    end(host, READY | ERR)
    assert host.get(ERROR) == 0x24


def test_packet_that_the_drive_does_not_know_is_an_error() -> None:
    host = Host(lun0=cdrom())
    host.packet(b"\xee")
    end(host, READY | ERR)


def test_packet_dma_in() -> None:
    host = Host(lun0=(drive := cdrom()))
    host.prds((0x2000, 2048), (0x4000, 2048))
    host.packet(read10(1, 2), features=1)
    assert host.alt & DRQ
    assert not host.irq
    assert host.get(DATA, 2) == 0xFFFF
    host.start(True)
    assert host.master(BMS) == INTERRUPT
    end(host)
    read = host.bench.memory_read
    assert read(0x2000, 2048) + read(0x4000, 2048) == drive.data[2048:6144]  # type: ignore[attr-defined]


def test_packet_dma_out_of_any_length() -> None:
    host = Host(lun0=(drive := cdrom()))
    host.bench.memory_write(0x2000, bytes(range(28)))
    host.prds((0x2000, 28))
    host.start(False)
    host.packet(struct.pack(">BxxxxxxHxxx", 0x55, 28), features=1)
    end(host)
    assert drive.written[:28] == bytes(range(28))  # type: ignore[attr-defined]


def test_packet_dma_without_data_needs_no_bus_master() -> None:
    host = Host(lun0=cdrom())
    host.packet(bytes(12), features=1)
    end(host, READY | ERR)


def test_packet_with_overlap_is_aborted() -> None:
    host = Host(lun0=(drive := cdrom()))
    host.put(FEATURES, 2)
    host.put(COMMAND, 0xA0)
    end(host, READY | ERR)
    assert host.get(ERROR) == 4
    assert not drive.steps


def test_packet_waits_for_a_drive_that_takes_its_time() -> None:
    host = Host(lun0=(drive := cdrom(hold=True)))
    host.packet(read10(0, 1))
    assert host.alt & BSY
    assert not host.irq
    drive.complete()
    assert blocks(host) == [2048]
    end(host)


def test_packet_to_a_disk_is_an_ordinary_command() -> None:
    host = Host(lun1=cdrom())
    host.put(DEVICE, 0x10)
    host.put(COMMAND, 0xEC)  # and IDENTIFY DEVICE shows what a packet device is
    assert host.get(STATUS) == READY | ERR
    assert (host.get(MID), host.get(HIGH)) == (0x14, 0xEB)


def test_golden_firmware_reads_a_sector_of_a_cd() -> None:
    host = Host(lun2=(drive := cdrom()), channel=1)
    host.control(8 | NIEN)
    host.put(DEVICE, 0xA0)
    assert not host.get(STATUS) & BSY
    for register, value in ((FEATURES, 0), (COUNT, 0), (MID, 0x00), (HIGH, 0x08), (DEVICE, 0xA0)):
        host.put(register, value)
    host.put(COMMAND, 0xA0)
    assert host.get(STATUS) & (BSY | DRQ | ERR) == DRQ
    host.send(read10(16, 1).ljust(12, b"\0"), 2)
    assert host.get(STATUS) & (BSY | DRQ | ERR) == DRQ
    channel = host.device.channels[1]
    assert channel.read_string(0, 4, 512) == drive.data[2048 * 16 : 2048 * 17]  # type: ignore[attr-defined]
    assert host.get(STATUS) & (BSY | DRQ | ERR) == 0
    host.control(8)
    assert not host.irq


def test_golden_driver_reads_a_cd_by_interrupts() -> None:
    host = Host(lun0=(drive := cdrom(hold=True)))
    host.control(8)
    host.packet(read10(0, 4), limit=0xFFFF)
    drive.complete()
    assert host.irq
    assert host.get(STATUS) & (BSY | DRQ) == DRQ
    assert host.get(COUNT) == IO
    assert host.get(MID) | host.get(HIGH) << 8 == 8192
    assert host.receive(8192, 4) == drive.data[:8192]  # type: ignore[attr-defined]
    end(host)
