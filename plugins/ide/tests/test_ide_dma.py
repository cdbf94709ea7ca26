"""Bus-master DMA: the status table of SFF-8038i, odd tables, starts and stops."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ide_host import (
    ACTIVE,
    BM_ERROR,
    BMC,
    BMS,
    BSY,
    COMMAND,
    DRQ,
    ERR,
    ERROR,
    INTERRUPT,
    PTR,
    READY,
    SRST,
    START,
    STATUS,
    TO_MEMORY,
    Host,
    contents,
    disk,
)

from vbox_pdm.testing.fake_drive import FakeDrive

RAM = 4 << 20


def data_of(drive: FakeDrive) -> bytearray:
    data: bytearray = drive.data  # type: ignore[attr-defined]
    return data


@pytest.mark.parametrize("started_first", [False, True])
@pytest.mark.parametrize("most", [None, 512, 1000])
def test_dma_read_of_exact_length_ends_the_table(started_first: bool, most: int | None) -> None:
    host = Host(lun0=(drive := disk(most=most)))
    host.prds((0x2000, 512), (0x5000, 1024), (0x10000, 512))
    if started_first:
        host.start(True)
        assert host.master(BMS) == ACTIVE
    host.command(0xC8, lba=4, count=4)
    if not started_first:
        assert host.alt & DRQ
        assert not host.irq
        host.start(True)
    assert host.irq
    assert host.master(BMS) == INTERRUPT
    assert host.get(STATUS) == READY
    host.stop()
    assert host.master(BMS) == 0
    read = host.bench.memory_read
    assert read(0x2000, 512) + read(0x5000, 1024) + read(0x10000, 512) == data_of(drive)[2048:4096]
    if most is None:
        assert len(drive.steps) == 1


def test_dma_write_goes_the_other_way() -> None:
    host = Host(lun0=(drive := disk()))
    want = bytes(contents(65536 + 1024, 5))
    host.bench.memory_write(0x20000, want)
    host.prds((0x20000, 0), (0x30000, 1024))  # 0 is 64 KiB
    host.command(0xCA, lba=8, count=130)
    host.start(False)
    assert host.irq
    assert host.master(BMS) == INTERRUPT
    assert data_of(drive)[4096 : 4096 + len(want)] == want


def test_dma_table_that_has_more_stays_active() -> None:
    host = Host(lun0=disk())
    host.prds((0x2000, 512), (0x3000, 512))
    host.start(True)
    host.command(0xC8)
    assert host.irq
    assert host.master(BMS) == ACTIVE | INTERRUPT
    host.stop()
    host.prds((0x2000, 1024))
    host.start(True)
    host.command(0xC8)
    assert host.master(BMS) == ACTIVE | INTERRUPT


@pytest.mark.parametrize("to_memory", [True, False])
def test_dma_table_that_ends_first_leaves_the_device_waiting(to_memory: bool) -> None:
    host = Host(lun0=(drive := disk()))
    before = bytes(data_of(drive))
    host.bench.memory_write(0x2000, bytes(0x2000))
    host.prds((0x2000, 512))
    host.start(to_memory)
    host.command(0xC8 if to_memory else 0xCA, count=3)
    assert not host.irq
    assert host.master(BMS) == 0
    assert host.alt & DRQ
    host.stop()
    host.prds((0x3000, 1024))  # another table takes the rest
    host.start(to_memory)
    assert host.irq
    assert host.master(BMS) == INTERRUPT
    assert host.get(STATUS) == READY
    if to_memory:
        assert host.bench.memory_read(0x2000, 512) == before[:512]
        assert host.bench.memory_read(0x3000, 1024) == before[512:1536]
    else:
        assert data_of(drive)[:1536] == bytes(1536)


def test_dma_write_from_a_table_of_no_whole_sector_waits() -> None:
    host = Host(lun0=(drive := disk()))
    host.prds((0x2000, 510))
    host.command(0xCA)
    host.start(False)
    assert not host.irq
    assert host.master(BMS) == 0
    assert not drive.steps
    assert host.alt & DRQ


def test_dma_low_bits_of_descriptors_are_ignored() -> None:
    host = Host(lun0=(drive := disk()))
    host.prds((0x2001, 257), (0x3001, 0x7FFF0101))
    host.set_master(PTR, 0x1003, 4)
    host.command(0xC8)
    host.start(True)
    assert host.master(BMS) == INTERRUPT
    read = host.bench.memory_read
    assert read(0x2000, 256) + read(0x3000, 256) == data_of(drive)[:512]


def test_dma_of_the_other_direction_moves_nothing() -> None:
    host = Host(lun0=(drive := disk()))
    host.prds((0x2000, 512))
    host.start(False)
    host.command(0xC8)
    assert not host.irq
    assert not drive.steps
    assert host.master(BMS) == ACTIVE
    host.stop()
    host.start(True)
    assert host.irq


def test_dma_waits_while_the_function_is_no_bus_master() -> None:
    host = Host(lun0=disk())
    host.prds((0x2000, 512))
    host.bench.pci_write(1, 1, 4, 2, 1)
    host.start(True)
    host.command(0xC8)
    assert not host.irq
    assert host.master(BMS) == ACTIVE
    host.bench.pci_write(1, 1, 4, 2, 5)
    assert host.irq
    assert host.master(BMS) == INTERRUPT


def test_dma_into_a_hole_is_lost_and_an_error() -> None:
    host = Host(lun0=(drive := disk()))
    host.prds((RAM - 256, 512), (0x2000, 512))
    host.start(True)
    host.command(0xC8, count=2)
    assert host.irq
    assert host.master(BMS) == INTERRUPT | BM_ERROR
    assert host.get(STATUS) == READY
    assert host.bench.memory_read(RAM - 256, 256) == data_of(drive)[:256]
    assert host.bench.memory_read(0x2000, 512) == data_of(drive)[512:1024]
    assert host.bench.pci_read(1, 1, 6, 2) == 0x2280
    host.bench.pci_write(1, 1, 6, 2, 0xFFFF)
    assert host.bench.pci_read(1, 1, 6, 2) == 0x0280
    host.set_master(BMS, BM_ERROR)
    assert host.master(BMS) == INTERRUPT


def test_dma_out_of_a_hole_is_ones() -> None:
    host = Host(lun0=(drive := disk()))
    host.prds((0x10000000, 512))
    host.start(False)
    host.command(0xCA)
    assert host.irq
    assert data_of(drive)[:512] == b"\xff" * 512


def test_dma_with_its_table_in_a_hole_reads_ones() -> None:
    host = Host(lun0=disk())
    host.set_master(PTR, 0x10000000, 4)
    host.start(True)
    host.command(0xC8)  # a region at FFFFFFFE
    assert host.irq
    assert host.master(BMS) & BM_ERROR


@pytest.mark.parametrize("regions", [(0x2000, 2), (0x10000000, 0)])
def test_dma_without_eot_is_bounded(regions: tuple[int, int]) -> None:
    host = Host(lun0=disk(contents(512 * 65536)))
    host.bench.memory_write(0x10000, struct.pack("<II", *regions) * 8192)
    host.set_master(PTR, 0x10000, 4)
    host.start(True)
    host.command_ext(0x25, count=0)  # 65536 sectors
    assert host.irq == (regions[1] == 0)
    assert host.master(BMS) & ACTIVE == host.irq


def test_dma_stopped_half_way_lets_the_request_end() -> None:
    host = Host(lun0=(drive := disk(hold=True)))
    host.prds((0x2000, 512))
    host.start(True)
    host.command(0xC8)
    assert host.alt & BSY
    host.set_master(BMC, 0)
    assert host.master(BMS) == 0
    assert host.alt & BSY
    drive.complete()
    assert host.irq
    assert host.master(BMS) == INTERRUPT
    assert host.bench.memory_read(0x2000, 512) == data_of(drive)[:512]


def test_dma_stopped_between_steps_waits_for_another_start() -> None:
    host = Host(lun0=(drive := disk(hold=True, most=512)))
    host.prds((0x2000, 1024))
    host.start(True)
    host.command(0xC8, count=2)
    host.set_master(BMC, 0)
    drive.complete()
    assert not host.irq
    assert host.alt & DRQ
    host.prds((0x4000, 512))
    host.start(True)
    drive.complete()
    assert host.irq
    assert host.master(BMS) == INTERRUPT
    assert host.bench.memory_read(0x4000, 512) == data_of(drive)[512:1024]


def test_dma_error_of_the_drive_stays_active() -> None:
    host = Host(lun0=disk())
    host.prds((0x2000, 2048))
    host.start(True)
    host.command(0xC8, lba=2046, count=4)
    assert host.irq
    assert host.master(BMS) == ACTIVE | INTERRUPT
    assert host.get(STATUS) == READY | ERR
    assert host.get(ERROR) == 0x10


def test_dma_cut_off_by_a_reset_keeps_its_memory_until_it_is_done() -> None:
    host = Host(lun0=(drive := disk(hold=True)))
    host.prds((0x2000, 512))
    host.start(True)
    host.command(0xC8)
    host.control(SRST)
    host.control(0)
    assert host.alt == BSY
    host.put(COMMAND, 0xEC)
    drive.complete()
    assert host.alt == READY
    assert not host.irq
    assert len(drive.steps) == drive.finished == 1
    assert host.bench.memory_read(0x2000, 512) == data_of(drive)[:512]


def test_dma_marks_the_pages_that_it_wrote() -> None:
    host = Host(lun0=disk())
    host.prds((0x2F00, 512), (0x8000, 512))
    host.start(True)
    host.command(0xC8, count=2)
    written = {
        (address + at) >> 12 for address, length, *_ in host.bench.dma_written for at in (0, length - 1)
    }
    assert {2, 3, 8} <= written


regions = st.lists(
    st.tuples(st.integers(0, RAM // 512 + 40).map(lambda at: 0x100000 + 514 * at), st.integers(1, 1500)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(regions, st.integers(1, 12), st.sampled_from([None, 512, 1024]), st.booleans())
def test_dma_read_of_any_table_is_as_the_model(
    table: list[tuple[int, int]], sectors: int, most: int | None, started_first: bool
) -> None:
    host = Host(lun0=(drive := disk(most=most)))
    host.prds(*table)
    if started_first:
        host.start(True)
    host.command(0xC8, count=sectors)
    if not started_first:
        host.start(True)
    memory = bytearray(RAM)
    memory[0x1000 : 0x1000 + 8 * len(table)] = host.bench.memory_read(0x1000, 8 * len(table))
    source, left = 0, 512 * sectors
    for at, (address, count) in enumerate(table):
        count = count & ~1 or 0x10000
        used = min(count, left)
        for index in range(used):
            if (address & ~1) + index < RAM:
                memory[(address & ~1) + index] = data_of(drive)[source + index]
        source, left = source + used, left - used
        if not left:
            ended = used == count and at == len(table) - 1
            break
    else:
        ended = True
    assert host.bench.memory_read(0x100000, RAM - 0x100000) == memory[0x100000:]
    assert host.irq == (left == 0)
    assert bool(host.master(BMS) & ACTIVE) == (not ended)
    assert bool(host.alt & DRQ) == (left > 0)


def test_golden_firmware_reads_with_dma() -> None:
    host = Host(lun0=(drive := disk()))
    host.bench.memory_write(0x6000, struct.pack("<II", 0x7C00, 0x80000000 | 2048))
    host.set_master(PTR, 0x6000, 4)
    host.set_master(BMS, host.master(BMS) | BM_ERROR | INTERRUPT)
    host.set_master(BMC, TO_MEMORY)
    host.command(0xC8, count=4)
    host.set_master(BMC, host.master(BMC) | START)
    assert host.master(BMS) & (INTERRUPT | ACTIVE) == INTERRUPT
    host.set_master(BMC, TO_MEMORY)
    assert host.get(STATUS) & (BSY | DRQ | ERR) == 0
    assert host.bench.memory_read(0x7C00, 2048) == data_of(drive)[:2048]
