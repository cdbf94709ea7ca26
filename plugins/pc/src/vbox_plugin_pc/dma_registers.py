"""Registers of the two 8237A and the page registers beside them, as a PC/AT has them."""

from __future__ import annotations

from attrs import evolve

from vbox_pdm import Reg8, RegisterMap


class Registers(RegisterMap):
    """Controller 1."""

    ADDRESS = Reg8(0, count=4, stride=2, effect="flip-flop: low, high")
    COUNT = Reg8(1, count=4, stride=2, effect="flip-flop: low, high")
    COMMAND = Reg8(
        8,
        "w",
        fields={
            "MEM": 0,
            "HOLD": 1,
            "OFF": 2,
            "COMPRESSED": 3,
            "ROTATE": 4,
            "EXTENDED": 5,
            "DREQ": 6,
            "DACK": 7,
        },
    )
    STATUS = Reg8(8, "r", fields={"TC": (0, 3), "REQUEST": (4, 7)}, effect="clears TC")
    REQUEST = Reg8(9, "w", fields={"CHANNEL": (0, 1), "SET": 2})
    SINGLE_MASK = Reg8(10, "w", fields={"CHANNEL": (0, 1), "SET": 2})
    MODE = Reg8(11, "w", fields={"CHANNEL": (0, 1), "TYPE": (2, 3), "AUTO": 4, "DOWN": 5, "MODE": (6, 7)})
    CLEAR_FLIP_FLOP = Reg8(12, "w")
    MASTER_CLEAR = Reg8(13, "w")
    TEMPORARY = Reg8(13, "r")
    CLEAR_MASK = Reg8(14, "w")
    ALL_MASK = Reg8(15, reset=0x0F, bits=0x0F)


WordRegisters: type[RegisterMap] = type(
    "WordRegisters",
    (RegisterMap,),
    {
        name: evolve(register, offset=2 * register.offset, stride=2 * register.stride)
        for name, register in Registers.registers.items()
    },
)
"""Controller 2: the same at every second port."""


class PageRegisters(RegisterMap):
    """Address bits 16 to 23 of each channel, or 24 to 31; the others are storage for software."""

    SPARE0 = Reg8(0)
    PAGE2, PAGE3, PAGE1 = Reg8(1), Reg8(2), Reg8(3)
    SPARE4 = Reg8(4, count=3, stride=1)
    PAGE0 = Reg8(7)
    SPARE8 = Reg8(8)
    PAGE6, PAGE7, PAGE5 = Reg8(9), Reg8(10), Reg8(11)
    SPARE12 = Reg8(12, count=3, stride=1)
    PAGE4 = Reg8(15)
