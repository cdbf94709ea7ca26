"""Registers of an IDE channel, of its bus master, and of the PCI function.

ATA/ATAPI-7 (T13 1532D) volume 1, clause 7, for the command and control blocks; SFF-8038i 1.0 for the
bus master; Intel 290550 (PIIX3) and 290562 (PIIX4), IDE controller registers, for the rest.
"""

from __future__ import annotations

from vbox_pdm import Reg8, Reg16, Reg32, RegisterMap, ata

# Offsets in the command block.
DATA, FEATURES, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, COMMAND = range(8)
ERROR, STATUS = FEATURES, COMMAND  # as they read

BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
READY = DRDY | DSC
ABRT = 0x04  # in the error register
PASSED = 0x01  # diagnostic code in the error register: this device is well
HOB, SRST, NIEN = 0x80, 0x04, 0x02  # in device control
DEV = 0x10  # in the device register
REASON_CD, REASON_IO = 0x01, 0x02  # interrupt reason: command or data, to the host

DEVICE_RESET, DIAGNOSTIC, PACKET = 0x08, 0x90, 0xA0
PACKET_DMA, PACKET_OVERLAP = 0x01, 0x02  # in features of a PACKET command
PACKET_LENGTH = 12

BM_START, BM_TO_MEMORY = 0x01, 0x08  # BMICX
BM_ACTIVE, BM_ERROR, BM_INTERRUPT, BM_CAPABLE = 0x01, 0x02, 0x04, 0x60  # BMISX

PCICMD, PCISTS, IDETIM, SIDETIM, SDMACTL, SDMATIM = 0x04, 0x06, 0x40, 0x44, 0x48, 0x4A
DECODE_ENABLE = 0x8000  # in IDETIM
MASTER_ABORT = 0x2000  # in PCISTS


_TWO_DEEP = "write keeps the value before it"


class CommandBlock(RegisterMap):
    """1F0-1F7 and 170-177, where PCICMD and IDETIM say that they are decoded; else all ones are read.

    All but data are two deep: what was written before shows with HOB.  After a reset they show the
    signature of the drive that is there.  While a PACKET command asks for data, COUNT is the interrupt
    reason and LBA_MID and LBA_HIGH are the byte count."""

    DATA = Reg16(DATA, reset=0xFFFF, effect="moves to the next item of the block; 8, 16 or 32 bits")
    ERROR = Reg8(ERROR, "r", reset=None, fields={"ABRT": 2, "IDNF": 4, "UNC": 6, "ICRC": 7})
    FEATURES = Reg8(FEATURES, "w", effect=_TWO_DEEP)
    COUNT = Reg8(COUNT, reset=None, fields={"CD": 0, "IO": 1}, effect=_TWO_DEEP)
    LBA_LOW = Reg8(LBA_LOW, reset=None, effect=_TWO_DEEP)
    LBA_MID = Reg8(LBA_MID, reset=None, effect=_TWO_DEEP)
    LBA_HIGH = Reg8(LBA_HIGH, reset=None, effect=_TWO_DEEP)
    DEVICE = Reg8(DEVICE, fields={"HEAD": (0, 3), "DEV": 4, "LBA": 6})
    STATUS = Reg8(
        STATUS, "r", reset=None, effect="takes the interrupt back",
        fields={"ERR": 0, "DRQ": 3, "DSC": 4, "DF": 5, "DRDY": 6, "BSY": 7},
    )  # fmt: skip
    COMMAND = Reg8(
        COMMAND, "w", effect="write starts a command", values={int(c): c.name for c in ata.Command}
    )


class ControlBlock(RegisterMap):
    """3F6 and 376."""

    ALTSTATUS = Reg8(0, "r", reset=None, fields=CommandBlock.STATUS.fields)
    CONTROL = Reg8(0, "w", fields={"NIEN": 1, "SRST": 2, "HOB": 7})


class BusMasterBlock(RegisterMap):
    """BAR 4: one set for each channel.  BMIDTPX is where the table of PRDs is, dword aligned."""

    BMICX = Reg8(0, count=2, stride=8, bits=0x09, fields={"START": 0, "RWCON": 3})
    BMISX = Reg8(
        2, count=2, stride=8, bits=0x67, fields={"ACTIVE": 0, "ERROR": 1, "INTERRUPT": 2, "CAPABLE": (5, 6)},
        effect="write clears ERROR and INTERRUPT by ones",
    )  # fmt: skip
    BMIDTPX = Reg32(4, count=2, stride=8, bits=0xFFFFFFFC)


class Configuration(RegisterMap):
    """Configuration registers of the function."""

    PCICMD = Reg16(PCICMD, fields={"IOSE": 0, "BME": 2})
    PCISTS = Reg16(PCISTS, reset=0x0280, effect="bits are cleared by ones")
    MLT = Reg8(0x0D)
    IDETIM = Reg16(IDETIM, count=2, stride=2, fields={"SITRE": 14, "IDE": 15})
    SIDETIM = Reg8(SIDETIM)
    SDMACTL = Reg8(SDMACTL, when="PIIX4")
    SDMATIM = Reg16(SDMATIM, when="PIIX4")
