"""Any access at any time, between completions at any time; states saved and loaded at any time."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ide_host import (
    COMMAND,
    COUNT,
    DATA,
    DEVICE,
    HIGH,
    LOW,
    MASTER,
    MID,
    READY,
    SECTORS,
    SRST,
    STATUS,
    Host,
    cdrom,
    contents,
    disk,
)

from vbox_pdm import StateError
from vbox_pdm.state import decode, encode
from vbox_pdm.testing.fake_drive import FakeDrive
from vbox_plugin_ide.saved import IdeState, LentState

COMMANDS = [
    0x20, 0x24, 0xC4, 0x30, 0x34, 0xC5, 0xC8, 0x25, 0xCA, 0x35,
    0xEC, 0xA1, 0xEF, 0xE7, 0xA0, 0xA0, 0x08, 0x90, 0x77,
]  # fmt: skip


class Random:
    """One script of accesses, from a seed: mostly what makes sense, with nonsense in between."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def steps(self, count: int) -> list[tuple[Any, ...]]:
        made: list[tuple[Any, ...]] = []
        while len(made) < count:
            made += getattr(self, self.random.choice(self.KINDS))()
        return made

    KINDS = (
        "port", "port", "command", "command", "data", "data", "bulk", "bulk", "complete", "complete",
        "master", "dma", "packet", "control", "config",
    )  # fmt: skip

    def base(self) -> int:
        return self.random.choice((0x1F0, 0x1F0, 0x170))

    def port(self) -> list[tuple[Any, ...]]:
        port = self.base() + self.random.randrange(8)
        size = self.random.choice((1, 1, 1, 2, 4))
        if self.random.random() < 0.5:
            return [("read", port, size)]
        return [("write", port, size, self.random.getrandbits(8 * size))]

    def command(self) -> list[tuple[Any, ...]]:
        base, pick = self.base(), self.random.choice
        device = pick((0xE0, 0xE0, 0xF0))
        values = (
            (DEVICE, device), (1, pick((0, 0, 1, 2, 3))), (COUNT, 0), (LOW, 0), (MID, 0), (HIGH, 0),
            (COUNT, pick((0, 1, 2, 9, 255))), (LOW, self.random.randrange(256)), (MID, pick((0, 7))),
            (HIGH, pick((0, 0, 8))), (COMMAND, pick(COMMANDS)),
        )  # fmt: skip
        return [("write", base + register, 1, value) for register, value in values]

    def packet(self) -> list[tuple[Any, ...]]:
        pick = self.random.choice
        raw = bytes(
            [
                pick((0x28, 0x28, 0x12, 0x55, 0, 0xFF)),
                0,
                0,
                0,
                pick((0, 5)),
                pick((1, 70)),
                0,
                pick((0, 0, 1)),
                pick((1, 3, 200)),
            ]
        )
        return [("out", self.base(), 2, raw.ljust(12, b"\0"))]

    def data(self) -> list[tuple[Any, ...]]:
        base, size = self.base() + DATA, self.random.choice((1, 2, 4))
        many = range(self.random.choice((1, 3, 20)))
        if self.random.random() < 0.5:
            return [("read", base, size) for _ in many]
        return [("write", base, size, self.random.getrandbits(8 * size)) for _ in many]

    def bulk(self) -> list[tuple[Any, ...]]:
        base, size = self.base(), self.random.choice((2, 4))
        count = self.random.choice((1, 5, 100, 256, 5000))
        return [("in", base, size, count), ("out", base, size, bytes(count * size))]

    def complete(self) -> list[tuple[Any, ...]]:
        return [("complete", self.random.randrange(4))]

    def master(self) -> list[tuple[Any, ...]]:
        port = MASTER + self.random.randrange(16)
        return [("write", port, 1, self.random.getrandbits(8)), ("read", port, 1)]

    def dma(self) -> list[tuple[Any, ...]]:
        base, table = MASTER + self.random.choice((0, 8)), self.random.choice((0x1000, 0xFFF8, 0x7FFFFFF0))
        words = [
            self.random.choice((0x2000, 0x9001, 0x3FFF00, 0xFFFFFF00)),
            self.random.choice((512, 0, 3, 0x80000400, 0x80000000)),
        ] * 3
        raw = b"".join(word.to_bytes(4, "little") for word in words)
        command = self.random.choice((1, 9, 0))
        return [
            ("memory", table, raw),
            ("write", base + 4, 4, table),
            ("write", base, 1, 0),
            ("write", base, 1, command),
        ]

    def control(self) -> list[tuple[Any, ...]]:
        port = self.random.choice((0x3F6, 0x3F6, 0x376))
        value = self.random.choice((0, 2, 0x80, SRST, self.random.getrandbits(8)))
        return [("write", port, 1, value), ("read", port, 1), ("write", port, 1, value & ~SRST)]

    def config(self) -> list[tuple[Any, ...]]:
        offset, value = self.random.choice(((4, 1), (0x41, 0), (0x41, 0x80), (4, 0), (0x43, 0x80)))
        return [("config", offset, value), ("config", offset, 5 if offset == 4 else 0x80)]


def machine(seed: int) -> tuple[Host, list[FakeDrive]]:
    choose = random.Random(seed)
    most = choose.choice((None, None, 512, 1000))
    drives = [
        disk(contents(512 * 300), hold=True, most=most),
        cdrom(hold=True, most=most),
        cdrom(hold=choose.random() < 0.5),
        disk(contents(512 * 20)),
    ]
    luns = {f"lun{at}": drive for at, drive in enumerate(drives) if choose.random() < 0.85}
    return Host(**luns), [drive for at, drive in enumerate(drives) if f"lun{at}" in luns]


def apply(host: Host, drives: list[FakeDrive], step: tuple[Any, ...]) -> Any:
    bench = host.bench
    match step:
        case ("read", port, size):
            return bench.port_read(port, size)
        case ("write", port, size, value):
            bench.port_write(port, size, value)
        case ("in", port, size, count):
            return host.device.channels[port == 0x170].read_string(0, size, count)
        case ("out", port, size, items):
            return host.device.channels[port == 0x170].write_string(0, size, items)
        case ("complete", number):
            drives[number % len(drives)].complete() if drives else None
        case ("memory", address, data):
            bench.memory_write(address, data)
        case ("config", offset, value):
            bench.pci_write(1, 1, offset, 1, value)
    return bench.irq(14), bench.irq(15)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_state_machine_survives_anything_and_answers_for_every_request(seed: int) -> None:
    host, drives = machine(seed)
    for step in Random(seed).steps(150):
        apply(host, drives, step)
        for channel in host.device.channels:
            flying = [
                drive for drive in drives if drive.held is not None and drive.held.cookie is channel.flying
            ]
            assert len(flying) == (channel.flying is not None)
    for drive in drives:
        assert len(drive.steps) == drive.finished + (drive.held is not None)
    host.bench.reset()
    assert not host.bench.irq(14)
    assert not host.bench.irq(15)
    for drive in drives:
        assert drive.held is None
        assert len(drive.steps) == drive.finished
    assert all(channel.flying is None and channel.command is None for channel in host.device.channels)
    host.power()
    for drive in drives:
        drive.hold = False
    for number, channel in enumerate(host.device.channels):
        host.channel = number
        if channel.units[0].present:
            host.put(DEVICE, 0)
            host.put(COMMAND, 0xA1 if channel.units[0].packet else 0xEC)
            assert host.get(STATUS) == READY | 8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32))
def test_saved_state_goes_on_identically_in_another_machine(seed: int) -> None:
    (first, drives), (second, others) = machine(seed), machine(seed)
    script = Random(seed).steps(160)
    for step in script[:80]:
        apply(first, drives, step)
    for drive in drives:  # what a reset cut off is in no state: let it end
        if drive.held is not None and drive.held.cookie.cancelled:  # type: ignore[attr-defined]
            drive.complete()
    saved = first.bench.save()
    edges = len(second.bench.irq_edges)
    second.bench.load(saved)
    assert len(second.bench.irq_edges) == edges
    for drive, other in zip(drives, others, strict=True):
        copy_medium(drive, other)
        assert (other.held is not None) == (drive.held is not None)
    for step in script[80:]:
        assert apply(first, drives, step) == apply(second, others, step), step
    assert first.bench.save()["piix3ide#0"] == second.bench.save()["piix3ide#0"]
    assert first.bench.memory_read(0, 4 << 20) == second.bench.memory_read(0, 4 << 20)


def copy_medium(drive: FakeDrive, other: FakeDrive) -> None:
    for name in ("data", "written"):
        source = getattr(drive, name, None)
        if isinstance(source, bytearray):
            getattr(other, name)[:] = source


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_saved_state_loaded_where_it_was_saved_changes_nothing(seed: int) -> None:
    host, drives = machine(seed)
    script = Random(seed).steps(120)
    for step in script[:60]:
        apply(host, drives, step)
    saved = host.bench.save()
    steps = [len(drive.steps) for drive in drives]
    assert host.bench.save()["piix3ide#0"] == saved["piix3ide#0"]
    assert [len(drive.steps) for drive in drives] == steps  # nothing was submitted twice
    for step in script[60:]:
        apply(host, drives, step)
    host.bench.load(saved)
    for drive in drives:  # what was under way comes back to nobody, and what was loaded follows
        drive.complete()
    assert all(len(drive.steps) == drive.finished + (drive.held is not None) for drive in drives)
    for step in script[60:]:
        apply(host, drives, step)
    host.bench.reset()


def test_suspended_request_is_submitted_once_and_again_after_a_load() -> None:
    drive = disk(hold=True)
    host = Host(lun0=drive)
    host.command(0x20, lba=4)
    saved = host.bench.save()
    assert len(drive.steps) == 1
    host.bench.suspend()
    host.bench.resume()
    assert len(drive.steps) == 1
    other = disk(hold=True)
    second = Host(on=False, lun0=other)
    second.bench.load(saved)
    assert [step[:3] for step in other.steps] == [step[:3] for step in drive.steps]
    other.complete()
    assert second.irq
    assert second.receive(512) == drive.data[2048:2560]  # type: ignore[attr-defined]


@pytest.mark.parametrize("asserted", [True, False])
def test_saved_reset_that_waits_for_a_request_is_over_elsewhere(asserted: bool) -> None:
    host = Host(lun0=disk(hold=True))
    host.command(0x20)
    host.control(SRST)
    if not asserted:
        host.control(0)
    second = Host(lun0=(drive := disk()))
    second.bench.load(host.bench.save())
    assert (second.alt == 0x80) == asserted
    second.control(0)
    assert second.alt == READY
    assert not drive.steps


@pytest.mark.parametrize("stopped", [False, True])
def test_loaded_dma_has_the_memory_that_was_lent(stopped: bool) -> None:
    host = Host(lun0=disk(hold=True))
    host.prds((0x2000, 512), (0x4000, 512))
    host.start(True)
    host.command(0xC8, count=2)
    if stopped:
        host.stop()
    second = Host(on=False, lun0=(drive := disk()))
    second.bench.load(host.bench.save())
    assert second.irq
    assert second.master(2) == 4
    data = drive.data  # type: ignore[attr-defined]
    assert second.bench.memory_read(0x2000, 512) + second.bench.memory_read(0x4000, 512) == data[:1024]


def test_loaded_write_has_the_data_of_the_host() -> None:
    host = Host(lun0=disk(hold=True))
    host.command(0x30, lba=4, count=2)
    host.send(b"\xa5" * 1024)
    second = Host(on=False, lun0=(drive := disk()))
    second.bench.load(host.bench.save())
    assert drive.data[2048:3072] == b"\xa5" * 1024  # type: ignore[attr-defined]
    assert second.irq


def test_load_where_another_drive_hangs_shows_it_as_after_power_on() -> None:
    host = Host(lun0=disk(hold=True), lun1=disk())
    host.command(0x20)
    second = Host(lun0=cdrom())
    second.bench.load(host.bench.save())
    assert [second.get(register) for register in (COUNT, LOW, MID, HIGH)] == [1, 1, 0x14, 0xEB]
    assert second.get(STATUS) == 0
    second.put(DEVICE, 0x10)
    assert second.get(STATUS) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"at": 512}, {"end": 5000}, {"data": b""}, {"block": 0}, {"block": 1 << 30}, {"position": -1},
        {"dma": True}, {"lba": 1 << 48}, {"lent": LentState(((0, 512),), True, True)}, {"packet": b"123"},
        {"at": -4}, {"data": bytes(200000)},
    ],
)  # fmt: skip
def test_load_of_a_command_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    host = Host(lun0=disk())
    host.command(0x20)
    saved = host.bench.save()
    state = decode(IdeState, saved["piix3ide#0"])
    channel = state.channels[0]
    command = channel.command
    assert command is not None
    bad = attrs.evolve(channel, command=attrs.evolve(command, **change))
    saved["piix3ide#0"] = encode(IdeState((bad, state.channels[1])))
    with pytest.raises(StateError):
        host.bench.load(saved)
    assert host.receive(512) == contents(512 * SECTORS)[:512]
