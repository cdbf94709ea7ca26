"""Declarative register maps: a register is declared once and used by model, tracer and docs.

    class Registers(RegisterMap):
        RBR = Reg8(0, "r", effect="pops the receive FIFO", when="DLAB=0")
        LSR = Reg8(5, "r", reset=0x60, fields=dict(DR=0, OE=1, THRE=5, TEMT=6))

A field is a bit number or (low, high), inclusive.  Several registers may share an offset (`when`
tells them apart) or differ by direction.

What is declared is checked: the conformance kit (`vbox_pdm.testing.conformance`) reads `reset`, `bits`
and `effect` and holds the device to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from attrs import evolve, field, frozen

from vbox_pdm.errors import RegistrationError

FieldSpan = int | tuple[int, int]


@frozen
class Register:
    """`size` in bytes; `access` is r, w or rw; `count` registers stand `stride` bytes apart.

    `reset` is what it reads after power on and after every reset; None where the data sheet, or this
    declaration, does not say.  `bits` are those that may ever differ from `reset`, by a guest's write or
    by the device itself; None: not said.  `effect` is what an access does besides: a register that can
    be read and has none may be read at any time without changing anything.  A text that begins with
    "write" is about writes alone.  `values` names those that mean something as a whole: commands.
    """

    offset: int
    access: str = "rw"
    size: int = 1
    reset: int | None = 0
    fields: Mapping[str, FieldSpan] = field(factory=dict)
    effect: str = ""
    when: str = ""
    count: int = 1
    stride: int = 0
    bits: int | None = None
    values: Mapping[int, str] = field(factory=dict)
    name: str = ""

    def __attrs_post_init__(self) -> None:
        if self.access not in ("r", "w", "rw") or self.offset < 0:
            raise RegistrationError(
                "VERR_INVALID_PARAMETER",
                f"Register at {self.offset}: access {self.access!r} is not r, w or rw",
            )

    @property
    def read_changes(self) -> bool:
        """Whether reading it may change something."""
        return "r" in self.access and bool(self.effect) and not self.effect.startswith("write")

    def mask(self, name: str) -> int:
        """The bits of a field, in place."""
        span = self.fields[name]
        low, high = (span, span) if isinstance(span, int) else span
        return ((1 << (high - low + 1)) - 1) << low

    def describe(self, value: int) -> str:
        """`DR|THRE|TEMT`: single bits by name, wider fields as name=value, unknown bits in hex; or the name
        of the value as a whole."""
        if value in self.values:
            return self.values[value]
        parts, known = [], 0
        for name, span in self.fields.items():
            mask = self.mask(name)
            known |= mask
            if isinstance(span, int):
                if value & mask:
                    parts.append(name)
            else:
                parts.append(f"{name}={(value & mask) >> span[0]:#x}")
        if value & ~known:
            parts.append(f"{value & ~known:#x}")
        return "|".join(parts) or "0"


def Reg8(offset: int, access: str = "rw", **more: object) -> Register:
    """A register of one byte."""
    return Register(offset, access, 1, **more)  # type: ignore[arg-type]


def Reg16(offset: int, access: str = "rw", **more: object) -> Register:
    """A register of two bytes."""
    return Register(offset, access, 2, **more)  # type: ignore[arg-type]


def Reg32(offset: int, access: str = "rw", **more: object) -> Register:
    """A register of four bytes."""
    return Register(offset, access, 4, **more)  # type: ignore[arg-type]


def Reg64(offset: int, access: str = "rw", **more: object) -> Register:
    """A register of eight bytes."""
    return Register(offset, access, 8, **more)  # type: ignore[arg-type]


class RegisterMap:
    """Base of register maps; never instantiated."""

    registers: ClassVar[dict[str, Register]] = {}

    def __init_subclass__(cls) -> None:
        named = {}
        for name, value in list(vars(cls).items()):
            if isinstance(value, Register):
                value = evolve(value, name=name)
                setattr(cls, name, value)
                named[name] = value
        cls.registers = {**cls.registers, **named}

    @classmethod
    def at(cls, offset: int, write: bool) -> Iterator[Register]:
        """The registers that an access to `offset` may reach, in order of declaration."""
        for register in cls.registers.values():
            if ("w" if write else "r") not in register.access:
                continue
            for index in range(register.count):
                first = register.offset + index * register.stride
                if first <= offset < first + register.size:
                    yield register
                    break

    @classmethod
    def name_at(cls, offset: int, write: bool) -> str:
        """`RBR/DLL`, or `+0x12` where nothing is declared."""
        return "/".join(register.name for register in cls.at(offset, write)) or f"+{offset:#x}"
