"""A VGA with Bochs' DISPI, on PCI.

IBM Personal System/2 Hardware Interface Technical Reference, Video Subsystem (May 1992); INMOS IMS G171
(1988) for the DAC; Bochs' VBE display interface; PCI Local Bus Specification 3.0.  The identity is that of
VirtualBox's adapter, 80EE:BEEF, or that of Bochs', 1234:1111.  The video BIOS is a file of the host's in the
expansion ROM.

Modelled: all registers of the VGA (`registers`), memory (`planes`), the DAC (`dac`), DISPI (`dispi`), timing
as far as input status 1 shows it (`geometry`), text and pictures (`render`).

Not modelled: the retrace interrupt (CR11 bits 4 and 5 are stored), the light pen, the diagnostic bits of
input status 1, the feature connector, preset row scan and pixel panning, overscan, DISPI's VirtualBox
extensions (see `dispi`).  The palette of the attribute controller can be written whether or not PAS is set.

Fixed ports and the window at 0xA0000 are decoded whatever the PCI command register says, as in VirtualBox;
3C3 bit 0 turns both off, and bit 1 of the miscellaneous output register the window.

Traps
- One flip-flop for index and data at 3C0; reading input status 1, at the address in use, clears it.
- CR0 to CR7 are protected by CR11 bit 7, but for bit 4 of CR7 (line compare).
- The CRT controller and input status 1 move between 3Bx and 3Dx with bit 0 of 3C2.
- A word written to an index port is index and data.
- Firmware runs the ROM only when its ids are those of the function: they are made so.

A screen below LUN 0 is told once that something changed, until it looks, and whenever the VM goes on: what
was said to it is no part of a saved state.  Stores through the linear frame
buffer pass no handler: while a DISPI mode is set and a screen has looked, it is told again after 1/30 s.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm import (
    Clock,
    ConfigError,
    Device,
    DeviceClass,
    DeviceType,
    Display,
    Mmio,
    PciIdentity,
    Picture,
    Ports,
    Ram,
    Rom,
    StateError,
    TextScreen,
    hookimpl,
    key,
    optionrom,
)
from vbox_plugin_vga import render
from vbox_plugin_vga.dac import Dac
from vbox_plugin_vga.dispi import BANK, DAC8, ENABLE, Dispi
from vbox_plugin_vga.geometry import Timing, timing
from vbox_plugin_vga.planes import WINDOW, WINDOW_SIZE, Planes
from vbox_plugin_vga.registers import (
    LINE_COMPARE8,
    PROTECT,
    AttributeController,
    CrtController,
    CrtcPorts,
    DispiPorts,
    DispiRegisters,
    GeneralPorts,
    GraphicsController,
    Sequencer,
    StatusPort,
    power_on,
    stored_bits,
)
from vbox_plugin_vga.saved import VgaState

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

MIB = 1 << 20
ROM_MOST = 128 * 1024
LOOK_AGAIN = 1_000_000_000 // 30
"""ns: how soon a screen looks again while the guest may draw without being seen."""
MISC_COLOUR, MISC_RAM = 1, 2
MISC_BITS, FEATURE_BITS = 0xEF, 0x0B
_SENSE_LEVEL = 0x4E
"""Sum of the components of colour 0 (six bits each) from which on the DAC's comparator sees light: how a
BIOS finds out whether a monitor is there."""
_SR, _GR = stored_bits(Sequencer), stored_bits(GraphicsController)
_CR, _AR = stored_bits(CrtController), stored_bits(AttributeController)
_CLEAR_STEP = MIB
IDENTITIES = {
    "virtualbox": PciIdentity(0x80EE, 0xBEEF, class_code=0x030000, pin=0),
    "bochs": PciIdentity(
        0x1234, 0x1111, class_code=0x030000, revision=2, subsystem_vendor=0x1AF4, subsystem=0x1100, pin=0
    ),
}


@frozen
class Config:
    vram_size: int = key(16 * MIB, span=(MIB, 256 * MIB), help="bytes of video memory, a power of two")
    identity: str = key("virtualbox", choices=("virtualbox", "bochs"), help="PCI ids: 80ee:beef or 1234:1111")
    bios_rom: str = key(
        "vgabios-stdvga.bin", help="file with the video BIOS for the expansion ROM; empty for none"
    )


def ones(size: int) -> int:
    """What a bus without an answer reads."""
    return (1 << 8 * size) - 1


class Vga(Device[Config]):
    """The adapter."""

    sequencer: bytearray
    graphics: bytearray
    crtc: bytearray
    attribute: bytearray
    flip_flop: bool  # 3C0 takes data next
    timing: Timing
    running = False  # the guest may draw

    def pdm_construct(self) -> None:
        helpers, config = self.helpers, self.config
        if config.vram_size & config.vram_size - 1:
            raise ConfigError(
                "VERR_OUT_OF_RANGE",
                f"Configuration value '/vram_size' of vga is {config.vram_size}, which is no power of two",
                "Use 1, 2, 4 .. 256 MiB in bytes, 0x1000000 for 16 MiB",
            )
        identity = IDENTITIES[config.identity]
        self.vram = helpers.ram(Ram("vram", config.vram_size))
        self.planes = Planes(self.vram.view, self._told)
        self.dac = Dac()
        self.dispi = Dispi(config.vram_size)
        self.pci = helpers.pci(identity, device=2)
        self.pci.bar(0, self.vram)
        if config.bios_rom:
            data = helpers.read_host_file(config.bios_rom, most=ROM_MOST)
            rom = optionrom.retargeted(data, identity.vendor, identity.device, config.bios_rom)
            self.pci.rom(Rom("video bios", rom))
        self.screen = helpers.lun(0, Display, "screen")
        self.look_again = helpers.timer("look again", Clock.REAL, self._told)
        self.now = helpers.reader(Clock.VIRTUAL)
        self._readers = self._general_readers()
        self._writers = self._general_writers()
        self._power_on_values()
        for colour, crtc, status in ((False, 0x3B4, 0x3BA), (True, 0x3D4, 0x3DA)):
            helpers.map_ports(crtc, self._crtc_ports(colour))
            helpers.map_ports(status, self._status_port(colour))
        helpers.map_ports(
            0x3C0, Ports("vga", 16, self.read_general, self.write_general, registers=GeneralPorts)
        )
        # A data port of words at an odd port: a dword there reaches to 1D2.
        helpers.map_ports(0x1CE, Ports("dispi", 5, self.read_dispi, self.write_dispi, registers=DispiPorts))
        helpers.map_mmio(WINDOW, Mmio("vga window", WINDOW_SIZE, self.planes.read, self.planes.write))

    def pdm_destruct(self) -> None:
        if hasattr(self, "planes"):
            self.planes.release()

    def pdm_power_on(self) -> None:
        self.running = True
        self._announce()

    def pdm_reset(self) -> None:
        self._power_on_values()
        self._told()

    def pdm_suspend(self) -> None:
        self.look_again.stop()
        self.planes.listening = self.running = False

    def pdm_resume(self) -> None:
        self.running = True
        self._announce()  # after a loaded state it is another picture

    def pdm_power_off(self) -> None:
        self.pdm_suspend()

    def pdm_attach(self, lun: int) -> None:
        self._announce()

    def pdm_detach(self, lun: int) -> None:
        self.planes.listening = False
        self.look_again.stop()

    # --- ports 3C0 to 3CF

    def read_general(self, offset: int, size: int) -> int:
        """Byte by byte; a wider read is several."""
        if size == 1:
            if self.subsystem or offset == 3:
                return self._readers[offset]()
            return 0xFF
        return sum(self.read_general(offset + at, 1) << 8 * at for at in range(size))

    def write_general(self, offset: int, size: int, value: int) -> None:
        """Byte by byte, which makes a word to an index port index and data."""
        for at in range(offset, offset + size):
            if self.subsystem or at == 3:
                self._writers[at](value & 0xFF)
            value >>= 8

    def _general_readers(self) -> tuple[Callable[[], int], ...]:
        def nothing() -> int:
            return 0xFF

        return (
            lambda: self.attribute_index,
            self.read_attribute,
            self.read_status0,
            lambda: self.subsystem,
            lambda: self.sequencer_index,
            lambda: self.sequencer[self.sequencer_index] if self.sequencer_index < len(_SR) else 0,
            lambda: self.dac.mask,
            lambda: self.dac.state,
            lambda: self.dac.address,
            self.dac.read_data,
            lambda: self.feature,
            nothing,
            lambda: self.misc,
            nothing,
            lambda: self.graphics_index,
            lambda: self.graphics[self.graphics_index] if self.graphics_index < len(_GR) else 0,
        )

    def _general_writers(self) -> tuple[Callable[[int], None], ...]:
        def nothing(value: int) -> None:
            return

        return (
            self.write_attribute,
            nothing,
            self.write_misc,
            self.write_subsystem,
            self.write_sequencer_index,
            self.write_sequencer,
            self.write_dac_mask,
            self.dac.write_read_address,
            self.dac.write_address,
            self.write_dac,
            nothing,
            nothing,
            nothing,
            nothing,
            self.write_graphics_index,
            self.write_graphics,
        )

    def write_attribute(self, value: int) -> None:
        """3C0: index, then data."""
        if not self.flip_flop:
            self.attribute_index = value & 0x3F
        else:
            index = self.attribute_index & 0x1F
            if index < len(_AR):
                self.attribute[index] = value & _AR[index]
        self.flip_flop = not self.flip_flop
        self._told()

    def read_attribute(self) -> int:
        """3C1; the flip-flop stays."""
        index = self.attribute_index & 0x1F
        return self.attribute[index] if index < len(_AR) else 0

    def write_misc(self, value: int) -> None:
        """3C2."""
        self.misc = value & MISC_BITS
        self._changed()

    def read_status0(self) -> int:
        """3C2: the comparator of the DAC; there is no interrupt."""
        return 0x10 if sum(self.dac.colours[:3]) >> 2 < _SENSE_LEVEL else 0

    def write_subsystem(self, value: int) -> None:
        """3C3."""
        self.subsystem = value & 1
        self._changed()

    def write_sequencer_index(self, value: int) -> None:
        """3C4."""
        self.sequencer_index = value & 7

    def write_sequencer(self, value: int) -> None:
        """3C5."""
        index = self.sequencer_index
        if index < len(_SR):
            value &= _SR[index]
            if value != self.sequencer[index]:
                self.sequencer[index] = value
                self._configure_memory()
            if index == 1:
                self._set_timing()
            self._told()

    def write_dac_mask(self, value: int) -> None:
        """3C6."""
        self.dac.mask = value
        self._told()

    def write_dac(self, value: int) -> None:
        """3C9."""
        if self.dac.write_data(value):
            self._told()

    def write_graphics_index(self, value: int) -> None:
        """3CE."""
        self.graphics_index = value & 15

    def write_graphics(self, value: int) -> None:
        """3CF; drivers of planar modes write the bit mask before nearly every store."""
        index = self.graphics_index
        if index == 8:
            self.graphics[8] = value
            self.planes.set_bit_mask(value)
        elif index < len(_GR):
            value &= _GR[index]
            if value != self.graphics[index]:
                self.graphics[index] = value
                self._configure_memory()
            if index in (5, 6):
                self._told()

    # --- CRT controller and input status 1, at 3Bx or 3Dx

    def _answers(self, colour: bool) -> bool:
        return bool(self.subsystem) and bool(self.misc & MISC_COLOUR) is colour

    def _crtc_ports(self, colour: bool) -> Ports:
        def read(offset: int, size: int) -> int:
            if not self._answers(colour):
                return ones(size)
            if size == 1:
                return self.read_crtc() if offset else self.crtc_index
            return self.crtc_index | self.read_crtc() << 8

        def write(offset: int, size: int, value: int) -> None:
            if not self._answers(colour):
                return
            if not offset:
                self.crtc_index = value & 0xFF
                value >>= 8
            if offset or size == 2:
                self.write_crtc(value & 0xFF)

        return Ports(f"crtc {'colour' if colour else 'mono'}", 2, read, write, registers=CrtcPorts)

    def _status_port(self, colour: bool) -> Ports:
        def read(offset: int, size: int) -> int:
            if not self.subsystem or (self.misc & MISC_COLOUR != 0) is not colour:
                return 0xFF
            self.flip_flop = False
            return self.timing.status(self.now())

        def write(offset: int, size: int, value: int) -> None:
            if self._answers(colour):
                self.feature = value & FEATURE_BITS

        return Ports(f"status {'colour' if colour else 'mono'}", 1, read, write, registers=StatusPort)

    def read_crtc(self) -> int:
        """3B5 or 3D5."""
        return self.crtc[self.crtc_index] if self.crtc_index < len(_CR) else 0

    def write_crtc(self, value: int) -> None:
        """3B5 or 3D5."""
        index = self.crtc_index
        if index >= len(_CR):
            return
        if index < 8 and self.crtc[0x11] & PROTECT:
            if index != 7:
                return
            value = self.crtc[7] & ~LINE_COMPARE8 | value & LINE_COMPARE8
        self.crtc[index] = value & _CR[index]
        if index < 0x08 or index in (0x10, 0x11, 0x12, 0x17):
            self._set_timing()
        self._told()

    # --- DISPI

    def read_dispi(self, offset: int, size: int) -> int:
        """1CE and 1CF; a dword at 1CF is the size of VRAM."""
        dispi = self.dispi
        if offset == 0 and size <= 2:
            return dispi.give(size, dispi.index)
        if offset == 1 and size <= 2:
            return dispi.give(size, dispi.read_register(dispi.index, self.pci.bar_address(0) or 0))
        if offset == 1:
            return self.config.vram_size
        return ones(size)

    def write_dispi(self, offset: int, size: int, value: int) -> None:
        """1CE and 1CF."""
        dispi = self.dispi
        if offset == 0 and size <= 2:
            dispi.take_index(size, value)
        elif offset == 1 and size <= 2:
            word = dispi.take_data(size, value)
            if word is None:
                return
            if dispi.write_register(dispi.index, word):
                self._set_dispi_mode(word)
            self._changed()

    def _set_dispi_mode(self, value: int) -> None:
        """A write of ENABLE."""
        dispi = self.dispi
        now_set, clear = dispi.set_mode(value)
        self.dac.wide = bool(dispi.registers[ENABLE] & DAC8)
        if not now_set:
            return
        view = self.vram.view
        for first in range(0, clear, _CLEAR_STEP):
            length = min(_CLEAR_STEP, clear - first)
            view[first : first + length] = bytes(length)
        dispi.program_vga(self.sequencer, self.graphics, self.crtc, self.attribute)

    # --- what follows from registers

    def _changed(self) -> None:
        """Any register that memory or timing depends on."""
        self._configure_memory()
        self._set_timing()
        self._told()

    def _configure_memory(self) -> None:
        dispi = self.dispi
        linear = dispi.depth if dispi.enabled else 0
        self.planes.configure(
            bytes(self.sequencer),
            bytes(self.graphics),
            bool(self.subsystem) and (bool(self.misc & MISC_RAM) or bool(linear)),
            linear,
            dispi.registers[BANK] if linear else 0,
        )

    def _set_timing(self) -> None:
        driven = not self.dispi.enabled
        self.timing = timing(bytes(self.crtc), bytes(self.sequencer), self.misc, driven)

    # --- the screen

    def _told(self) -> None:
        """Something to see may have changed: say so, unless it was said and nobody looked since."""
        if self.planes.listening:
            self.planes.listening = False
            self.look_again.stop()
            self.screen.display_changed()

    def _announce(self) -> None:
        """Say so to a screen that has not been told anything yet."""
        self.planes.listening = self.screen.connected
        self._told()

    def _watch(self) -> None:
        """Somebody looks: the next change is to be told."""
        self.planes.listening = self.screen.connected
        if self.dispi.enabled and self.planes.listening and self.running:
            self.look_again.set_relative(LOOK_AGAIN)

    def _registers(self) -> render.Registers:
        return render.Registers(
            sequencer=bytes(self.sequencer),
            graphics=bytes(self.graphics),
            crtc=bytes(self.crtc),
            attribute=bytes(self.attribute),
            attribute_index=self.attribute_index,
            rgb=self.dac.rgb(),
            dispi=self.dispi,
        )

    def display_text(self) -> TextScreen | None:
        self._watch()
        registers = self._registers()
        if registers.blanked or not registers.is_text:
            return None
        return render.text_screen(registers, self.planes.dwords)

    def display_picture(self) -> Picture | None:
        self._watch()
        return render.picture(self._registers(), self.planes.bytes, self.planes.dwords)

    # --- state

    def _power_on_values(self) -> None:
        self.misc = 0
        self.feature = 0
        self.subsystem = 1
        self.sequencer = power_on(Sequencer)
        self.graphics = power_on(GraphicsController)
        self.crtc = power_on(CrtController)
        self.attribute = power_on(AttributeController)
        self.sequencer_index = self.graphics_index = self.crtc_index = self.attribute_index = 0
        self.flip_flop = False
        self.planes.latch = 0
        self.dac.reset()
        self.dispi.reset()
        self._configure_memory()
        self._set_timing()

    def pdm_save(self) -> VgaState:
        return VgaState(
            misc=self.misc,
            feature=self.feature,
            subsystem=self.subsystem,
            sequencer=bytes(self.sequencer),
            sequencer_index=self.sequencer_index,
            graphics=bytes(self.graphics),
            graphics_index=self.graphics_index,
            crtc=bytes(self.crtc),
            crtc_index=self.crtc_index,
            attribute=bytes(self.attribute),
            attribute_index=self.attribute_index,
            flip_flop=self.flip_flop,
            latch=self.planes.latch,
            dac=self.dac.save(),
            dispi=self.dispi.save(),
        )

    def pdm_load(self, state: VgaState) -> None:
        loaded = (
            (self.sequencer, state.sequencer, _SR),
            (self.graphics, state.graphics, _GR),
            (self.crtc, state.crtc, _CR),
            (self.attribute, state.attribute, _AR),
        )
        for registers, values, _ in loaded:
            if len(values) != len(registers):
                raise StateError(
                    "VERR_SSM_UNEXPECTED_DATA",
                    f"The saved VGA has {len(values)} registers where {len(registers)} belong",
                )
        self.dac.load(state.dac)
        self.dispi.load(state.dispi)
        for registers, values, masks in loaded:
            registers[:] = bytes(value & mask for value, mask in zip(values, masks, strict=True))
        self.misc = state.misc & MISC_BITS
        self.feature = state.feature & FEATURE_BITS
        self.subsystem = state.subsystem & 1
        self.sequencer_index = state.sequencer_index & 7
        self.graphics_index = state.graphics_index & 15
        self.crtc_index = state.crtc_index & 0xFF
        self.attribute_index = state.attribute_index & 0x3F
        self.flip_flop = state.flip_flop
        self.planes.latch = state.latch & 0xFFFFFFFF
        self._changed()

    def pdm_info(self, arguments: str) -> str:
        """Registers; `text` as argument gives the screen only."""
        registers = self._registers()
        text = render.text_screen(registers, self.planes.dwords).text() if registers.is_text else ""
        if arguments.strip() == "text":
            return text
        out = [
            f"{registers.describe()}, {self.timing.frequency:.1f} Hz",
            f"misc {self.misc:02x}, feature {self.feature:02x}, vram {self.config.vram_size // MIB} MiB",
        ]
        for title, values in (
            ("SR", self.sequencer),
            ("GR", self.graphics),
            ("CR", self.crtc),
            ("AR", self.attribute),
        ):
            out.append(f"{title} {values.hex(' ')}")
        for register in DispiRegisters.registers.values():
            if register.offset < len(self.dispi.registers):
                value = self.dispi.registers[register.offset]
                out.append(f"DISPI {register.name} {value:#06x} {register.describe(value)}")
        return "\n".join([*out, text] if text else out)


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "vga", Vga, Config,
            device_class=DeviceClass.GRAPHICS, max_instances=1, summary="VGA with Bochs' DISPI modes",
        )
    )  # fmt: skip


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: see `conformance`."""
    from vbox_plugin_vga.conformance import setup

    return setup()
