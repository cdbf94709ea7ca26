"""The $PIR table: how the INTA#..INTD# pins of the slots reach the interrupt router.

Reference: PCI IRQ Routing Table Specification 1.0.  Systems without ACPI or an MP table route PCI
interrupts by it.  The wiring is the board's: pin INTA# (0) of slot s reaches PIRQ (s + pin - 1) mod 4
of the PIIX3, whose links are its configuration registers 60h to 63h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

ROUTER_DEVICE, ROUTER_FUNCTION = 1, 0
ROUTER_VENDOR, ROUTER_ID = 0x8086, 0x7000
FIRST_LINK = 0x60
POSSIBLE_IRQS = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11
PIRQ_LINES = (11, 10, 9, 11)
"""The ISA interrupt of PIRQA# to PIRQD#, as the set-up programs the router."""


def pirq_of(device: int, pin: int) -> int:
    """The router's input (0..3) of pin 0..3 (INTA#..INTD#) of slot `device`."""
    return (device + pin - 1) & 3


def build(devices: Iterable[int]) -> bytes:
    """The table for the slots `devices` of bus 0; to lie on a 16-byte boundary in F0000h..FFFFFh."""
    slots = sorted(set(devices))
    table = bytearray(32 + 16 * len(slots))
    exclusive = 0
    for line in set(PIRQ_LINES):
        exclusive |= 1 << line
    router = ROUTER_DEVICE << 3 | ROUTER_FUNCTION
    struct.pack_into("<4sHHBBHHH", table, 0, b"$PIR", 0x0100, len(table), 0, router, exclusive,
                     ROUTER_VENDOR, ROUTER_ID)  # fmt: skip
    for index, device in enumerate(slots):
        at = 32 + 16 * index
        table[at + 1] = device << 3
        for pin in range(4):
            struct.pack_into("<BH", table, at + 2 + 3 * pin, FIRST_LINK + pirq_of(device, pin), POSSIBLE_IRQS)
    table[31] = -sum(table) & 0xFF
    return bytes(table)
