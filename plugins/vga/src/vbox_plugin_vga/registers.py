"""The registers of a VGA and of Bochs' DISPI, as maps.

IBM Personal System/2 Hardware Interface Technical Reference, Video Subsystem (May 1992); DISPI as in
Bochs' VBE display interface, with VirtualBox's additions.  Reserved bits are not stored and read 0;
registers that are not declared here read 0 and ignore writes.
"""

from __future__ import annotations

from vbox_pdm import Reg8, Reg16, RegisterMap

GRAPHICS = 1  # GR6
SHIFT_PAIRS, SHIFT256 = 0x20, 0x40  # GR5
PROTECT, LINE_COMPARE8 = 0x80, 0x10  # CR11, CR7


class Sequencer(RegisterMap):
    """SR0 to SR7."""

    RESET = Reg8(0, fields={"nASYNC": 0, "nSYNC": 1})
    CLOCKING = Reg8(1, fields={"DOTS8": 0, "SHIFT2": 2, "HALF_CLOCK": 3, "SHIFT4": 4, "SCREEN_OFF": 5})
    MAP_MASK = Reg8(2, fields={"PLANES": (0, 3)})
    CHARACTER_MAP = Reg8(3, fields={"B": (0, 1), "A": (2, 3), "B_HIGH": 4, "A_HIGH": 5})
    MEMORY_MODE = Reg8(4, fields={"EXTENDED": 1, "nODD_EVEN": 2, "CHAIN4": 3})


class GraphicsController(RegisterMap):
    """GR0 to GR8."""

    SET_RESET = Reg8(0, fields={"PLANES": (0, 3)})
    ENABLE_SET_RESET = Reg8(1, fields={"PLANES": (0, 3)})
    COLOUR_COMPARE = Reg8(2, fields={"PLANES": (0, 3)})
    ROTATE = Reg8(3, fields={"COUNT": (0, 2), "FUNCTION": (3, 4)})
    READ_MAP = Reg8(4, fields={"PLANE": (0, 1)})
    MODE = Reg8(
        5, fields={"WRITE_MODE": (0, 1), "READ_MODE": 3, "ODD_EVEN": 4, "SHIFT_PAIRS": 5, "SHIFT256": 6}
    )
    MISCELLANEOUS = Reg8(6, fields={"GRAPHICS": 0, "CHAIN_ODD_EVEN": 1, "MAP": (2, 3)})
    COLOUR_CARE = Reg8(7, fields={"PLANES": (0, 3)})
    BIT_MASK = Reg8(8)


class AttributeController(RegisterMap):
    """AR0 to AR14."""

    PALETTE = Reg8(0, count=16, stride=1, fields={"COLOUR": (0, 5)})
    MODE = Reg8(
        0x10,
        fields={
            "GRAPHICS": 0,
            "MONO": 1,
            "LINE_GRAPHICS": 2,
            "BLINK": 3,
            "PAN_COMPAT": 5,
            "COLOUR8": 6,
            "P54S": 7,
        },
    )
    OVERSCAN = Reg8(0x11)
    PLANE_ENABLE = Reg8(0x12, fields={"PLANES": (0, 3), "STATUS_MUX": (4, 5)})
    PANNING = Reg8(0x13, fields={"DOTS": (0, 3)})
    COLOUR_SELECT = Reg8(0x14, fields={"C45": (0, 1), "C67": (2, 3)})


class CrtController(RegisterMap):
    """CR0 to CR18.  CR0 to CR7 are protected by PROTECT, but for LINE_COMPARE8."""

    HORIZONTAL_TOTAL = Reg8(0x00)
    HORIZONTAL_DISPLAY_END = Reg8(0x01)
    HORIZONTAL_BLANK_START = Reg8(0x02)
    HORIZONTAL_BLANK_END = Reg8(0x03, fields={"END": (0, 4), "SKEW": (5, 6), "EVRA": 7})
    HORIZONTAL_RETRACE_START = Reg8(0x04)
    HORIZONTAL_RETRACE_END = Reg8(0x05, fields={"END": (0, 4), "SKEW": (5, 6), "BLANK_END5": 7})
    VERTICAL_TOTAL = Reg8(0x06)
    OVERFLOW = Reg8(
        0x07,
        fields={
            "TOTAL8": 0,
            "DISPLAY_END8": 1,
            "RETRACE_START8": 2,
            "BLANK_START8": 3,
            "LINE_COMPARE8": 4,
            "TOTAL9": 5,
            "DISPLAY_END9": 6,
            "RETRACE_START9": 7,
        },
    )
    PRESET_ROW_SCAN = Reg8(0x08, fields={"ROW_SCAN": (0, 4), "BYTE_PANNING": (5, 6)})
    MAXIMUM_SCAN_LINE = Reg8(
        0x09, fields={"LINE": (0, 4), "BLANK_START9": 5, "LINE_COMPARE9": 6, "DOUBLE_SCAN": 7}
    )
    CURSOR_START = Reg8(0x0A, fields={"LINE": (0, 4), "OFF": 5})
    CURSOR_END = Reg8(0x0B, fields={"LINE": (0, 4), "SKEW": (5, 6)})
    START_HIGH = Reg8(0x0C)
    START_LOW = Reg8(0x0D)
    CURSOR_HIGH = Reg8(0x0E)
    CURSOR_LOW = Reg8(0x0F)
    VERTICAL_RETRACE_START = Reg8(0x10)
    VERTICAL_RETRACE_END = Reg8(
        0x11, fields={"END": (0, 3), "nCLEAR_INT": 4, "nENABLE_INT": 5, "REFRESH5": 6, "PROTECT": 7}
    )
    VERTICAL_DISPLAY_END = Reg8(0x12)
    OFFSET = Reg8(0x13)
    UNDERLINE = Reg8(0x14, fields={"LINE": (0, 4), "COUNT_BY_4": 5, "DWORD": 6})
    VERTICAL_BLANK_START = Reg8(0x15)
    VERTICAL_BLANK_END = Reg8(0x16)
    MODE = Reg8(
        0x17,
        fields={
            "nCGA": 0,
            "nHERCULES": 1,
            "DIVIDE_LINES": 2,
            "COUNT_BY_2": 3,
            "WRAP": 5,
            "BYTE": 6,
            "nSYNC_RESET": 7,
        },
    )
    LINE_COMPARE = Reg8(0x18)


class DispiRegisters(RegisterMap):
    """By index, words.  Those from 0B on are VirtualBox's."""

    ID = Reg16(0, reset=0xB0C0)
    XRES = Reg16(1, effect="write sets VIRT_WIDTH too")
    YRES = Reg16(2)
    BPP = Reg16(3)
    ENABLE = Reg16(4, fields={"ENABLED": 0, "GETCAPS": 1, "DAC8": 5, "LFB": 6, "NOCLEARMEM": 7})
    BANK = Reg16(5)
    VIRT_WIDTH = Reg16(6)
    VIRT_HEIGHT = Reg16(7, "r")
    X_OFFSET = Reg16(8)
    Y_OFFSET = Reg16(9)
    VIDEO_MEMORY = Reg16(0x0A, "r", reset=None)
    FB_BASE_HIGH = Reg16(0x0B, "r", reset=None)


_ON = "ENABLE=1"  # of SUBSYSTEM; else all ones are read
_MINE = "ENABLE=1, COLOUR as the port"


def indices(registers: type[RegisterMap], more: int = 0) -> dict[int, str]:
    """What the values of an index register mean; `more` are other bits of it."""
    return {
        register.offset + at * register.stride | more: register.name
        for register in registers.registers.values()
        for at in range(register.count)
    }


class GeneralPorts(RegisterMap):
    """Ports 3C0 to 3CF.  After reset all indices are 0, and so data ports show registers 0."""

    ATTRIBUTE_INDEX = Reg8(
        0, fields={"INDEX": (0, 4), "PAS": 5}, bits=0x3F, when=_ON, effect="write toggles the flip-flop",
        values=indices(AttributeController) | indices(AttributeController, 0x20),
    )  # fmt: skip
    ATTRIBUTE_WRITE = Reg8(0, "w", when="flip-flop set", effect="write toggles the flip-flop")
    ATTRIBUTE_READ = Reg8(1, "r", when=_ON)
    MISC_WRITE = Reg8(
        2,
        "w",
        fields={"COLOUR": 0, "RAM": 1, "CLOCK": (2, 3), "PAGE": 5, "HSYNC_NEG": 6, "VSYNC_NEG": 7},
    )
    ST00 = Reg8(2, "r", reset=0x10, bits=0x10, fields={"SENSE": 4, "CRT_INT": 7}, when=_ON)
    SUBSYSTEM = Reg8(3, reset=1, bits=0x01, fields={"ENABLE": 0})
    SEQUENCER_INDEX = Reg8(4, fields={"INDEX": (0, 2)}, bits=0x07, when=_ON, values=indices(Sequencer))
    SEQUENCER_DATA = Reg8(5, bits=0x3F, when=_ON)
    PEL_MASK = Reg8(6, reset=0xFF, when=_ON)
    PEL_READ_INDEX = Reg8(7, "w", effect="write loads the colour that 3C9 reads next")
    PEL_STATE = Reg8(7, "r", fields={"STATE": (0, 1)}, bits=0x03, when=_ON)
    PEL_WRITE_INDEX = Reg8(8, when=_ON)
    PEL_DATA = Reg8(9, when=_ON, effect="every third access steps to the next colour")
    FEATURE_READ = Reg8(10, "r", fields={"FC0": 0, "FC1": 1, "VSYNC_SELECT": 3}, bits=0x0B, when=_ON)
    MISC_READ = Reg8(12, "r", fields=MISC_WRITE.fields, bits=0xEF, when=_ON)
    GRAPHICS_INDEX = Reg8(
        14, fields={"INDEX": (0, 3)}, bits=0x0F, when=_ON, values=indices(GraphicsController)
    )
    GRAPHICS_DATA = Reg8(15, when=_ON)


class CrtcPorts(RegisterMap):
    """Ports 3B4 and 3B5, or 3D4 and 3D5."""

    CRTC_INDEX = Reg8(0, when=_MINE, values=indices(CrtController))
    CRTC_DATA = Reg8(1, when=_MINE)


class StatusPort(RegisterMap):
    """Port 3BA or 3DA.  What is read depends on the time."""

    ST01 = Reg8(
        0, "r", reset=None, fields={"BLANK": 0, "VRETRACE": 3}, when=_MINE, effect="clears the flip-flop"
    )
    FEATURE_WRITE = Reg8(0, "w", fields=GeneralPorts.FEATURE_READ.fields)


class DispiPorts(RegisterMap):
    """Ports 1CE and 1CF, words.  Of two bytes the high one comes first."""

    DISPI_INDEX = Reg16(0, values=indices(DispiRegisters))
    DISPI_DATA = Reg16(1, reset=0xB0C0)


def stored_bits(registers: type[RegisterMap]) -> tuple[int, ...]:
    """By index: the bits that a register of a byte keeps; 0 where none is declared."""
    declared = [r for r in registers.registers.values() if "w" in r.access]
    masks = [0] * (1 + max(r.offset + (r.count - 1) * r.stride for r in declared))
    for register in declared:
        kept = 0
        for name in register.fields:
            kept |= register.mask(name)
        for index in range(register.count):
            masks[register.offset + index * register.stride] = kept or 0xFF
    return tuple(masks)


def power_on(registers: type[RegisterMap]) -> bytearray:
    """By index: the values of byte registers after reset."""
    values = bytearray(len(stored_bits(registers)))
    for register in registers.registers.values():
        for index in range(register.count):
            values[register.offset + index * register.stride] = register.reset or 0
    return values
