"""The guest of `rem_guest` without long mode: 32-bit, 16-bit and virtual-8086 code.

GDT: 08 10 code and data of ring 0; 18 20 of ring 3; 28 30 16-bit code and data; 38 the TSS that is
loaded (with an I/O bitmap); 40 another TSS, for the task of `task`; 48 a task gate to it.
The IDT's stubs end in HLT with the vector on the stack, as in long mode.
"""

from __future__ import annotations

import struct
from typing import Any

from attrs import define
from rem_guest import CODE, COMMON, GDT, IDT, KERNEL_STACK, STACK, STUBS, TSS, USER_STACK, WITH_ERROR, Guest

from vbox_pdm.engine import CpuState, Segment

TASK, TASK_STACK = 0xA000, 0xA800
CODE32 = Segment(0x08, 0, 0xFFFFFFFF, 0xC09B00)
DATA32 = Segment(0x10, 0, 0xFFFFFFFF, 0xC09300)
USER_CODE32 = Segment(0x1B, 0, 0xFFFFFFFF, 0xC0FB00)
USER_DATA32 = Segment(0x23, 0, 0xFFFFFFFF, 0xC0F300)
CODE16 = Segment(0x28, 0, 0xFFFF, 0x9B00)
DATA16 = Segment(0x30, 0, 0xFFFF, 0x9300)
DATA_SEGMENTS = ("ss", "ds", "es", "fs", "gs")
VM = 1 << 17


@define
class Frame32:
    """What an exception left on a 32-bit stack; `words` are ESP, SS, ES, DS, FS, GS, where pushed."""

    vector: int
    error: int | None
    eip: int
    cs: int
    eflags: int
    words: tuple[int, ...]


def descriptor(base: int, limit: int, attributes: int) -> int:
    low = limit & 0xFFFF | (base & 0xFFFF) << 16
    high = base >> 16 & 0xFF | attributes | limit & 0xF0000 | base & 0xFF000000
    return high << 32 | low


def tables(guest: Guest) -> None:
    """GDT, IDT and TSS of 32 bits."""
    put, pack = guest.ram.write, struct.pack
    put(
        GDT,
        pack(
            "<10Q",
            0,
            descriptor(0, 0xFFFFF, 0xC09B00),
            descriptor(0, 0xFFFFF, 0xC09300),
            descriptor(0, 0xFFFFF, 0xC0FB00),
            descriptor(0, 0xFFFFF, 0xC0F300),
            descriptor(0, 0xFFFF, 0x9B00),
            descriptor(0, 0xFFFF, 0x9300),
            descriptor(TSS, 0x2069, 0x8B00),
            descriptor(TASK, 0x67, 0x8900),
            0x0000_E500_0040_0000,
        ),
    )
    for vector in range(256):
        gate(guest, vector, STUBS + vector * 16)
    put(TSS, bytes(0x68))
    put(TSS + 4, pack("<II", KERNEL_STACK, 0x10))
    put(TSS + 0x66, pack("<H", 0x68))
    put(TSS + 0x68, b"\xff" * 0x2002)


def gate(guest: Guest, vector: int, target: int, attributes: int = 0xEE00, selector: int = 8) -> None:
    high = target & 0xFFFF0000 | attributes
    guest.ram.write(IDT + vector * 8, struct.pack("<II", target & 0xFFFF | selector << 16, high))


def task(guest: Guest, eip: int, **fields: int) -> None:
    """Fill the TSS behind selector 40."""
    names = (
        *("link", "esp0", "ss0", "esp1", "ss1", "esp2", "ss2", "cr3", "eip", "eflags"),
        *("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"),
        *("es", "cs", "ss", "ds", "fs", "gs", "ldt", "trap"),
    )
    values = dict.fromkeys(names, 0)
    values |= {"eip": eip, "eflags": 2, "esp": TASK_STACK, "cs": 8, "trap": 0x68 << 16}
    values |= dict.fromkeys(("es", "ss", "ds", "fs", "gs"), 0x10)
    values |= fields
    guest.ram.write(TASK, struct.pack("<26I", *(values[name] for name in names)))


def start(guest: Guest, code: bytes, *, user: bool = False, **changes: Any) -> CpuState:
    """Flat 32-bit protected mode without paging."""
    tables(guest)
    guest.ram.write(CODE, code)
    state = CpuState(rip=CODE, cr0=0x31, gdtr=(GDT, 0x4F), idtr=(IDT, 0x7FF))
    state.cs = USER_CODE32 if user else CODE32
    state.tr = Segment(0x38, TSS, 0x2069, 0x8B00)
    for name in DATA_SEGMENTS:
        setattr(state, name, USER_DATA32 if user else DATA32)
    state.gpr[4] = USER_STACK if user else STACK
    _change(state, changes)
    guest.rem.set_state(state)
    return state


def start_v86(guest: Guest, code: bytes, *, iopl: int = 0, **changes: Any) -> CpuState:
    """Virtual-8086 mode: CS is 0100, so that IP is 0 at CODE."""
    state = start(guest, code)
    state.rip, state.rflags = 0, VM | iopl << 12 | 2
    state.cs = Segment(CODE >> 4, CODE, 0xFFFF, 0xF300)
    for number, name in enumerate(DATA_SEGMENTS):
        setattr(state, name, Segment(number << 8, number << 12, 0xFFFF, 0xF300))
    state.ss = Segment(USER_STACK - 0x1000 >> 4, USER_STACK - 0x1000, 0xFFFF, 0xF300)
    state.gpr[4] = 0x1000
    _change(state, changes)
    guest.rem.set_state(state)
    return state


def _change(state: CpuState, changes: dict[str, Any]) -> None:
    names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    for name, value in changes.items():
        if name in names:
            state.gpr[names.index(name)] = value
        else:
            setattr(state, name, value)


def fault(guest: Guest, words: int = 0) -> Frame32:
    """Run to the HLT of the exception handlers and return what they were given."""
    state = guest.halt()
    assert state.rip == COMMON + 1
    return frame(guest, state.gpr[4], words)


def frame(guest: Guest, esp: int, words: int = 0) -> Frame32:
    def word(i: int) -> int:
        return int(struct.unpack_from("<I", guest.ram.bytes, esp + i * 4)[0])

    vector, error, i = word(0), None, 1
    if vector in WITH_ERROR:
        error, i = word(1), 2
    return Frame32(
        vector, error, word(i), word(i + 1), word(i + 2), tuple(word(i + 3 + k) for k in range(words))
    )
