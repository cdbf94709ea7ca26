"""PCI functions: configuration space, BARs, capabilities, interrupts.  PCI Local Bus 3.0.

A `PciFunction` is made by `helpers.pci(...)`; the host maps its BARs and takes its interrupts
through `PciHost`.  Configuration accesses arrive from the bus device by `config_read` and
`config_write`.

Traps: sizing writes all ones to a BAR that may be decoding; the low bits of a BAR are read only;
status bits are write-one-to-clear; a function whose command bits forbid decoding stays mapped
nowhere but keeps its BARs; MSI enabled silences INTx; interrupt pin 0 means none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from attrs import define, field, frozen

from vbox_pdm.errors import RegistrationError, StateError
from vbox_pdm.regions import Mmio, Ports, Ram, Rom
from vbox_pdm.state import State

if TYPE_CHECKING:
    from vbox_pdm.helpers import Dma, Mapping

SPACE = 256
"""Bytes of a function's configuration space."""
VENDOR, COMMAND, STATUS, REVISION = 0x00, 0x04, 0x06, 0x08
HEADER_TYPE, BAR0, SUBSYSTEM, ROM_BAR = 0x0E, 0x10, 0x2C, 0x30
CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = 0x34, 0x3C, 0x3D
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_OFF = 1, 2, 4, 1 << 10
STATUS_INTERRUPT, STATUS_CAPABILITIES = 1 << 3, 1 << 4
BarRegion = Ports | Mmio | Ram


@frozen
class PciIdentity:
    """Who a function says it is.  `class_code` is 24 bits (base, sub, interface); `pin` is 1..4 for
    INTA#..INTD#, 0 for none."""

    vendor: int
    device: int
    class_code: int = field(kw_only=True)
    revision: int = field(default=0, kw_only=True)
    subsystem_vendor: int = field(default=0, kw_only=True)
    subsystem: int = field(default=0, kw_only=True)
    multifunction: bool = field(default=False, kw_only=True)
    pin: int = field(default=1, kw_only=True)


@frozen
class Capability:
    """A capability of any kind: `data` follows the two header bytes, `mask` its writable bits."""

    capability_id: int
    data: bytes
    mask: bytes = b""
    at: int | None = field(default=None, kw_only=True)
    """Where in configuration space it stands; None: behind the one before, 4-byte aligned."""


def _msi_data(vectors: int, address64: bool, maskable: bool) -> tuple[bytes, bytes]:
    if vectors not in (1, 2, 4, 8, 16, 32):
        raise RegistrationError("VERR_INVALID_PARAMETER", f"MSI has 1, 2, 4 .. 32 vectors, not {vectors}")
    control = (vectors.bit_length() - 1) << 1 | address64 << 7 | maskable << 8
    data = control.to_bytes(2, "little")
    mask = b"\x71\x00"
    address_mask = b"\xfc\xff\xff\xff" + (b"\xff\xff\xff\xff" if address64 else b"")
    tail = b"\xff\xff\x00\x00"
    if maskable:
        tail += ((1 << vectors) - 1).to_bytes(4, "little") + bytes(4)
    return data + bytes(len(address_mask) + len(tail)), mask + address_mask + tail


@frozen
class Msi:
    """Message-signalled interrupts, capability 05h."""

    vectors: int = 1
    address64: bool = True
    maskable: bool = False
    at: int | None = field(default=None, kw_only=True)


@frozen
class MsiX:
    """MSI-X, capability 11h.  Table and pending bits live in a BAR of their own, which the function
    makes: the table at offset 0, the pending bits in its upper half."""

    vectors: int
    bar: int
    at: int | None = field(default=None, kw_only=True)


AnyCapability = Capability | Msi | MsiX


class PciHost(Protocol):
    """What a function needs of its host."""

    def bar_map(self, function: PciFunction, region: BarRegion | Rom, address: int) -> Mapping:
        """Map a BAR's region.  Guests place BARs: never raises, a fixed region below it wins."""

    def intx(self, function: PciFunction, pin: int, level: bool) -> None:
        """Pin 1..4 of the function changed."""

    def message(self, function: PciFunction, address: int, data: int) -> None:
        """A message: a write of 32-bit `data` to `address`."""

    def dma(self, address: int, length: int, write: bool, allowed: bool) -> Dma:
        """Guest memory; scratch when not `allowed`."""

    def dma_list(self, pieces: Sequence[tuple[int, int]], write: bool, allowed: bool) -> Dma:
        """The same of several (address, length)."""


@frozen
class PciState(State, version=1):
    """What the kernel saves of a function."""

    config: bytes
    level: bool
    msix_table: bytes
    msix_pending: int
    msi_pending: int


@define(eq=False)
class _Bar:
    region: BarRegion | Rom
    size: int
    mask: int
    low_bits: int
    wide: bool = False
    mapping: Mapping | None = None


class PciFunction:
    """One function.  `device` and `function` are its address on bus 0, `name` its owner's.

    `dwords` is its configuration space as a guest reads it, 64 of 32 bits, read only: the same memory as
    long as the function is there, so that a host bridge need not call for each access."""

    def __init__(
        self, host: PciHost, identity: PciIdentity, capabilities: Sequence[AnyCapability],
        device: int, function: int, name: str,
    ) -> None:  # fmt: skip
        self.identity = identity
        self.device = device
        self.function = function
        self.name = name
        self._host = host
        self._config = bytearray(SPACE)
        self.dwords = memoryview(self._config).toreadonly().cast("I")
        self._mask = bytearray(SPACE)
        self._w1c = bytearray(SPACE)
        self._initial = bytearray(SPACE)
        self._bars: dict[int, _Bar] = {}
        self._changed: list[tuple[int, int, Callable[[int, int], None]]] = []
        self._level = False
        self._driven = False
        self._msi: tuple[Msi, int] | None = None
        self._msi_pending = 0
        self._msix: _MsiXTable | None = None
        self._header()
        self._next_capability = 0x40
        self._last_link = CAPABILITIES
        for capability in capabilities:
            self._add_capability(capability)
        self._config[:] = self._initial

    # --- declaration, in construct

    def bar(self, number: int, region: BarRegion, *, wide: bool = False) -> None:
        """BAR `number` (0..5) decodes `region`; sizes are rounded up to a power of two.

        `wide` makes a 64-bit memory BAR, which takes the next number as well."""
        below = self._bars.get(number - 1)
        if (
            number in self._bars
            or not 0 <= number <= (4 if wide else 5)
            or (wide and number + 1 in self._bars)
            or (below is not None and below.wide)
        ):
            raise RegistrationError("VERR_INVALID_PARAMETER", f"{self.name}: BAR {number} is not free")
        minimum = 4 if isinstance(region, Ports) else (4096 if isinstance(region, Ram) else 16)
        size = max(minimum, 1 << (region.size - 1).bit_length())
        low = 1 if isinstance(region, Ports) else (8 if region.prefetchable else 0) | (4 if wide else 0)
        width = 64 if wide else 32
        mask = ((1 << width) - 1) & ~(size - 1)
        self._bars[number] = _Bar(region, size, mask, low, wide)
        at = BAR0 + 4 * number
        self._set_register(at, low, mask, 8 if wide else 4)

    def rom(self, region: Rom) -> None:
        """The expansion ROM BAR."""
        size = max(2048, 1 << (len(region.data) - 1).bit_length())
        mask = 0xFFFFFFFF & ~(size - 1) | 1
        self._bars[6] = _Bar(region, size, mask & ~1, 0)
        self._set_register(ROM_BAR, 0, mask, 4)

    def custom(
        self, offset: int, reset: bytes, mask: bytes = b"", *, w1c: bytes = b"",
        changed: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        """Device-specific registers at `offset`: reset values, writable bits, bits cleared by ones;
        `changed(offset, size)` follows a write that touches them."""
        self._check(offset, max(len(reset), len(mask), len(w1c)))
        end = offset + len(reset)
        self._initial[offset:end] = reset
        self._config[offset:end] = reset
        self._mask[offset : offset + len(mask)] = mask
        self._w1c[offset : offset + len(w1c)] = w1c
        if changed is not None:
            self._changed.append((offset, end, changed))

    # --- configuration space

    def config_read(self, offset: int, size: int) -> int:
        """`size` is 1, 2 or 4; 0 <= offset and offset + size <= 256."""
        if size == 4 and not offset & 3:
            return self.dwords[offset >> 2]
        return int.from_bytes(self._config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """A guest's write: read-only bits stay, decoding and interrupts follow."""
        for index in range(size):
            at = offset + index
            byte = value >> (8 * index) & 0xFF
            kept = self._config[at] & ~self._mask[at] & ~(byte & self._w1c[at])
            self._config[at] = kept | byte & self._mask[at]
        end = offset + size
        if offset < ROM_BAR + 4 and end > COMMAND:
            self._update_bars()
        if self._msi is not None or self._msix is not None or offset < STATUS:
            self._update_interrupts()
        for first, last, changed in self._changed:
            if offset < last and end > first:
                changed(offset, size)

    def writable(self, offset: int) -> int:
        """The bits of the byte at `offset` that a guest can set and clear."""
        return self._mask[offset]

    def set_config(self, offset: int, data: bytes) -> None:
        """The device itself changes bytes, read-only ones too."""
        self._check(offset, len(data))
        self._config[offset : offset + len(data)] = data

    @property
    def bus_master(self) -> bool:
        """Whether the guest allows this function to do DMA and to send messages."""
        return bool(self._config[COMMAND] & COMMAND_MASTER)

    def bar_address(self, number: int) -> int | None:
        """Where BAR `number` decodes now; None when it does not."""
        mapping = self._bars[number].mapping
        return mapping.address if mapping is not None else None

    def bar_region(self, number: int) -> BarRegion | Rom:
        """What BAR `number` decodes (6 is the ROM)."""
        return self._bars[number].region

    def bar_sizes(self) -> dict[int, tuple[int, bool, bool]]:
        """BAR number (6 is the ROM) -> (size in bytes, is I/O, is 64 bits wide)."""
        return {n: (b.size, isinstance(b.region, Ports), b.wide) for n, b in self._bars.items()}

    # --- what the device does

    def set_irq(self, level: bool) -> None:
        """Drive the function's interrupt pin.  Silent while MSI or MSI-X is enabled or INTx is
        disabled; the status bit shows it all the same."""
        if level != self._level:
            self._level = level
            self._update_interrupts()

    @property
    def irq_level(self) -> bool:
        """What the device drives (before the command register's mask)."""
        return self._level

    @property
    def msi_enabled(self) -> bool:
        """Whether the guest enabled MSI."""
        return self._msi is not None and bool(self._config[self._msi[1] + 2] & 1)

    @property
    def msix_enabled(self) -> bool:
        """Whether the guest enabled MSI-X."""
        return self._msix is not None and bool(self._config[self._msix.at + 3] & 0x80)

    def send_message(self, vector: int) -> None:
        """Signal MSI or MSI-X vector `vector`, whichever is enabled; pending while masked, lost
        while neither is enabled."""
        if self._msix is not None and self.msix_enabled:
            self._msix.signal(vector)
        elif self._msi is not None and self.msi_enabled:
            self._msi_pending |= 1 << vector
            self._send_pending_msi()

    def dma(self, address: int, length: int, *, write: bool = False) -> Dma:
        """Guest memory for a transfer; scratch (0xFF, writes lost) while bus mastering is off."""
        return self._host.dma(address, length, write, self.bus_master)

    def dma_list(self, pieces: Sequence[tuple[int, int]], *, write: bool = False) -> Dma:
        """One handle for scattered memory: the (address, length) of each piece, in order, as a table of
        descriptors has them.  Cheaper than a handle for each."""
        return self._host.dma_list(pieces, write, self.bus_master)

    # --- for the host

    def reset(self) -> None:
        """RST#: configuration as after power on, nothing decoded, line low, nothing pending."""
        self._level = False
        self._msi_pending = 0
        if self._msix is not None:
            self._msix.reset()
        self._config[:] = self._initial
        self._update_bars()
        self._update_interrupts()

    def save(self) -> PciState:
        """Everything that a guest can see of it."""
        table = bytes(self._msix.table) if self._msix else b""
        pending = self._msix.pending if self._msix else 0
        return PciState(bytes(self._config), self._level, table, pending, self._msi_pending)

    def load(self, state: PciState) -> None:
        """Take over a state: BARs are mapped accordingly, no interrupt is raised."""
        if len(state.config) != SPACE:
            raise StateError(
                "VERR_SSM_UNEXPECTED_DATA",
                f"The saved configuration space of {self.name} has {len(state.config)} bytes, not {SPACE}",
            )
        self._config[:] = state.config
        self._level = state.level
        self._msi_pending = state.msi_pending
        if self._msix is not None:
            self._msix.table[:] = state.msix_table
            self._msix.pending = state.msix_pending
        self._driven = self._pin_level()
        self._update_bars()

    @property
    def driven(self) -> bool:
        """Whether its pin is asserted on the bus now."""
        return self._driven

    # --- machinery

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > SPACE:
            raise RegistrationError(
                "VERR_INVALID_PARAMETER",
                f"{self.name}: {length} bytes at {offset:#x} are not in configuration space",
                f"It has {SPACE} bytes",
            )

    def _header(self) -> None:
        who = self.identity
        self._set_register(VENDOR, who.vendor | who.device << 16, 0, 4)
        self._set_register(REVISION, who.revision | who.class_code << 8, 0, 4)
        self._set_register(HEADER_TYPE, 0x80 if who.multifunction else 0, 0, 1)
        self._set_register(0x0C, 0, 0xFFFF, 2)  # cache line size, latency timer
        self._set_register(SUBSYSTEM, who.subsystem_vendor | who.subsystem << 16, 0, 4)
        self._set_register(COMMAND, 0, 0x0547, 2)  # IO, MEM, master, PERR, SERR, INTx off
        self._w1c[STATUS + 1] = 0xF9
        self._set_register(INTERRUPT_LINE, 0, 0xFF, 1)
        self._set_register(INTERRUPT_PIN, who.pin, 0, 1)

    def _set_register(self, at: int, value: int, mask: int, size: int) -> None:
        self._initial[at : at + size] = value.to_bytes(size, "little")
        self._config[at : at + size] = value.to_bytes(size, "little")
        self._mask[at : at + size] = mask.to_bytes(size, "little")

    def _add_capability(self, capability: AnyCapability) -> None:
        if isinstance(capability, Msi):
            number = 5
            data, mask = _msi_data(capability.vectors, capability.address64, capability.maskable)
        elif isinstance(capability, MsiX):
            number = 0x11
            table = _MsiXTable(self, capability.vectors)
            half = table.half
            data = (capability.vectors - 1).to_bytes(2, "little")
            data += capability.bar.to_bytes(4, "little") + (half | capability.bar).to_bytes(4, "little")
            mask = b"\x00\xc0"
            self._msix = table
            self.bar(capability.bar, Mmio("msix", 2 * half, table.read, table.write))
        else:
            number, data, mask = capability.capability_id, capability.data, capability.mask
        at = self._next_capability if capability.at is None else capability.at
        if at & 3 or at < 0x40 or at + 2 + len(data) > SPACE:
            raise RegistrationError(
                "VERR_INVALID_PARAMETER",
                f"{self.name}: a capability of {len(data)} bytes does not fit at {at:#x}",
            )
        if isinstance(capability, Msi):
            self._msi = (capability, at)
        elif self._msix is not None and isinstance(capability, MsiX):
            self._msix.at = at
        self._initial[self._last_link] = at
        self._last_link = at + 1
        self._initial[at] = number
        self._initial[at + 2 : at + 2 + len(data)] = data
        self._mask[at + 2 : at + 2 + len(mask)] = mask
        self._initial[STATUS] |= STATUS_CAPABILITIES
        self._next_capability = (at + 2 + len(data) + 3) & ~3

    def _update_bars(self) -> None:
        command = self._config[COMMAND]
        for number, bar in self._bars.items():
            at = ROM_BAR if number == 6 else BAR0 + 4 * number
            value = int.from_bytes(self._config[at : at + (8 if bar.wide else 4)], "little")
            enable = COMMAND_IO if isinstance(bar.region, Ports) else COMMAND_MEMORY
            decodes = bool(command & enable) and (number != 6 or bool(value & 1))
            wanted = value & bar.mask if decodes else None
            if isinstance(bar.region, Ports) and wanted is not None and wanted + bar.size > 0x10000:
                wanted = None
            current = bar.mapping.address if bar.mapping is not None else None
            if wanted == current:
                continue
            if bar.mapping is not None:
                bar.mapping.unmap()
                bar.mapping = None
            if wanted is not None:
                bar.mapping = self._host.bar_map(self, bar.region, wanted)

    def _pin_level(self) -> bool:
        silent = self._config[COMMAND + 1] & 4 or self.msi_enabled or self.msix_enabled
        return self._level and not silent and self._config[INTERRUPT_PIN] != 0

    def _update_interrupts(self) -> None:
        status = self._config[STATUS]
        self._config[STATUS] = status | STATUS_INTERRUPT if self._level else status & ~STATUS_INTERRUPT
        driven = self._pin_level()
        if driven != self._driven:
            self._driven = driven
            self._host.intx(self, self._config[INTERRUPT_PIN], driven)
        if self._msi_pending:
            self._send_pending_msi()
        if self._msix is not None:
            self._msix.send_pending()

    def _send_pending_msi(self) -> None:
        if self._msi is None:
            return
        msi, at = self._msi
        tail = at + (12 if msi.address64 else 8)
        masked = self.config_read(tail + 4, 4) if msi.maskable else 0
        ready = self._msi_pending & ~masked if self.msi_enabled and self.bus_master else 0
        self._msi_pending &= ~ready
        if msi.maskable:
            self._config[tail + 8 : tail + 12] = self._msi_pending.to_bytes(4, "little")
        address = self.config_read(at + 4, 4)
        if msi.address64:
            address |= self.config_read(at + 8, 4) << 32
        granted = 1 << (self._config[at + 2] >> 4 & 7)
        for vector in range(msi.vectors):
            if ready >> vector & 1:
                data = self.config_read(tail, 2) & ~(granted - 1) | vector & (granted - 1)
                self._host.message(self, address, data)


class _MsiXTable:
    """Table and pending bits of MSI-X (PCI 3.0, 6.8.2): 16 bytes a vector, dword or qword access."""

    def __init__(self, owner: PciFunction, vectors: int) -> None:
        if not 1 <= vectors <= 2048:
            raise RegistrationError("VERR_INVALID_PARAMETER", f"MSI-X has 1 to 2048 vectors, not {vectors}")
        self.owner = owner
        self.vectors = vectors
        self.half = max(2048, 1 << (16 * vectors - 1).bit_length())
        self.at = 0
        self.table = bytearray()
        self.pending = 0
        self.reset()

    def reset(self) -> None:
        self.table = bytearray((bytes(12) + b"\x01\x00\x00\x00") * self.vectors)
        self.pending = 0

    def read(self, offset: int, size: int) -> int:
        if offset < len(self.table):
            return int.from_bytes(self.table[offset : offset + size], "little")
        if offset >= self.half:
            return self.pending >> (8 * (offset - self.half)) & ((1 << (8 * size)) - 1)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset + size > len(self.table):
            return
        self.table[offset : offset + size] = value.to_bytes(size, "little")
        for at in range(offset & ~15, offset + size, 16):
            self.table[at] &= 0xFC
            self.table[at + 12 : at + 16] = bytes([self.table[at + 12] & 1, 0, 0, 0])
        self.send_pending()

    def signal(self, vector: int) -> None:
        if 0 <= vector < self.vectors:
            self.pending |= 1 << vector
            self.send_pending()

    def send_pending(self) -> None:
        control = self.owner.config_read(self.at + 2, 2) if self.at else 0
        if not self.pending or control & 0xC000 != 0x8000 or not self.owner.bus_master:
            return
        for vector in range(self.vectors):
            entry = self.table[16 * vector : 16 * vector + 16]
            if self.pending >> vector & 1 and not entry[12] & 1:
                self.pending &= ~(1 << vector)
                address = int.from_bytes(entry[0:8], "little")
                self.owner._host.message(self.owner, address, int.from_bytes(entry[8:12], "little"))
