"""Guests of a few instructions for the tests of the command line: multiboot kernels, 32-bit code."""

from __future__ import annotations

import struct
from pathlib import Path

BASE = 0x100000
COM1 = 0x3F8
EXIT_PORT = 0xF4
DIRECT = ("--firmware", "none", "--kernel")
"""Options before the name of a kernel: a multiboot kernel, which no BIOS starts."""


class Code:
    """32-bit code at a known address; labels by name."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.bytes = bytearray()
        self.labels: dict[str, int] = {}
        self.fixups: list[tuple[int, str]] = []

    def raw(self, *values: int) -> Code:
        self.bytes += bytes(values)
        return self

    def label(self, name: str) -> Code:
        self.labels[name] = len(self.bytes)
        return self

    def jump(self, opcode: int, name: str) -> Code:
        """A jump with an 8-bit displacement: 0xEB always, 0x74 if zero, 0x75 if not."""
        self.bytes.append(opcode)
        self.fixups.append((len(self.bytes), name))
        self.bytes.append(0)
        return self

    def out(self, port: int, value: int) -> Code:
        """OUT of a byte to any port."""
        return self.dx(port).raw(0xB0, value, 0xEE)

    def dx(self, port: int) -> Code:
        return self.raw(0xBA, *struct.pack("<I", port))

    def say(self, text: str) -> Code:
        """Text to COM1."""
        for byte in text.encode():
            self.out(COM1, byte)
        return self

    def exit(self, value: int) -> Code:
        """isa-debug-exit: the code is value * 2 + 1."""
        return self.out(EXIT_PORT, value).halt()

    def halt(self) -> Code:
        """CLI, HLT for ever."""
        at = f"halt{len(self.bytes)}"
        return self.raw(0xFA).label(at).raw(0xF4).jump(0xEB, at)

    def finish(self) -> bytes:
        for at, name in self.fixups:
            self.bytes[at] = (self.labels[name] - at - 1) & 0xFF
        return bytes(self.bytes)


def kernel(folder: Path, code: Code, name: str = "guest.bin") -> Path:
    """The code as a multiboot kernel file (addresses in the header)."""
    flags = 1 << 16
    body = code.finish()
    header = struct.pack(
        "<8I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, BASE, BASE, 0, 0, BASE + 32
    )
    path = folder / name
    path.write_bytes(header + body)
    return path


def code() -> Code:
    return Code(BASE + 32)


def hello(folder: Path, text: str = "Hello\n", value: int | None = None) -> Path:
    """Says something; then exits by isa-debug-exit, or halts."""
    program = code().say(text)
    return kernel(folder, program.halt() if value is None else program.exit(value))


def echo(folder: Path, *, fifo: bool = True) -> Path:
    """Says `> `, echoes what COM1 receives, and exits with value 20 at a `q`."""
    program = code()
    program.out(COM1 + 3, 0x03)
    if fifo:
        program.out(COM1 + 2, 0x07)
    program.say("> ")
    program.label("wait").dx(COM1 + 5).raw(0xEC, 0xA8, 0x01).jump(0x74, "wait")
    program.dx(COM1).raw(0xEC, 0xEE)  # in al, dx; out dx, al
    program.raw(0x3C, ord("q")).jump(0x75, "wait")
    program.exit(20)
    return kernel(folder, program)


def scancodes(folder: Path) -> Path:
    """Sends each byte of the keyboard controller to COM1 as two letters, `a` for 0."""
    program = code().say("ready\n")
    program.label("wait").raw(0xE4, 0x64, 0xA8, 0x01).jump(0x74, "wait")
    program.raw(0xE4, 0x60, 0x88, 0xC4).dx(COM1)  # in al, 0x60; mov ah, al
    program.raw(0xC0, 0xE8, 4, 0x04, ord("a"), 0xEE)  # shr al, 4; add al, 'a'; out dx, al
    program.raw(0x88, 0xE0, 0x24, 0x0F, 0x04, ord("a"), 0xEE)  # mov al, ah; and al, 15; ...
    program.jump(0xEB, "wait")
    return kernel(folder, program)


def triple_fault(folder: Path) -> Path:
    """An empty IDT and an invalid instruction."""
    program = code().raw(0x6A, 0, 0x6A, 0, 0x0F, 0x01, 0x1C, 0x24)  # push 0 twice; lidt [esp]
    program.raw(0x0F, 0x0B)  # ud2
    path = kernel(folder, _with_stack(program))
    return path


def _with_stack(program: Code) -> Code:
    result = code().raw(0xBC, *struct.pack("<I", BASE - 16))  # mov esp, ...
    result.bytes += program.bytes
    return result


def boot_sector(text: str) -> bytes:
    """Real-mode code that a BIOS starts: prints `text`, then each key that is typed; `w` writes the
    boot sector to the second sector of the first disk and prints W (or E), `f` makes a triple fault, `q`
    exits with value 20."""
    program = Code(0x7C00)
    program.raw(0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xC0, 0xBE)  # xor ax, ax; mov ds, ax; mov es, ax; mov si, ...
    text_fixup = len(program.bytes)
    program.raw(0, 0)
    program.label("print").raw(0xAC, 0x84, 0xC0).jump(0x74, "keys")  # lodsb; test al, al; jz
    program.raw(0xB4, 0x0E, 0xBB, 7, 0, 0xCD, 0x10).jump(0xEB, "print")  # int 10h, function 0Eh
    program.label("keys").raw(0xB4, 0, 0xCD, 0x16)  # int 16h, function 0
    program.raw(0x3C, ord("q")).jump(0x74, "quit").raw(0x3C, ord("w")).jump(0x74, "write")
    program.raw(0x3C, ord("f")).jump(0x74, "fault")
    program.label("show").raw(0xB4, 0x0E, 0xBB, 7, 0, 0xCD, 0x10).jump(0xEB, "keys")
    program.label("write").raw(0xB8, 1, 3, 0xB9, 2, 0, 0xBA, 0x80, 0, 0xBB, 0, 0x7C, 0xCD, 0x13)
    program.raw(0xB0, ord("W")).jump(0x73, "show").raw(0xB0, ord("E")).jump(0xEB, "show")
    program.label("fault").raw(0x0F, 0x01, 0x1E, 0xF0, 0x7D, 0xCC)  # lidt [7DF0h], which is zero; int3
    program.label("quit").raw(0xB0, 20, 0xE6, EXIT_PORT, 0xFA, 0xF4)
    struct.pack_into("<H", program.bytes, text_fixup, 0x7C00 + len(program.bytes))
    code_bytes = program.finish() + text.encode("cp437") + b"\0"
    return code_bytes.ljust(510, b"\0") + b"\x55\xaa"


def disk(folder: Path, text: str, name: str = "disk.img", size: int = 1 << 20) -> Path:
    """A disk image with that boot sector."""
    path = folder / name
    path.write_bytes(boot_sector(text).ljust(size, b"\0"))
    return path


def iso(folder: Path, text: str, name: str = "cd.iso") -> Path:
    """A CD image that starts the same by El Torito, without emulation."""
    block = 2048
    volume = b"\1CD001\1".ljust(block, b"\0")
    record = b"\0CD001\1EL TORITO SPECIFICATION".ljust(71, b"\0") + struct.pack("<I", 19)
    end = b"\xffCD001\1".ljust(block, b"\0")
    validation = bytearray(struct.pack("<BBH24sHH", 1, 0, 0, b"", 0, 0xAA55))
    struct.pack_into("<H", validation, 28, -sum(struct.unpack("<16H", validation)) & 0xFFFF)
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 20).ljust(32, b"\0")
    catalogue = (bytes(validation) + entry).ljust(block, b"\0")
    path = folder / name
    blocks = [volume, record.ljust(block, b"\0"), end, catalogue, boot_sector(text).ljust(block, b"\0")]
    path.write_bytes(bytes(16 * block) + b"".join(blocks) + bytes(block))
    return path
