"""Register maps."""

from __future__ import annotations

import pytest

from vbox_pdm import Reg8, Reg16, Reg32, RegisterMap, RegistrationError


class Uart(RegisterMap):
    RBR = Reg8(0, "r", when="DLAB=0")
    THR = Reg8(0, "w", when="DLAB=0")
    DLL = Reg8(0, when="DLAB=1")
    LSR = Reg8(5, "r", reset=0x60, fields={"DR": 0, "THRE": 5, "TEMT": 6, "LEVEL": (1, 3)})
    VECTOR = Reg16(0x10, count=4, stride=8)


class More(Uart):
    EXTRA = Reg32(0x40)


def test_map_names_its_registers_and_inherits() -> None:
    assert list(Uart.registers) == ["RBR", "THR", "DLL", "LSR", "VECTOR"]
    assert Uart.LSR.name == "LSR"
    assert list(More.registers) == [*Uart.registers, "EXTRA"]


@pytest.mark.parametrize(
    ("offset", "write", "name"),
    [
        (0, False, "RBR/DLL"),
        (0, True, "THR/DLL"),
        (5, True, "+0x5"),
        (5, False, "LSR"),
        (0x19, False, "VECTOR"),
        (0x1A, False, "+0x1a"),
        (0x28, False, "VECTOR"),
        (0x30, False, "+0x30"),
    ],
)
def test_name_at_an_offset_tells_direction_and_repetition(offset: int, write: bool, name: str) -> None:
    assert Uart.name_at(offset, write) == name


def test_describe_names_bits_fields_and_the_unknown() -> None:
    assert Uart.LSR.mask("LEVEL") == 0b1110
    assert Uart.LSR.describe(0x60) == "THRE|TEMT|LEVEL=0x0"
    assert Uart.LSR.describe(0x8B) == "DR|LEVEL=0x5|0x80"
    assert Uart.RBR.describe(0) == "0"


@pytest.mark.parametrize(("offset", "access"), [(0, "x"), (-1, "r"), (0, "")])
def test_register_that_is_not_possible_is_refused(offset: int, access: str) -> None:
    with pytest.raises(RegistrationError):
        Reg8(offset, access)
