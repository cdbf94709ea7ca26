"""Kernel modules: which files a module needs, and in which order they are loaded.

Dependencies are read from the modules themselves (the ELF section .modinfo): modules.dep is written
by depmod when a kernel is installed, and a package that was only unpacked has none.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Sequence
from pathlib import Path

SUFFIXES = (".ko", ".ko.xz")


class ModuleError(Exception):
    """A module is not there or cannot be read."""


class Modules:
    """The modules of one kernel, in a folder lib/modules/VERSION."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {
            plain_name(path.name): path for path in folder.rglob("*.ko*") if path.name.endswith(SUFFIXES)
        }
        builtin = folder / "modules.builtin"
        lines = builtin.read_text().splitlines() if builtin.is_file() else []
        self._builtin = {plain_name(Path(line).name) for line in lines}

    def is_builtin(self, name: str) -> bool:
        """Whether the kernel has this module inside."""
        return plain_name(name) in self._builtin

    def read(self, name: str) -> bytes:
        """The module's ELF file, uncompressed.  Raises ModuleError."""
        path = self._files.get(plain_name(name))
        if path is None:
            raise ModuleError(f"the kernel of {self._folder} has no module {name}")
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data

    def closure(self, names: Sequence[str]) -> list[str]:
        """`names` and all that they depend on, in the order of loading; built-in ones fall out."""
        order: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in order or name in path or self.is_builtin(name):
                return
            for needed in dependencies(self.read(name)):
                visit(needed, (*path, name))
            order.append(name)

        for name in names:
            visit(plain_name(name), ())
        return order


def plain_name(file_name: str) -> str:
    """The module's name: without suffixes, and `_` for `-`, as the kernel has it."""
    return file_name.split(".ko")[0].replace("-", "_")


def dependencies(module: bytes) -> list[str]:
    """The names in `depends=` of a module."""
    for entry in section(module, b".modinfo").split(b"\0"):
        if entry.startswith(b"depends="):
            return [plain_name(name) for name in entry[8:].decode().split(",") if name]
    return []


def section(elf: bytes, wanted: bytes) -> bytes:
    """The contents of a section of a 64-bit little-endian ELF file; nothing when there is none."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ModuleError("not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names_index = struct.unpack_from("<3H", elf, 0x3A)
    headers = [struct.unpack_from("<II4Q", elf, table + size * index) for index in range(count)]
    names_at = headers[names_index][4]
    for name, _, _, _, offset, length in headers:
        start = names_at + name
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[offset : offset + length]
    return b""
