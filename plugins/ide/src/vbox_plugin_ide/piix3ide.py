"""IDE controller of the PIIX3 or PIIX4: two channels with bus-master DMA, slot 1 function 1.
Intel 290550, "82371FB (PIIX) and 82371SB (PIIX3)", and 290562, "82371AB (PIIX4)", IDE controller
registers; SFF-8038i 1.0; ATA/ATAPI-7 (T13 1532D).

Modelled: both channels at their fixed ports, gated by IDETIM and by the I/O enable; all registers of
the bus master; the configuration registers with their read-only bits.  The task file and its
protocols are in `channel`, what the registers of a device show in `taskfile`, the bus master in
`busmaster`, tables of memory regions in `prd`.

Not modelled: timing (IDETIM, SIDETIM and the Ultra DMA registers are kept and change nothing but the
decoding); native mode, which the chip has not.

Traps
- The chip comes up with both channels switched off: firmware, or whoever plays it, sets bit 15 of
  both IDETIM.
- Of 3F4-3F7 only 3F6 belongs to the channel; the rest is the diskette controller's.
- The interrupts are ISA lines 14 and 15, not a pin; BARs 0 to 3 and the interrupt registers read 0.
- Switching off bus mastering pauses a transfer, it does not end it.
- When the VM is suspended a request may still be with a drive, which drains or parks it: there is
  nothing to wait for here.  After a load the request is submitted again; after a plain resume it is not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define

from vbox_pdm import (
    Device,
    DeviceClass,
    DeviceType,
    Drive,
    PciIdentity,
    PdmError,
    Ports,
    hookimpl,
    key,
)
from vbox_plugin_ide import states
from vbox_plugin_ide.busmaster import BusMaster
from vbox_plugin_ide.channel import Channel
from vbox_plugin_ide.registers import (
    DECODE_ENABLE,
    IDETIM,
    PCICMD,
    PCISTS,
    SDMACTL,
    SDMATIM,
    SIDETIM,
    BusMasterBlock,
    CommandBlock,
    ControlBlock,
)
from vbox_plugin_ide.saved import IdeState, Stage
from vbox_plugin_ide.taskfile import Unit

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

CHANNELS = (("primary", 0x1F0, 0x3F6, 14), ("secondary", 0x170, 0x376, 15))
UNITS = ("master", "slave")
IO_ENABLE = 0x01
TRANSLATION = 0x39
"""CMOS: two bits for each of four disks, what firmware does with cylinders, heads and sectors."""
TRANSLATE_NONE, TRANSLATE_LBA = 0, 1


class Chip(enum.Enum):
    """Which chip the controller is part of."""

    PIIX3 = "PIIX3"
    PIIX4 = "PIIX4"


# device id, revision
_IDENTITY = {Chip.PIIX3: (0x7010, 0), Chip.PIIX4: (0x7111, 1)}
# (offset, reset value, writable bits, bits cleared by ones)
_CONFIGURATION = (
    (PCICMD, b"\x00\x00", b"\x05\x00", b""),
    (PCISTS, b"\x80\x02", b"\x00\x00", b"\x00\x38"),
    (0x0C, b"\x00\x00", b"\x00\xf0", b""),
    (0x3C, b"\x00\x00", b"\x00\x00", b""),
    (IDETIM, bytes(4), b"\xff\xf3\xff\xf3", b""),
    (SIDETIM, b"\x00", b"\xff", b""),
)
_ULTRA_DMA = (
    (SDMACTL, b"\x00", b"\x0f", b""),
    (SDMATIM, bytes(2), b"\x33\x33", b""),
)


@define(frozen=True)
class Config:
    """Configuration."""

    type: Chip = key(Chip.PIIX3, help="which chip: PIIX4 adds the Ultra DMA registers")


def translation(geometry: tuple[int, int, int]) -> int:
    """The two bits for a disk of that translated geometry: none when it is small."""
    cylinders, heads, _ = geometry
    return TRANSLATE_LBA if cylinders > 1024 or heads > 16 else TRANSLATE_NONE


class Piix3Ide(Device[Config]):
    """The controller.  LUN 2 * channel + unit."""

    def pdm_construct(self) -> None:
        helpers = self.helpers
        number, revision = _IDENTITY[self.config.type]
        self.pci = helpers.pci(
            PciIdentity(0x8086, number, class_code=0x010180, revision=revision, pin=0), device=1, function=1
        )
        registers = _CONFIGURATION + (_ULTRA_DMA if self.config.type is Chip.PIIX4 else ())
        for offset, reset, mask, w1c in registers:
            changed = self._decoding_changed if offset in (PCICMD, IDETIM) else None
            self.pci.custom(offset, reset, mask, w1c=w1c, changed=changed)
        self.channels: list[Channel] = []
        for index, (name, ports, control, line) in enumerate(CHANNELS):
            first, second = (
                helpers.lun(2 * index + unit, Drive, f"{name} {UNITS[unit]}") for unit in range(2)
            )
            master = BusMaster(self.pci, helpers.dma_list)
            channel = Channel((first, second), helpers.isa_irq(line), master, helpers.log)
            self.channels.append(channel)
            helpers.map_ports(
                ports,
                Ports(
                    f"ide {name}", 8, channel.read, channel.write, registers=CommandBlock,
                    read_string=channel.read_string, write_string=channel.write_string,
                ),
            )  # fmt: skip
            helpers.map_ports(
                control,
                Ports(
                    f"ide {name} control", 1, channel.read_control, channel.write_control,
                    registers=ControlBlock,
                ),
            )  # fmt: skip
        self.pci.bar(
            4, Ports("ide bus master", 16, self.read_master, self.write_master, registers=BusMasterBlock)
        )

    def pdm_init_complete(self) -> None:
        for channel in self.channels:
            for unit in channel.units:
                unit.power_on()
        self._tell_firmware()

    def pdm_reset(self) -> None:
        for channel in self.channels:
            channel.hard_reset()
        self._update_decoding()
        if not self._idle():
            self.helpers.set_async_notification(self._idle)

    def pdm_power_on(self) -> None:
        self._go_on()

    def pdm_resume(self) -> None:
        self._go_on()

    def pdm_attach(self, lun: int) -> None:
        self.channels[lun >> 1].attached(lun & 1)

    def pdm_detach(self, lun: int) -> None:
        self.channels[lun >> 1].detached(lun & 1)

    def drive_notify(self) -> None:
        """A disk came or went below its drive.  (A disc in a CD drive is no matter of ours.)"""
        for channel in self.channels:
            channel.look()

    # --- bus master

    def read_master(self, offset: int, size: int) -> int:
        """BAR 4."""
        master = self.channels[offset >> 3 & 1].master
        if size == 1:
            return master.read(offset & 7)
        return sum(self.read_master(offset + at, 1) << 8 * at for at in range(size))

    def write_master(self, offset: int, size: int, value: int) -> None:
        """BAR 4.  Wider accesses reach the registers in ascending order."""
        for at in range(offset, offset + size):
            self._write_master(self.channels[at >> 3 & 1], at & 7, value & 0xFF)
            value >>= 8

    def _write_master(self, channel: Channel, register: int, value: int) -> None:
        if register >= 4:
            channel.master.write_pointer(register - 4, value)
        elif register == 2:
            channel.master.write_status(value)
        elif register == 0:
            channel.master.write_command(value)
            self._transfer(channel)

    def _transfer(self, channel: Channel) -> None:
        """A device that waits for the bus master gets it, when it runs."""
        command = channel.command
        if command is not None and command.stage is Stage.DMA:
            channel.submit(command)

    # --- decoding

    def _decoding_changed(self, offset: int, size: int) -> None:
        self._update_decoding()
        for channel in self.channels:
            self._transfer(channel)

    def _update_decoding(self) -> None:
        io = self.pci.config_read(PCICMD, 1) & IO_ENABLE
        for index, channel in enumerate(self.channels):
            timing = self.pci.config_read(IDETIM + 2 * index, 2)
            channel.enabled = bool(io and timing & DECODE_ENABLE)

    # --- firmware, life

    def _tell_firmware(self) -> None:
        """The translation of each disk, into CMOS, where a machine has one."""
        mask = bits = 0
        for index, channel in enumerate(self.channels):
            for unit in channel.units:
                geometry = unit.drive.drive_lchs() if unit.present else None
                if geometry is not None:
                    shift = 2 * (2 * index + unit.number)
                    mask |= 3 << shift
                    bits |= translation(geometry) << shift
        if not mask:
            return
        try:
            self.helpers.cmos_write(TRANSLATION, self.helpers.cmos_read(TRANSLATION) & ~mask | bits)
        except PdmError as error:
            if error.status != "VERR_PDM_NO_RTC_INSTANCE":
                raise

    def _idle(self) -> bool:
        return all(channel.idle for channel in self.channels)

    def _go_on(self) -> None:
        """The machine runs: what a loaded state left to do goes to the drives."""
        for channel in self.channels:
            channel.update_line()
            channel.recover()

    # --- state

    def pdm_save(self) -> IdeState:
        primary, secondary = self.channels
        return IdeState((states.save(primary), states.save(secondary)))

    def pdm_load(self, state: IdeState) -> None:
        self._update_decoding()
        for channel, saved in zip(self.channels, state.channels, strict=True):
            states.load(channel, saved)

    def pdm_info(self, arguments: str) -> str:
        out = []
        for (name, *_), channel in zip(CHANNELS, self.channels, strict=True):
            out.append(f"{name}: {'on' if channel.enabled else 'off'}, control {channel.control:02X}")
            for unit in channel.units:
                out.append(f"  {'*' if unit is channel.unit else ' '}{UNITS[unit.number]}: {_unit(unit)}")
            command = channel.command
            if command is not None:
                task, request = command.request.task, command.request
                out.append(
                    f"   command {task.command:02X} of {UNITS[command.unit.number]}, lba {task.lba:#x}: "
                    f"waits for {command.stage.value}, {request.position} of {command.phase.length} bytes"
                )
            master = channel.master
            out.append(
                f"   bus master: command {master.command:02X}, status {master.status:02X}, "
                f"table {master.pointer:#x}"
            )
        return "\n".join(out)


def _unit(unit: Unit) -> str:
    if not unit.present:
        return "nobody"
    status = CommandBlock.STATUS.describe(unit.status)
    kind = "packet device" if unit.packet else "disk"
    return f"{kind}, status {status}, error {unit.error:02X}{', interrupt' if unit.pending else ''}"


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "piix3ide", Piix3Ide, Config,
            device_class=DeviceClass.STORAGE, max_instances=1, summary="IDE controller Intel PIIX3 or PIIX4",
        )
    )  # fmt: skip


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: see `conformance`."""
    from vbox_plugin_ide.conformance import setup

    return setup()
