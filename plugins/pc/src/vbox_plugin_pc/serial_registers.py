"""Registers of the 16550A UART, and what their line settings mean: PC16550D data sheet, section 8."""

from __future__ import annotations

from vbox_pdm import Reg8, RegisterMap

CLOCK_HZ = 115_200  # the 1.8432 MHz crystal over 16
PARITIES = "NONENMNS"  # by LCR bits 3..5


def line_settings(lcr: int, divisor: int) -> tuple[int, int, str, float]:
    """Baud, data bits, parity (N, O, E, M, S) and stop bits."""
    stop_bits = 1.0 if not lcr & 4 else 2.0 if lcr & 3 else 1.5
    return CLOCK_HZ // (divisor or 0x10000), 5 + (lcr & 3), PARITIES[lcr >> 3 & 7], stop_bits


def character_time(lcr: int, divisor: int) -> int:
    """Nanoseconds of a character on the wire, from the start bit to the last stop bit."""
    half_bits = 2 * (1 + 5 + (lcr & 3) + (lcr >> 3 & 1)) + 2
    if lcr & 4:
        half_bits += 2 if lcr & 3 else 1
    return half_bits * (divisor or 0x10000) * 1_000_000_000 // (2 * CLOCK_HZ)


class Registers(RegisterMap):
    """Eight ports."""

    RBR = Reg8(0, "r", reset=None, effect="takes a character from the receiver", when="DLAB=0")
    THR = Reg8(0, "w", reset=None, effect="gives a character to the transmitter", when="DLAB=0")
    DLL = Reg8(0, reset=12, when="DLAB=1")
    IER = Reg8(1, bits=0x0F, fields={"ERBFI": 0, "ETBEI": 1, "ELSI": 2, "EDSSI": 3}, when="DLAB=0")
    DLM = Reg8(1, when="DLAB=1")
    IIR = Reg8(
        2, "r", reset=1, bits=0xCF, fields={"NONE": 0, "ID": (1, 3), "FIFO": (6, 7)}, effect="clears THRE"
    )
    FCR = Reg8(2, "w", fields={"ENABLE": 0, "CLEAR_RX": 1, "CLEAR_TX": 2, "DMA": 3, "TRIGGER": (6, 7)})
    LCR = Reg8(3, fields={"WLS": (0, 1), "STB": 2, "PEN": 3, "EPS": 4, "STICK": 5, "BREAK": 6, "DLAB": 7})
    MCR = Reg8(4, bits=0x1F, fields={"DTR": 0, "RTS": 1, "OUT1": 2, "OUT2": 3, "LOOP": 4})
    LSR = Reg8(
        5,
        "r",
        reset=0x60,
        fields={"DR": 0, "OE": 1, "PE": 2, "FE": 3, "BI": 4, "THRE": 5, "TEMT": 6, "ERR": 7},
        effect="clears OE, PE, FE, BI",
    )
    MSR = Reg8(
        6,
        "r",
        reset=None,  # the inputs
        fields={"DCTS": 0, "DDSR": 1, "TERI": 2, "DDCD": 3, "CTS": 4, "DSR": 5, "RI": 6, "DCD": 7},
        effect="clears DCTS, DDSR, TERI, DDCD",
    )
    SCR = Reg8(7)
