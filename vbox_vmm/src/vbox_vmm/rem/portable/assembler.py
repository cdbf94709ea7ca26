"""Machine code of x86-64: the few instructions that `compiler` needs, labels, and the page that it runs from.

Values are in RAX, second operands in RCX, locals in 8-byte slots below RBP.  The page is written first and
executable after that, never both.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9 = range(10)
ARGUMENTS = (RDI, RSI, RDX, RCX, R8, R9)

# Condition codes of Jcc and SETcc
BELOW, ABOVE_EQUAL, EQUAL, NOT_EQUAL, BELOW_EQUAL, ABOVE = 2, 3, 4, 5, 6, 7


class Assembler:
    """Bytes with labels; a label is any hashable thing, defined before or behind its uses."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.labels: dict[object, int] = {}
        self._fixups: list[tuple[int, object]] = []
        self._count = 0

    def fresh(self) -> int:
        """A new label."""
        self._count += 1
        return self._count

    def place(self, label: object) -> None:
        self.labels[label] = len(self.code)

    def emit(self, *parts: int | bytes) -> None:
        for part in parts:
            if isinstance(part, int):
                self.code.append(part)
            else:
                self.code += part

    # --- moves

    def load_constant(self, register: int, value: int) -> None:
        value &= (1 << 64) - 1
        if value == 0:
            self.emit(*_rex_for(register), 0x31, 0xC0 | (register & 7) * 9)
        elif value < 1 << 32:
            self.emit(*([0x41] if register > 7 else []), 0xB8 | register & 7, struct.pack("<I", value))
        elif value >= (1 << 64) - (1 << 31):
            self.emit(0x48 | register >> 3, 0xC7, 0xC0 | register & 7, struct.pack("<I", value & 0xFFFF_FFFF))
        else:
            self.emit(0x48 | register >> 3, 0xB8 | register & 7, struct.pack("<Q", value))

    def load_local(self, register: int, offset: int) -> None:
        """mov register, [rbp + offset]"""
        self.emit(0x48 | register >> 3 << 2, 0x8B, 0x85 | (register & 7) << 3, struct.pack("<i", offset))

    def store_local(self, register: int, offset: int) -> None:
        self.emit(0x48 | register >> 3 << 2, 0x89, 0x85 | (register & 7) << 3, struct.pack("<i", offset))

    def address_of_local(self, offset: int) -> None:
        """lea rax, [rbp + offset]"""
        self.emit(b"\x48\x8d\x85", struct.pack("<i", offset))

    def load(self, size: int, signed: bool, offset: int) -> None:
        """rax = [rax + offset]"""
        opcode = {
            (1, False): b"\x0f\xb6",
            (2, False): b"\x0f\xb7",
            (4, False): b"\x8b",
            (8, False): b"\x48\x8b",
            (4, True): b"\x48\x63",
            (8, True): b"\x48\x8b",
        }[size, signed]
        self.emit(opcode, 0x80, struct.pack("<i", offset))

    def store(self, size: int, offset: int) -> None:
        """[rcx + offset] = rax"""
        opcode = {1: b"\x88", 2: b"\x66\x89", 4: b"\x89", 8: b"\x48\x89"}[size]
        self.emit(opcode, 0x81, struct.pack("<i", offset))

    def extend(self, size: int, signed: bool) -> None:
        """Cut RAX to its low bytes."""
        self.emit(
            {
                (1, False): b"\x0f\xb6\xc0",
                (2, False): b"\x0f\xb7\xc0",
                (4, False): b"\x89\xc0",
                (4, True): b"\x48\x63\xc0",
                (8, False): b"",
                (8, True): b"",
            }[size, signed]
        )

    def move(self, to: int, source: int) -> None:
        self.emit(0x48 | source >> 3 << 2 | to >> 3, 0x89, 0xC0 | (source & 7) << 3 | to & 7)

    def push(self, register: int = RAX) -> None:
        self.emit(*([0x41] if register > 7 else []), 0x50 | register & 7)

    def pop(self, register: int) -> None:
        self.emit(*([0x41] if register > 7 else []), 0x58 | register & 7)

    def add_to_rsp(self, value: int) -> None:
        if value:
            self.emit(b"\x48\x81\xc4", struct.pack("<i", value))

    # --- arithmetic: RAX with RCX

    def binary(self, operator: str) -> None:
        self.emit(_BINARY[operator])

    def test(self) -> None:
        """test rax, rax"""
        self.emit(b"\x48\x85\xc0")

    def compare(self) -> None:
        """cmp rax, rcx"""
        self.emit(b"\x48\x39\xc8")

    def set_if(self, condition: int) -> None:
        self.emit(0x0F, 0x90 | condition, 0xC0, b"\x0f\xb6\xc0")

    # --- flow

    def jump(self, label: object) -> None:
        self.emit(0xE9)
        self._reference(label)

    def jump_if(self, condition: int, label: object) -> None:
        self.emit(0x0F, 0x80 | condition)
        self._reference(label)

    def call(self, label: object) -> None:
        self.emit(0xE8)
        self._reference(label)

    def call_rax(self) -> None:
        self.emit(b"\xff\xd0")

    def jump_rax(self) -> None:
        self.emit(b"\xff\xe0")

    def address_of_label(self, label: object) -> None:
        """lea rax, [rip + label]"""
        self.emit(b"\x48\x8d\x05")
        self._reference(label)

    def enter(self, frame: int) -> None:
        """push rbp / mov rbp, rsp / sub rsp, frame"""
        self.emit(b"\x55\x48\x89\xe5\x48\x81\xec", struct.pack("<i", frame))

    def leave(self) -> None:
        self.emit(0xC9)

    def ret(self) -> None:
        self.emit(0xC3)

    def _reference(self, label: object) -> None:
        self._fixups.append((len(self.code), label))
        self.emit(bytes(4))

    def finish(self) -> bytes:
        for at, label in self._fixups:
            struct.pack_into("<i", self.code, at, self.labels[label] - (at + 4))
        self._fixups.clear()
        return bytes(self.code)


def _rex_for(register: int) -> list[int]:
    return [0x45] if register > 7 else []


_BINARY = {
    "+": b"\x48\x01\xc8",
    "-": b"\x48\x29\xc8",
    "*": b"\x48\x0f\xaf\xc1",
    "&": b"\x48\x21\xc8",
    "|": b"\x48\x09\xc8",
    "^": b"\x48\x31\xc8",
    "<<": b"\x48\xd3\xe0",
    ">>": b"\x48\xd3\xe8",
    "//": b"\x31\xd2\x48\xf7\xf1",
    "%": b"\x31\xd2\x48\xf7\xf1\x48\x89\xd0",
}


def executable(code: bytes) -> int:
    """Put machine code into pages of its own and return their address; it stays for the life of the process.
    OSError where the host forbids it."""
    size = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    at = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    ctypes.memmove(at, code, len(code))
    if libc.mprotect(at, size, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"memory may not become executable: {os.strerror(error)}")
    return int(at)
