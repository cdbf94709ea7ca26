"""Firmware of a PC: the ROM that a CPU starts in, and what the board tells it through CMOS.

Not a chip: the flash ROM of a board, and the conventions of PC/AT BIOSes for the battery-backed bytes
from 10h on (IBM PC/AT Technical Reference, 1984; Ralf Brown's CMOS list), with those of Bochs, QEMU and
VirtualBox where firmware for virtual machines reads more.

Modelled: the image, which ends at 4 GiB, where the reset vector is, and whose last 128 KiB show below
1 MiB as well; memory sizes, equipment, boot order and number of CPUs in CMOS, with the checksum.

Not modelled: writing to the flash, so nothing that a guest does to the ROM is kept.

Traps
- Below 1 MiB firmware copies itself into the RAM behind the ROM and writes there: that is the host
  bridge's doing (PAM); the ROM itself stays what it is, and is there again after a reset.
- The memory bytes are capped, each in its own way, and firmware believes those that it looks at first:
  34h/35h unless they are zero, then 30h/31h.
- RAM above the hole under 4 GiB is told apart from RAM below it: 34h/35h must not count it.
- The checksum covers 10h..2Dh only.  Boot order and memory above 16 MiB lie behind that.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import ConfigError, Device, DeviceClass, DeviceType, Rom, hookimpl, key
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup

KIB, MIB, GIB4 = 1 << 10, 1 << 20, 4 << 30
SMALLEST, LARGEST = 64 * KIB, 16 * MIB
LOW_COPY = 128 * KIB
"""Bytes: how much of the image shows below 1 MiB at most."""

FLOPPIES, EQUIPMENT = 0x10, 0x14
BASE_MEMORY, EXTENDED_MEMORY, EXTENDED_MEMORY_AGAIN = 0x15, 0x17, 0x30
CHECKSUM, CHECKED = 0x2E, range(0x10, 0x2E)
MEMORY_ABOVE_16M, MEMORY_ABOVE_4G, MEMORY_ABOVE_4G_VBOX = 0x34, 0x5B, 0x61
BOOT_FLAGS, TRANSLATION, BOOT_FOURTH, BOOT_ORDER = 0x38, 0x39, 0x3C, 0x3D
CPUS, CPUS_VBOX = 0x5F, 0x60
NO_FLOPPY_SIGNATURE = 0x01
EQUIPMENT_FLOPPY, EQUIPMENT_FPU, EQUIPMENT_MOUSE = 0x01, 0x02, 0x04

BOOT_CODES = {"none": 0, "floppy": 1, "disk": 2, "cdrom": 3, "net": 4}
FLOPPY_TYPES = {"none": 0, "360K": 1, "1.2M": 2, "720K": 3, "1.44M": 4, "2.88M": 5}
TRANSLATIONS = {"none": 0, "lba": 1, "large": 2, "rechs": 3}
_BOOT_CHOICES, _FLOPPY_CHOICES = tuple(BOOT_CODES), tuple(FLOPPY_TYPES)


@frozen
class Config:
    bios_rom: str = key("bios-256k.bin", help="firmware image: a path, or the name of an installed one")
    boot_device0: str = key("disk", choices=_BOOT_CHOICES, help="what to start from first")
    boot_device1: str = key("cdrom", choices=_BOOT_CHOICES, help="and when that fails")
    boot_device2: str = key("floppy", choices=_BOOT_CHOICES, help="and then")
    boot_device3: str = key("none", choices=_BOOT_CHOICES, help="and then; SeaBIOS knows three")
    check_floppy_signature: bool = key(True, help="start only from floppies whose boot sector ends in 55 AA")
    floppy0: str = key("none", choices=_FLOPPY_CHOICES, help="type of floppy drive A")
    floppy1: str = key("none", choices=_FLOPPY_CHOICES, help="type of floppy drive B")
    translation: str = key(
        "lba", choices=tuple(TRANSLATIONS), help="how firmware makes cylinders of ATA disks up for INT 13h"
    )
    cpus: int = key(1, span=(1, 64), help="number of CPUs that firmware is told of")


def cmos_bytes(config: Config, ram_size: int, ram_below_4g: int) -> dict[int, int]:
    """What firmware finds in CMOS, by index, without the checksum.  Sizes in bytes."""
    found: dict[int, int] = {}

    def put(index: int, length: int, value: int) -> None:
        """Little-endian, and at most what fits."""
        capped = min(max(value, 0), (1 << 8 * length) - 1)
        found.update((index + n, capped >> 8 * n & 0xFF) for n in range(length))

    floppies = [FLOPPY_TYPES[config.floppy0], FLOPPY_TYPES[config.floppy1]]
    put(FLOPPIES, 1, floppies[0] << 4 | floppies[1])
    put(EQUIPMENT, 1, EQUIPMENT_FPU | EQUIPMENT_MOUSE | _floppy_equipment(sum(map(bool, floppies))))

    put(BASE_MEMORY, 2, min(ram_below_4g // KIB, 640))
    for index in (EXTENDED_MEMORY, EXTENDED_MEMORY_AGAIN):
        put(index, 2, (ram_below_4g - MIB) // KIB)
    put(MEMORY_ABOVE_16M, 2, (ram_below_4g - 16 * MIB) // (64 * KIB))
    above_4g = (ram_size - ram_below_4g) // (64 * KIB)
    put(MEMORY_ABOVE_4G, 3, above_4g)
    put(MEMORY_ABOVE_4G_VBOX, 5, above_4g)

    order = (config.boot_device0, config.boot_device1, config.boot_device2, config.boot_device3)
    first, second, third, fourth = (BOOT_CODES[name] for name in order)
    put(BOOT_ORDER, 1, first | second << 4)
    put(BOOT_FLAGS, 1, third << 4 | (0 if config.check_floppy_signature else NO_FLOPPY_SIGNATURE))
    put(BOOT_FOURTH, 1, fourth)
    put(TRANSLATION, 2, TRANSLATIONS[config.translation] * 0x5555)  # two bits for each of eight disks

    put(CPUS, 1, config.cpus - 1)
    put(CPUS_VBOX, 1, config.cpus)
    return found


def check_image(data: bytes, name: str) -> None:
    """Raise ConfigError unless a ROM can have this size."""
    size = len(data)
    if not SMALLEST <= size <= LARGEST or size % SMALLEST:
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"The firmware image {name} has the impossible size of {size} bytes",
            "A firmware ROM has 64 KiB to 16 MiB in whole 64 KiB; give another file, such as "
            "bios-256k.bin of SeaBIOS",
        )


class PcBios(Device[Config]):
    """The ROM, and CMOS at the start."""

    def pdm_construct(self) -> None:
        name = self.config.bios_rom
        image = self.helpers.read_host_file(name, most=LARGEST)
        check_image(image, name)
        low = image[-LOW_COPY:]
        self.helpers.map_rom(GIB4 - len(image), Rom("firmware", image))
        self.helpers.map_rom(MIB - len(low), Rom("firmware below 1 MiB", low))
        self.size = len(image)

    def pdm_init_complete(self) -> None:
        helpers = self.helpers
        for index, value in cmos_bytes(self.config, helpers.ram_size, helpers.ram_below_4g).items():
            helpers.cmos_write(index, value)
        checksum = sum(helpers.cmos_read(index) for index in CHECKED) & 0xFFFF
        helpers.cmos_write(CHECKSUM, checksum >> 8)  # the only pair whose high byte comes first
        helpers.cmos_write(CHECKSUM + 1, checksum & 0xFF)

    def pdm_info(self, arguments: str) -> str:
        config = self.config
        order = (config.boot_device0, config.boot_device1, config.boot_device2, config.boot_device3)
        return (
            f"{config.bios_rom}, {self.size // KIB} KiB, at {GIB4 - self.size:#x}\n"
            f"boot order: {', '.join(name for name in order if name != 'none') or 'nothing'}"
        )


def _floppy_equipment(drives: int) -> int:
    """Bits 6 and 7 count the drives behind the first."""
    return EQUIPMENT_FLOPPY | (drives - 1) << 6 if drives else 0


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "pcbios", PcBios, Config,
            device_class=DeviceClass.ARCH_BIOS, max_instances=1, summary="firmware ROM and CMOS of a PC",
        )
    )  # fmt: skip
