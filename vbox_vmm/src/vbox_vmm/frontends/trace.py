"""--trace: every access to a region, by the names that its register map gives.

    serial#0 uart+5 LSR read 1 = 0x60 (THRE|TEMT)

A region is named as its device names it ("uart"), by a device and its region ("serial#1/uart",
"serial/uart"), or by a pattern with * and ?.  The plugin wraps the handlers of what matches when it
is mapped, for this run only; nothing else pays for it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

from vbox_pdm import Region, hookimpl


class Tracer:
    """A plugin for one run.  `write` gets the lines."""

    def __init__(self, patterns: Sequence[str], write: Callable[[str], None]) -> None:
        self.patterns = tuple(patterns)
        self._write = write
        self._unused = set(patterns)
        self._seen: dict[str, None] = {}

    @property
    def unused(self) -> list[str]:
        """The patterns that no region matched."""
        return [pattern for pattern in self.patterns if pattern in self._unused]

    @property
    def seen(self) -> list[str]:
        """All regions that were mapped, as `serial#0/uart`."""
        return list(self._seen)

    @hookimpl
    def pdm_wrap_region(self, instance: Any, region: Region) -> Region | None:
        """Wrap what a pattern names."""
        title = f"{instance.name}#{instance.number}"
        self._seen[f"{title}/{region.name}"] = None
        names = (region.name, f"{title}/{region.name}", f"{instance.name}/{region.name}")
        matched = [p for p in self.patterns if any(fnmatch.fnmatchcase(name, p) for name in names)]
        if not matched:
            return None
        self._unused.difference_update(matched)
        return self._traced(title, region)

    def _traced(self, title: str, region: Region) -> Region:
        inner_read, inner_write, write_line = region.read, region.write, self._write

        def read(offset: int, size: int) -> int:
            value = inner_read(offset, size)
            write_line(describe(title, region, offset, size, value, write=False))
            return value

        def write(offset: int, size: int, value: int) -> None:
            write_line(describe(title, region, offset, size, value, write=True))
            inner_write(offset, size, value)

        return region.with_handlers(read=read, write=write)


def describe(title: str, region: Region, offset: int, size: int, value: int, *, write: bool) -> str:
    """One access, for people."""
    name = bits = ""
    if region.registers is not None:
        registers = [r for r in region.registers.at(offset, write) if r.offset <= offset]
        name = " " + region.registers.name_at(offset, write)
        described = {r.describe(value) for r in registers if r.fields and r.size == size}
        if len(registers) == 1 and len(described) == 1:
            bits = f" ({described.pop()})"
    direction = "write" if write else "read"
    return f"{title} {region.name}+{offset:#x}{name} {direction} {size} = {value:#0{2 + 2 * size}x}{bits}"
