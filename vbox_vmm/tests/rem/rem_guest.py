"""A guest for the tests of REM: 4 MiB of RAM, a long-mode CPU and handlers that stop it.

1000  code (the test's)             4000  16 bytes a vector: push vector / jmp 5000
2000  IDT                           5000  hlt
3000  GDT                           6000  code (system call target)
8000  data, 9000 more data          f000  stack top
c000  TSS with I/O bitmap           100000  page tables: 4 KiB pages for the first 2 MiB
200000-3fffff one large page        400000  not present, unless a test maps it
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable
from typing import Any

from attrs import define, field

from vbox_pdm.engine import CpuModel, CpuState, Exit, ExitReason, Segment
from vbox_vmm.rem.engine import Rem
from vbox_vmm.rem.probe import NATIVE, engine_class, fast_stores, usable

RAM_SIZE = 4 << 20
CODE, IDT, GDT, STUBS, COMMON, SYSCALL = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000
DATA, MORE, TSS, STACK, USER_STACK, KERNEL_STACK = 0x8000, 0x9000, 0xC000, 0xF000, 0xB000, 0x7F00
PML4, PDPT, PD, PT = 0x100000, 0x101000, 0x102000, 0x103000
PRESENT, WRITE, USER, LARGE, NX = 1, 2, 4, 0x80, 1 << 63
WITH_ERROR = {8, 10, 11, 12, 13, 14, 17}
CODE64 = Segment(0x08, 0, 0xFFFFFFFF, 0xA09B00)
FLAT = Segment(0x10, 0, 0xFFFFFFFF, 0xC09300)
USER_CODE64 = Segment(0x2B, 0, 0xFFFFFFFF, 0xA0FB00)
USER_FLAT = Segment(0x23, 0, 0xFFFFFFFF, 0xC0F300)
HLT = b"\xf4"


class Host:
    """Answers interrupts from a list and remembers failures."""

    def __init__(self) -> None:
        self.vectors: list[int] = []
        self.acknowledged = 0
        self.failures: list[tuple[object, int, int, int | None, BaseException]] = []
        self.not_acknowledged: list[BaseException] = []
        self.rem: Rem | None = None
        self.fpu_errors = 0
        self.on_fpu_error: Callable[[], object] | None = None

    def acknowledge_interrupt(self) -> int:
        self.acknowledged += 1
        vector = self.vectors.pop(0) if self.vectors else -1
        if not self.vectors and self.rem is not None:
            self.rem.interrupt(False)
        return vector

    def attend(self) -> bool:
        return True

    def fpu_error(self) -> None:
        self.fpu_errors += 1
        if self.on_fpu_error is not None:
            self.on_fpu_error()

    def acknowledge_failed(self, error: BaseException) -> None:
        self.not_acknowledged.append(error)

    def handler_failed(
        self, owner: object, offset: int, size: int, value: int | None, error: BaseException
    ) -> None:
        self.failures.append((owner, offset, size, value, error))


class Ram:
    """Host memory of the guest."""

    def __init__(self, size: int) -> None:
        self.bytes = mmap.mmap(-1, size)
        self._view = ctypes.c_char.from_buffer(self.bytes)
        self.address = ctypes.addressof(self._view)
        self.size = size

    def write(self, address: int, data: bytes) -> None:
        self.bytes[address : address + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        return self.bytes[address : address + size]

    def u64(self, address: int) -> int:
        return int(struct.unpack_from("<Q", self.bytes, address)[0])

    def close(self) -> None:
        del self._view
        self.bytes.close()


@define
class Frame:
    """What an exception left on the stack."""

    vector: int
    error: int | None
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int


@define
class Device:
    """Handlers that record; `answer` is what a read gets."""

    answer: int = 0
    calls: list[tuple[Any, ...]] = field(factory=list)

    def read(self, offset: int, size: int) -> int:
        self.calls.append(("read", offset, size))
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        self.calls.append(("write", offset, size, value))

    def adapted_read(self, offset: int, size: int) -> int:
        self.calls.append(("adapted_read", offset, size))
        return self.answer

    def adapted_write(self, offset: int, size: int, value: int) -> None:
        self.calls.append(("adapted_write", offset, size, value))

    def row(self, first: int, size: int, direct: int = 15, start: int = 0) -> Exit:
        return Exit(
            first, size, self.read, self.write, self.adapted_read, self.adapted_write, direct, start, self
        )


class Guest:
    def __init__(self, cpu: CpuModel | None = None, engine: str = NATIVE) -> None:
        assert usable(engine) is None
        self.engine = engine
        self.host = Host()
        self.ram = Ram(RAM_SIZE)
        model = cpu or CpuModel(translation_buffer=2 << 20)
        self.rem = engine_class(engine).create(self.host, model, fast_stores(engine))
        self.host.rem = self.rem
        self.rem.map_ram(0, RAM_SIZE, self.ram.address, self.ram.address)
        self._tables()

    def close(self) -> None:
        self.rem.close()
        self.ram.close()

    # --- memory

    def _tables(self) -> None:
        put, pack = self.ram.write, struct.pack
        for vector in range(256):
            stub = STUBS + vector * 16
            put(stub, b"\x68" + pack("<I", vector) + b"\xe9" + pack("<i", COMMON - (stub + 10)))
            self.gate(vector, stub)
        put(COMMON, HLT)
        descriptors = [
            0,
            0x00AF_9B00_0000_FFFF,  # 08 code, 64 bits, ring 0
            0x00CF_9300_0000_FFFF,  # 10 data, ring 0
            0x00CF_FB00_0000_FFFF,  # 18 code, 32 bits, ring 3
            0x00CF_F300_0000_FFFF,  # 20 data, ring 3
            0x00AF_FB00_0000_FFFF,  # 28 code, 64 bits, ring 3
            0x0000_8900_0000_0000 | 0x2069 | TSS << 16,  # 30 TSS
            0,
            0x00CF_1300_0000_FFFF,  # 40 data, not present
        ]
        put(GDT, pack(f"<{len(descriptors)}Q", *descriptors))
        put(TSS + 4, pack("<Q", KERNEL_STACK))
        put(TSS + 0x66, pack("<H", 0x68))
        put(TSS + 0x68, b"\xff" * 0x2002)
        put(PML4, pack("<Q", PDPT | PRESENT | WRITE | USER))
        put(PDPT, pack("<Q", PD | PRESENT | WRITE | USER))
        put(PD, pack("<QQ", PT | PRESENT | WRITE | USER, 0x200000 | PRESENT | WRITE | USER | LARGE))
        for page in range(512):
            self.page(page << 12, page << 12 | PRESENT | WRITE | USER)

    def page(self, virtual: int, entry: int) -> None:
        """Set the entry of a 4 KiB page below 2 MiB."""
        self.ram.write(PT + (virtual >> 12) * 8, struct.pack("<Q", entry))

    def directory(self, index: int, entry: int) -> None:
        """Set an entry of the page directory: 2 MiB each."""
        self.ram.write(PD + index * 8, struct.pack("<Q", entry))

    def gate(self, vector: int, target: int, present: bool = True) -> None:
        low = target & 0xFFFF | 0x08 << 16
        high = target & 0xFFFF0000 | (0xEE00 if present else 0x6E00)
        self.ram.write(IDT + vector * 16, struct.pack("<IIQ", low, high, 0))

    # --- the CPU

    def long_mode(self, code: bytes, *, user: bool = False, **changes: Any) -> CpuState:
        """Place code and make the CPU ready to run it; `changes` are CpuState fields or registers."""
        self.ram.write(CODE, code)
        state = CpuState(
            rip=CODE,
            cr0=0x80010031,
            cr3=PML4,
            cr4=0x620,
            efer=0xD01,
            gdtr=(GDT, 0x4F),
            idtr=(IDT, 0xFFF),
            cs=USER_CODE64 if user else CODE64,
            tr=Segment(0x30, TSS, 0x2069, 0x8B00),
        )
        for name in ("ss", "ds", "es", "fs", "gs"):
            setattr(state, name, USER_FLAT if user else FLAT)
        state.gpr[4] = USER_STACK if user else STACK
        names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
        for name, value in changes.items():
            if name in names:
                state.gpr[names.index(name)] = value
            else:
                setattr(state, name, value)
        self.rem.set_state(state)
        return state

    def real_mode(self, code: bytes, **changes: Any) -> None:
        self.ram.write(CODE, code)
        state = CpuState(rip=CODE, cs=Segment(0, 0, 0xFFFF, 0x9B00))
        state.gpr[4] = STACK
        for name, value in changes.items():
            setattr(state, name, value)
        self.rem.set_state(state)

    def run(self, seconds: float = 5) -> ExitReason:
        """Until something but the (generous) deadline happens."""
        import time

        self.rem.set_deadline(time.monotonic_ns() + int(seconds * 1e9))
        try:
            return self.rem.run()
        finally:
            self.rem.set_deadline(0)

    def halt(self) -> CpuState:
        """Run to HLT and return the state."""
        assert self.run() is ExitReason.HALTED, self.rem.failure
        return self.rem.get_state()

    def fault(self) -> Frame:
        """Run to the HLT of the exception handlers and return what they were given."""
        state = self.halt()
        assert state.rip == COMMON + 1
        return self.frame(state.gpr[4])

    def frame(self, rsp: int) -> Frame:
        vector = self.ram.u64(rsp)
        error = None
        if vector in WITH_ERROR:
            rsp += 8
            error = self.ram.u64(rsp)
        rip, cs, rflags, old_rsp, ss = (self.ram.u64(rsp + 8 * i) for i in range(1, 6))
        return Frame(vector, error, rip, cs, rflags, old_rsp, ss)
