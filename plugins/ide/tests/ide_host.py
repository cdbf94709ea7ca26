"""The controller on a bench, as a guest's driver sees it, and drives with something on them."""

from __future__ import annotations

import random
import struct
from typing import Any

from vbox_pdm import TaskFile
from vbox_pdm.drive import ATAPI_SIGNATURE, Direction, Phase
from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_drive import Answer, FakeDrive
from vbox_plugin_ide import piix3ide

DATA, FEATURES, COUNT, LOW, MID, HIGH, DEVICE, COMMAND = range(8)
ERROR, STATUS = FEATURES, COMMAND
BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
READY = DRDY | DSC
NIEN, SRST, HOB = 2, 4, 0x80
BMC, BMS, PTR = 0, 2, 4
START, TO_MEMORY = 1, 8
ACTIVE, BM_ERROR, INTERRUPT = 1, 2, 4
MASTER = 0xC000
SECTORS = 2048
MULTIPLE = 8
"""Sectors a block of READ MULTIPLE and WRITE MULTIPLE of `disk`."""


def contents(size: int, seed: int = 1) -> bytearray:
    """Bytes that differ everywhere."""
    return bytearray(random.Random(seed).randbytes(size))


def disk(data: bytearray | None = None, **more: Any) -> FakeDrive:
    """A disk with the usual commands on `data`."""
    data = contents(512 * SECTORS) if data is None else data
    drive = FakeDrive(**more)
    drive.data = data  # type: ignore[attr-defined]

    def where(task: TaskFile) -> tuple[int, int]:
        wide = task.command in (0x24, 0x25, 0x29, 0x34, 0x35, 0x39)
        count = (task.count or 0x10000) if wide else (task.count & 0xFF or 256)
        lba = task.lba if wide else task.lba & 0xFFFFFF | (task.device & 15) << 24
        return 512 * lba, 512 * count

    def read(task: TaskFile, packet: bytes) -> Answer:
        at, length = where(task)
        block = 512 * MULTIPLE if task.command in (0x29, 0xC4) else 512
        answer = Answer.reads(
            bytes(data[at : at + length]), block, dma=task.command in (0xC8, 0x25), length=length
        )
        if at + length > len(data):
            return Answer(answer.phase, answer.data, status=0x51, error=0x10, lba=len(data) // 512)
        return answer

    def write(task: TaskFile, packet: bytes) -> Answer:
        at, length = where(task)
        block = 512 * MULTIPLE if task.command in (0x39, 0xC5) else 512

        def store(position: int, more: bytes) -> None:
            data[at + position : at + position + len(more)] = more

        phase = Phase(Direction.OUT, length, block, task.command in (0xCA, 0x35))
        if at + length > len(data):
            room = max(0, len(data) - at)
            return Answer(phase, store=store, accept=room, status=0x51, error=0x10)
        return Answer(phase, store=store)

    for command in (0x20, 0x24, 0xC4, 0x29, 0xC8, 0x25):
        drive.commands[command] = read
    for command in (0x30, 0x34, 0xC5, 0x39, 0xCA, 0x35):
        drive.commands[command] = write
    identity = bytes(contents(512, 7))
    drive.commands[0xEC] = Answer.reads(identity)
    drive.commands[0xA1] = Answer(status=0x51, error=4)
    for command in (0xEF, 0xC6, 0xE7, 0x10, 0x91):
        drive.commands[command] = Answer()
    return drive


def cdrom(data: bytes | None = None, **more: Any) -> FakeDrive:
    """A CD drive: READ(10), INQUIRY, TEST UNIT READY, MODE SELECT(10); the rest is refused."""
    data = bytes(contents(2048 * 64, 3)) if data is None else data
    drive = FakeDrive(ATAPI_SIGNATURE, **more)
    drive.data = data  # type: ignore[attr-defined]
    drive.written = bytearray(4096)  # type: ignore[attr-defined]

    def read(task: TaskFile, packet: bytes) -> Answer:
        lba, count = struct.unpack_from(">xxIxH", packet)
        at, length = 2048 * lba, 2048 * count
        if at + length > len(data):
            return Answer(Phase(Direction.IN, length, 2048, True), status=0x51, error=0x54)
        return Answer.reads(data[at : at + length], 2048, dma=True)

    def inquiry(task: TaskFile, packet: bytes) -> Answer:
        return Answer.reads(bytes(range(36)), 2048, dma=True, length=packet[4])

    def select(task: TaskFile, packet: bytes) -> Answer:
        (length,) = struct.unpack_from(">7xH", packet)

        def store(position: int, more: bytes) -> None:
            drive.written[position : position + len(more)] = more  # type: ignore[attr-defined]

        return Answer(Phase(Direction.OUT, length, 2048, True), store=store)

    drive.packets = {0x28: read, 0x12: inquiry, 0x55: select, 0x00: Answer(status=0x51, error=0x24)}
    drive.packets[0xFF] = Answer(status=0x51, error=0x54)
    drive.commands[0xA1] = Answer.reads(bytes(contents(512, 8)))
    drive.commands[0xEC] = Answer(status=0x51, error=4, count=1, lba=0xEB1401)
    return drive


class Host:
    """A guest's driver of one channel at a time."""

    def __init__(self, *, on: bool = True, channel: int = 0, config: Any = None, **drives: Any) -> None:
        self.bench = Bench(ram=4 << 20)
        self.bench.plugin(piix3ide)
        self.device = self.bench.add("piix3ide", config=config or {}, **drives)
        self.channel = channel
        if on:
            self.power()

    def power(self) -> None:
        """What firmware does."""
        self.bench.pci_write(1, 1, 0x20, 4, MASTER)
        self.bench.pci_write(1, 1, 4, 2, 5)
        self.bench.pci_write(1, 1, 0x40, 4, 0x80008000)

    @property
    def ports(self) -> int:
        return (0x1F0, 0x170)[self.channel]

    @property
    def control_port(self) -> int:
        return (0x3F6, 0x376)[self.channel]

    @property
    def irq(self) -> bool:
        return self.bench.irq(14 + self.channel)

    def get(self, register: int, size: int = 1) -> int:
        return self.bench.port_read(self.ports + register, size)

    def put(self, register: int, value: int, size: int = 1) -> None:
        self.bench.port_write(self.ports + register, size, value)

    @property
    def alt(self) -> int:
        return self.bench.port_read(self.control_port)

    def control(self, value: int) -> None:
        self.bench.port_write(self.control_port, 1, value)

    def master(self, register: int, size: int = 1) -> int:
        return self.bench.port_read(MASTER + 8 * self.channel + register, size)

    def set_master(self, register: int, value: int, size: int = 1) -> None:
        self.bench.port_write(MASTER + 8 * self.channel + register, size, value)

    def command(self, command: int, lba: int = 0, count: int = 1, device: int = 0xE0, features: int = 0):  # type: ignore[no-untyped-def]
        """A 28-bit command."""
        self.put(DEVICE, device | lba >> 24 & 15)
        self.put(FEATURES, features)
        self.put(COUNT, count & 0xFF)
        for register in (LOW, MID, HIGH):
            self.put(register, lba & 0xFF)
            lba >>= 8
        self.put(COMMAND, command)

    def command_ext(self, command: int, lba: int = 0, count: int = 1, device: int = 0xE0) -> None:
        """A 48-bit command."""
        self.put(DEVICE, device)
        for shift in (8, 0):
            self.put(COUNT, count >> shift & 0xFF)
            self.put(LOW, lba >> (24 if shift else 0) & 0xFF)
            self.put(MID, lba >> (32 if shift else 8) & 0xFF)
            self.put(HIGH, lba >> (40 if shift else 16) & 0xFF)
        self.put(COMMAND, command)

    def packet(self, packet: bytes, limit: int = 0xFFFE, features: int = 0, device: int = 0xA0) -> None:
        """PACKET, and the packet."""
        self.put(DEVICE, device)
        self.put(FEATURES, features)
        self.put(MID, limit & 0xFF)
        self.put(HIGH, limit >> 8)
        self.put(COMMAND, 0xA0)
        assert self.get(STATUS) & (BSY | DRQ) == DRQ
        assert self.get(COUNT) == 1
        assert not self.irq
        self.send(packet.ljust(12, b"\0"))

    def receive(self, length: int, size: int = 2) -> bytes:
        return b"".join(self.get(DATA, size).to_bytes(size, "little") for _ in range(0, length, size))

    def send(self, data: bytes, size: int = 2) -> None:
        for at in range(0, len(data), size):
            self.put(DATA, int.from_bytes(data[at : at + size], "little"), size)

    def prds(self, *regions: tuple[int, int], table: int = 0x1000, eot: bool = True) -> None:
        """A table of (address, count as written), and the pointer to it."""
        entries = [
            struct.pack("<II", address, count | (0x80000000 if eot and at == len(regions) - 1 else 0))
            for at, (address, count) in enumerate(regions)
        ]
        self.bench.memory_write(table, b"".join(entries))
        self.set_master(PTR, table, 4)

    def start(self, to_memory: bool) -> None:
        self.set_master(BMC, (TO_MEMORY if to_memory else 0) | START)

    def stop(self) -> None:
        self.set_master(BMC, 0)
        self.set_master(BMS, BM_ERROR | INTERRUPT)
