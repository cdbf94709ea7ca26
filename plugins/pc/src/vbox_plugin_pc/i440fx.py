"""Host bridge Intel 82441FX (PMC), slot 0.  Data sheet 290549, "Intel 440FX PCIset" (May 1996).

Modelled: configuration mechanism 1, the configuration registers with their read-only bits, the
programmable attribute map (PAM) over RAM and ROM from C0000 to FFFFF, SMRAM opened for access
outside SMM with its lock, and the turbo reset control.

Not modelled: what DRAM timing, buffers and error detection do (the bits are kept); the DRAM holes
of FDHC; SMM itself, so SMRAM shows only while D_OPEN is set.

Traps
- CF8 is the address register for a dword only: bytes and words there are ordinary I/O, and CF9 is
  the reset control of the ISA bridge.
- CFC..CFF are data ports for any width while bit 31 of the address is set, else ordinary I/O.
- A function that is not there ends in master abort: all ones, writes lost.
- Once D_LCK is set, D_OPEN is 0 and both stay as they are until the next hard reset.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import (
    Device,
    DeviceClass,
    DeviceType,
    NoConfig,
    PciIdentity,
    Ports,
    Reg8,
    Reg16,
    Reg32,
    RegisterMap,
    ResetSource,
    ShadowMode,
    State,
    hookimpl,
)
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup

ADDRESS_BITS = 0x80FFFFFC
ENABLE = 1 << 31
BUS_0 = ENABLE >> 16
"""Bits 16 to 31 of the address of anybody."""
MASTER_ABORT = memoryview(b"\xff" * 256).cast("I")
"""The configuration space that nobody has."""
PAM, SMRAM, TRC = 0x59, 0x72, 0x93
D_OPEN, D_CLS, D_LCK, G_SMRAME = 0x40, 0x20, 0x10, 0x08
TRC_HARD, TRC_RESET = 2, 4

PAM_RANGES = tuple(
    [(PAM, 4, 0xF0000, 0x10000)]
    + [(PAM + 1 + i // 2, 4 * (i % 2), 0xC0000 + 0x4000 * i, 0x4000) for i in range(12)]
)
"""(register, shift, first address, size)."""
SMRAM_RANGE = (0xA0000, 0x20000)


class Registers(RegisterMap):
    """Port CF8."""

    CONFADD = Reg32(
        0,
        bits=ADDRESS_BITS,
        fields={"REGISTER": (2, 7), "FUNCTION": (8, 10), "DEVICE": (11, 15), "BUS": (16, 23), "ENABLE": 31},
        values={ENABLE | at & 0xFC: name for name, at in (("PAM", PAM), ("SMRAM", SMRAM), ("TRC", TRC))},
        effect="writes of a dword alone address the data ports",
    )


class DataRegisters(RegisterMap):
    """Ports CFC..CFF."""

    CONFDATA = Reg32(0, reset=0xFFFFFFFF, effect="writes go to the addressed configuration register")


class Configuration(RegisterMap):
    """The function's own configuration registers."""

    PCICMD = Reg16(0x04, reset=0x0006)
    PCISTS = Reg16(0x06, reset=0x0280, effect="bits are cleared by ones")
    MLT = Reg8(0x0D)
    PMCCFG = Reg16(0x50, reset=0x0200, fields={"DDIM": (4, 5), "ECC_TEST": 6, "FREQUENCY": (8, 9), "WSC": 15})
    DETURBO = Reg8(0x52)
    DBC = Reg8(0x53, reset=0x80)
    AXC = Reg8(0x54)
    DRT = Reg16(0x55)
    DRAMC = Reg8(0x57, reset=0x01)
    DRAMT = Reg8(0x58, reset=0x10)
    PAM = Reg8(PAM, count=7, stride=1, fields={"LOW": (0, 1), "HIGH": (4, 5)}, effect="shadowing")
    DRB = Reg8(0x60, reset=0x01, count=8, stride=1)
    FDHC = Reg8(0x68)
    MTT = Reg8(0x70)
    CLT = Reg8(0x71, reset=0x10)
    SMRAM = Reg8(
        SMRAM,
        reset=0x02,
        fields={"C_BASE_SEG": (0, 2), "G_SMRAME": 3, "D_LCK": 4, "D_CLS": 5, "D_OPEN": 6},
    )
    ERRCMD = Reg8(0x90)
    ERRSTS = Reg8(0x91, effect="bits are cleared by ones")
    TRC = Reg8(TRC, fields={"HARD": 1, "RESET": 2, "BIST": 3}, effect="RESET 0 -> 1 resets")


# (offset, reset value, writable bits, bits cleared by ones)
_CONFIGURATION = (
    (0x04, b"\x06\x00", b"\x40\x01", b""),  # PERR#, SERR#; memory and bus master are hardwired
    (0x06, b"\x80\x02", b"\x00\x00", b"\x00\xf9"),
    (0x0C, b"\x00\x00", b"\x00\xf8", b""),  # no cache line size
    (0x3C, b"\x00\x00", b"\x00\x00", b""),  # no interrupt
    (0x50, b"\x00\x02", b"\x70\x80", b""),  # strapped to a bus of 66 MHz
    (0x52, b"\x00\x80", b"\xff\xff", b""),
    (0x54, b"\x00", b"\x82", b""),
    (0x55, b"\x00\x00", b"\xff\xff", b""),
    (0x57, b"\x01\x10", b"\x77\x7f", b""),
    (PAM, bytes(7), b"\x30" + b"\x33" * 6, b""),
    (0x60, b"\x01" * 8, b"\xff" * 8, b""),
    (0x68, b"\x00", b"\xc0", b""),
    (0x70, b"\x00\x10", b"\xf8\x1f", b""),
    (SMRAM, b"\x02", b"\x78", b""),
    (0x90, b"\x00\x00", b"\x1b\x00", b"\x00\x11"),
    (TRC, b"\x00", b"\x0e", b""),
)


@frozen
class I440fxState(State, version=1):
    """Besides the configuration space: the address port, and what the registers do right now."""

    address: int
    pam: bytes
    smram: int
    turbo_reset: int


class I440fx(Device[NoConfig]):
    """The bridge between CPU, memory and PCI bus 0."""

    def pdm_construct(self) -> None:
        helpers = self.helpers
        self.pam = bytes(7)
        self.smram = 0x02
        self.turbo_reset = 0
        self.bus = helpers.provide_pci_bus()
        self._select(0)
        self.pci = helpers.pci(PciIdentity(0x8086, 0x1237, class_code=0x060000, revision=2, pin=0), device=0)
        changed = {PAM: self._pam_changed, SMRAM: self._smram_changed, TRC: self._trc_changed}
        for offset, reset, mask, w1c in _CONFIGURATION:
            self.pci.custom(offset, reset, mask, w1c=w1c, changed=changed.get(offset))
        self._shadow_all()
        helpers.map_ports(
            0xCF8,
            Ports("address", 4, self.read_address, self.write_address, registers=Registers, claims=4),
        )
        helpers.map_ports(0xCFC, Ports("data", 4, self.read_data, self.write_data, registers=DataRegisters))

    def pdm_reset(self) -> None:
        self._select(0)
        self.pam = bytes(7)
        self.pci.set_config(PAM, self.pam)
        self._shadow_all()
        self._set_smram(0x02)
        self.turbo_reset = 0
        self.pci.set_config(TRC, b"\x00")

    # --- ports

    def read_address(self, offset: int, size: int) -> int:
        """CF8, a dword."""
        return self.address

    def write_address(self, offset: int, size: int, value: int) -> None:
        """CF8, a dword."""
        self._select(value & ADDRESS_BITS)

    def read_data(self, offset: int, size: int) -> int:
        """CFC..CFF."""
        value = self._dwords[self._register]
        return value if size == 4 else value >> 8 * offset & (1 << 8 * size) - 1

    def write_data(self, offset: int, size: int, value: int) -> None:
        """CFC..CFF."""
        if self._function is not None:
            self._function.config_write(4 * self._register + offset, size, value)

    def _select(self, address: int) -> None:
        """Look up who is addressed, once for all accesses; only bus 0 exists.  Functions come before power
        on and stay."""
        self.address = address
        self._register = (address & 0xFC) >> 2
        function = None
        if address >> 16 == BUS_0:
            at = address & 0xFFFF
            function = self.bus.function(at >> 11, at >> 8 & 7)
        self._function = function
        self._dwords = MASTER_ABORT if function is None else function.dwords

    # --- configuration registers that do something

    def _pam_changed(self, offset: int, size: int) -> None:
        pam = self.pci.config_read(PAM, 4) | self.pci.config_read(PAM + 4, 2) << 32
        self._shadow(pam.to_bytes(6, "little") + self.pci.config_read(PAM + 6, 1).to_bytes(1, "little"))

    def _smram_changed(self, offset: int, size: int) -> None:
        value = self.pci.config_read(SMRAM, 1)
        if self.smram & D_LCK:
            # Locked: D_CLS alone can still be written.
            value = self.smram & ~D_CLS | value & D_CLS
        elif value & D_LCK:
            value &= ~D_OPEN
        self._set_smram(value)

    def _trc_changed(self, offset: int, size: int) -> None:
        before, self.turbo_reset = self.turbo_reset, self.pci.config_read(TRC, 1)
        if self.turbo_reset & ~before & TRC_RESET:
            self.helpers.reset_vm(ResetSource.PCI, soft=not self.turbo_reset & TRC_HARD)

    def _set_smram(self, value: int) -> None:
        changed, self.smram = value ^ self.smram, value
        self.pci.set_config(SMRAM, bytes([value]))
        if changed & D_OPEN:
            self._show_smram()

    def _show_smram(self) -> None:
        opened = ShadowMode.READ_RAM_WRITE_RAM if self.smram & D_OPEN else ShadowMode.READ_ROM_WRITE_NONE
        self.helpers.shadow(*SMRAM_RANGE, opened)

    def _shadow(self, pam: bytes) -> None:
        """Apply what changed in the attribute map."""
        before, self.pam = self.pam, pam
        for register, shift, first, size in PAM_RANGES:
            old = before[register - PAM] >> shift & 3
            new = pam[register - PAM] >> shift & 3
            if old != new:
                self.helpers.shadow(first, size, ShadowMode(new))

    def _shadow_all(self) -> None:
        """Apply the attribute map without regard to what was."""
        for register, shift, first, size in PAM_RANGES:
            self.helpers.shadow(first, size, ShadowMode(self.pam[register - PAM] >> shift & 3))

    # --- state

    def pdm_save(self) -> I440fxState:
        return I440fxState(address=self.address, pam=self.pam, smram=self.smram, turbo_reset=self.turbo_reset)

    def pdm_load(self, state: I440fxState) -> None:
        self._select(state.address)
        self.pam = state.pam
        self._shadow_all()
        opened = (self.smram | state.smram) & D_OPEN
        self.smram = state.smram
        if opened:
            self._show_smram()
        self.turbo_reset = state.turbo_reset

    def pdm_info(self, arguments: str) -> str:
        lines = [f"CONFADD {Registers.CONFADD.describe(self.address)}"]
        lines.append(f"SMRAM {Configuration.SMRAM.describe(self.smram)}")
        for register, shift, first, size in sorted(PAM_RANGES, key=lambda row: row[2]):
            mode = ShadowMode(self.pam[register - PAM] >> shift & 3)
            lines.append(f"{first:#x}..{first + size - 1:#x} {mode.name.lower().replace('_', ' ')}")
        return "\n".join(lines)


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "i440fx", I440fx,
            device_class=DeviceClass.BUS_PCI, max_instances=1, summary="PCI host bridge Intel 82441FX",
        )
    )  # fmt: skip
