"""PIO: blocks, interrupts, errors, bulk transfers; firmware and drivers played register by register."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ide_host import (
    BSY,
    COMMAND,
    COUNT,
    DATA,
    DEVICE,
    DRQ,
    ERR,
    ERROR,
    HIGH,
    INTERRUPT,
    LOW,
    MID,
    MULTIPLE,
    NIEN,
    READY,
    SRST,
    STATUS,
    Host,
    cdrom,
    disk,
)

from vbox_pdm.drive import DriveReset
from vbox_pdm.testing.fake_drive import Answer
from vbox_plugin_ide.channel import BUFFER


def read_blocks(host: Host, blocks: list[int], size: int = 2) -> bytes:
    """What a driver does: an interrupt for each block, none behind the last."""
    data = b""
    for length in blocks:
        assert host.irq
        assert host.get(STATUS) == READY | DRQ
        assert not host.irq
        data += host.receive(length, size)
    assert not host.irq
    assert host.get(STATUS) == READY
    return data


def write_blocks(host: Host, blocks: list[bytes], size: int = 2) -> None:
    """No interrupt for the first block, one for each other and for the end."""
    assert not host.irq
    for at, block in enumerate(blocks):
        assert host.irq == (at > 0)
        assert host.get(STATUS) == READY | DRQ
        assert not host.irq
        host.send(block, size)
    assert host.irq
    assert host.get(STATUS) == READY
    assert not host.irq


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_in_announces_each_block(size: int) -> None:
    host = Host(lun0=(drive := disk()))
    host.command(0x20, lba=5, count=3)
    assert read_blocks(host, [512] * 3, size) == drive.data[512 * 5 : 512 * 8]  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_out_announces_all_but_the_first_block(size: int) -> None:
    host = Host(lun0=(drive := disk()))
    blocks = [bytes([at + 1]) * 512 for at in range(3)]
    host.command(0x30, lba=7, count=3)
    write_blocks(host, blocks, size)
    assert drive.data[512 * 7 : 512 * 10] == b"".join(blocks)  # type: ignore[attr-defined]


def test_pio_multiple_has_longer_blocks_and_a_shorter_last_one() -> None:
    host = Host(lun0=(drive := disk()))
    data: bytearray = drive.data  # type: ignore[attr-defined]
    host.command(0xC4, lba=1, count=MULTIPLE * 2 + 3)
    blocks = [512 * MULTIPLE] * 2 + [512 * 3]
    assert read_blocks(host, blocks, 4) == data[512 : 512 + sum(blocks)]
    host.command(0xC5, lba=100, count=MULTIPLE + 1)
    write_blocks(host, [b"\x11" * 512 * MULTIPLE, b"\x22" * 512], 4)
    assert data[512 * 100 :].startswith(b"\x11" * 512 * MULTIPLE + b"\x22" * 512)


@pytest.mark.parametrize("most", [None, 512 * 100, 700])
def test_pio_of_long_commands_goes_in_steps(most: int | None) -> None:
    drive = disk(most=most)
    host = Host(lun0=drive)
    channel = host.device.channels[0]
    data: bytearray = drive.data  # type: ignore[attr-defined]
    count = 600
    host.command_ext(0x24, lba=9, count=count)
    got = b""
    while host.alt & DRQ:
        got += channel.read_string(0, 4, 1 << 20)
    assert got == data[512 * 9 : 512 * (9 + count)]
    assert max(step.room for step in drive.steps) == BUFFER
    assert [step.position for step in drive.steps][:2] == [0, min(BUFFER, most or BUFFER)]
    host.get(STATUS)
    host.command_ext(0x34, lba=1000, count=count)
    want = bytes(at % 251 for at in range(512 * count))
    sent = 0
    while host.alt & DRQ:
        sent += channel.write_string(0, 2, want[sent:])
    assert sent == len(want)
    assert host.get(STATUS) == READY
    assert data[512 * 1000 : 512 * (1000 + count)] == want
    assert drive.finished == len(drive.steps)


def test_pio_in_error_comes_behind_the_good_sectors() -> None:
    drive = disk()
    good = bytes(drive.data[:1024])  # type: ignore[attr-defined]
    drive.commands[0x20] = Answer(
        Answer.reads(bytes(2048)).phase, good, status=READY | ERR, error=0x40, lba=2, count=2, device=0xE0
    )
    host = Host(lun0=drive)
    host.command(0x20, count=4)
    for at in range(2):
        assert host.irq
        assert host.get(STATUS) == READY | DRQ
        assert host.receive(512) == good[512 * at : 512 * at + 512]
    assert host.irq
    assert host.get(STATUS) == READY | ERR
    assert (host.get(ERROR), host.get(LOW), host.get(COUNT)) == (0x40, 2, 2)


def test_pio_in_error_at_once_interrupts() -> None:
    host = Host(lun0=disk())
    host.command(0x20, lba=1 << 20)
    assert host.irq
    assert host.get(STATUS) == READY | ERR


def test_pio_out_error_ends_the_command() -> None:
    host = Host(lun0=disk())
    host.command(0x30, lba=2047, count=2)
    host.send(bytes(512))
    assert host.irq
    host.send(bytes(512))
    assert host.irq
    assert host.get(STATUS) == READY | ERR
    assert host.get(ERROR) == 0x10


def test_pio_waits_for_a_drive_that_takes_its_time() -> None:
    drive = disk(hold=True)
    host = Host(lun0=drive)
    host.command(0x20)
    assert host.alt == READY | BSY
    assert not host.irq
    assert host.get(DATA, 2) == 0xFFFF
    drive.complete()
    assert host.irq
    read_blocks(host, [512])


def test_pio_data_port_moves_nothing_without_a_block() -> None:
    host = Host(lun0=disk())
    channel = host.device.channels[0]
    assert host.get(DATA, 4) == 0xFFFFFFFF
    host.put(DATA, 0x1234, 2)
    assert channel.read_string(0, 2, 10) == b""
    assert channel.write_string(0, 2, b"12") == 0
    host.command(0x20)
    assert channel.write_string(0, 2, b"12") == 0
    host.put(DATA, 0x1234, 2)
    host.receive(512)
    assert host.get(DATA, 2) == 0xFFFF


def test_pio_bulk_never_passes_the_end_of_a_block() -> None:
    host = Host(lun0=(drive := disk()))
    channel = host.device.channels[0]
    host.command(0x20, count=2)
    host.get(STATUS)
    assert channel.read_string(1, 2, 4) == b""
    assert channel.read_string(0, 1, 4) == b""
    assert channel.read_string(0, 2, 1000) == drive.data[:512]  # type: ignore[attr-defined]
    assert host.irq
    assert channel.read_string(0, 4, 3) == drive.data[512:524]  # type: ignore[attr-defined]
    assert channel.read_string(0, 4, 1000) == drive.data[524:1024]  # type: ignore[attr-defined]
    assert host.alt == READY
    host.command(0x30, count=2)
    assert channel.write_string(0, 2, bytes(2000)) == 512
    assert channel.write_string(0, 2, bytes(5)) == 4
    assert channel.write_string(0, 4, bytes(2000)) == 508
    assert host.alt == READY


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([0x20, 0xC4, 0x30, 0xC5]),
    st.lists(st.tuples(st.sampled_from([2, 4]), st.integers(1, 200)), min_size=1, max_size=30),
)
def test_pio_bulk_is_as_item_by_item(sectors: int, command: int, moves: list[tuple[int, int]]) -> None:
    hosts = [Host(lun0=disk()) for _ in range(2)]
    for host in hosts:
        host.command(command, lba=3, count=sectors)
    for size, count in moves:
        items = bytes(at * 7 & 0xFF for at in range(size * count))
        singles, bulk = hosts
        channel = bulk.device.channels[0]
        if command in (0x20, 0xC4):
            got = b""
            while len(got) < len(items):
                part = channel.read_string(0, size, count - len(got) // size)
                got += part or bulk.get(DATA, size).to_bytes(size, "little")
            assert got == singles.receive(len(items), size)
        else:
            at = 0
            while at < len(items):
                taken = channel.write_string(0, size, items[at:])
                if not taken:
                    taken = size
                    bulk.put(DATA, int.from_bytes(items[at : at + size], "little"), size)
                at += taken
            singles.send(items, size)
        assert bulk.irq == singles.irq
        assert bulk.bench.save()["piix3ide#0"] == singles.bench.save()["piix3ide#0"]
    edges = [[(line, level) for _, line, level in host.bench.irq_edges] for host in hosts]
    assert edges[0] == edges[1]


# --- golden sequences


def settle(host: Host) -> int:
    """Poll alternate status until it is not busy; a drive that answers at once needs no second look."""
    for _ in range(3):
        status = host.alt
        if not status & BSY:
            return status
    raise AssertionError("busy")


def firmware_probe(host: Host, device: int) -> str | None:
    """Find a device the way of a BIOS: floating bus, scratch registers, reset, IDENTIFY."""
    select = 0xA0 | device << 4
    host.put(DEVICE, select)
    settle(host)
    host.put(COUNT, 0x55)
    host.put(LOW, 0xAA)
    if (host.get(COUNT), host.get(LOW), host.get(DEVICE)) != (0x55, 0xAA, select):
        return None
    host.control(8 | NIEN | SRST)
    host.control(8 | NIEN)
    settle(host)
    if device:
        host.put(DEVICE, select)
        settle(host)
        if host.get(DEVICE) != select:
            return None
    for command, kind in ((0xA1, "cd"), (0xEC, "disk")):
        host.control(8 | NIEN)
        host.put(DEVICE, select)
        host.put(COMMAND, command)
        status = settle(host)
        if status & (ERR | DRQ) == DRQ:
            host.receive(512)
            assert not host.get(STATUS) & (BSY | DRQ | ERR)
            host.control(8)
            return kind
    host.control(8)
    return None


def driver_probe(host: Host) -> list[str | None]:
    """Find devices the way of a kernel: device check, software reset, signatures."""
    found = []
    for device in range(2):
        host.put(DEVICE, 0xA0 | device << 4)
        for value in (0x55, 0xAA, 0x55):
            host.put(COUNT, value)
            host.put(LOW, value ^ 0xFF)
        found.append(host.get(COUNT) == 0x55 and host.get(LOW) == 0xAA)
    host.put(DEVICE, 0xA0)
    for value in (8, 8 | SRST, 8):
        host.control(value)
    kinds: list[str | None] = []
    for device in range(2):
        host.put(DEVICE, 0xA0 | device << 4)
        settle(host)
        signature = host.get(MID), host.get(HIGH)
        error, status = host.get(ERROR), host.get(STATUS)
        kind = {(0, 0): "disk", (0x14, 0xEB): "cd"}.get(signature)
        if error not in (0, 1) or (kind == "disk" and not status) or not found[device]:
            kind = None
        kinds.append(kind)
    return kinds


CABLES: list[tuple[str | None, str | None]] = [
    (None, None), ("disk", None), ("cd", None), (None, "disk"), (None, "cd"),
    ("disk", "disk"), ("disk", "cd"), ("cd", "disk"), ("cd", "cd"),
]  # fmt: skip


def cable(kinds: tuple[str | None, str | None], first: int = 0) -> dict[str, Any]:
    make = {"disk": disk, "cd": cdrom}
    return {f"lun{first + at}": make[kind]() for at, kind in enumerate(kinds) if kind}


@pytest.mark.parametrize("kinds", CABLES)
def test_probe_of_firmware_finds_what_is_there(kinds: tuple[str | None, str | None]) -> None:
    host = Host(channel=1, **cable(kinds, 2))
    assert (firmware_probe(host, 0), firmware_probe(host, 1)) == kinds
    assert not host.irq


@pytest.mark.parametrize("kinds", CABLES)
def test_probe_of_a_driver_finds_what_is_there(kinds: tuple[str | None, str | None]) -> None:
    host = Host(**cable(kinds))
    assert tuple(driver_probe(host)) == kinds
    assert not host.irq


def test_golden_driver_identifies_sets_features_reads_and_writes() -> None:
    drive = disk()
    host = Host(lun0=drive)
    assert driver_probe(host) == ["disk", None]
    host.control(8 | NIEN)
    host.put(DEVICE, 0xA0)
    host.put(COMMAND, 0xEC)
    assert settle(host) == host.get(STATUS) == READY | DRQ
    identity = host.receive(512, 4)
    assert identity == drive.commands[0xEC].data  # type: ignore[union-attr]
    host.control(8)
    assert not host.irq
    host.command(0xEF, count=0x45, features=3)
    assert host.irq
    assert host.master(2) & INTERRUPT
    assert host.get(STATUS) == READY
    host.command(0xC6, count=16)
    assert host.get(STATUS) == READY
    host.command_ext(0x24, lba=100, count=2)
    read_blocks(host, [512, 512])
    host.command_ext(0x39, lba=200, count=MULTIPLE)
    write_blocks(host, [bytes(512 * MULTIPLE)])
    host.command(0xE7)
    assert host.get(STATUS) == READY
    assert DriveReset.SOFTWARE in drive.resets
    assert [step.task.command for step in drive.steps] == [0xEC, 0xEF, 0xC6, 0x24, 0x39, 0xE7]
