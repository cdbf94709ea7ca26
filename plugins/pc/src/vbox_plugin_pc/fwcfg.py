"""Firmware configuration device (fw_cfg): what a virtual machine tells its firmware.

Not a chip: the interface of QEMU, docs/specs/fw_cfg.rst, at ports 510h and 514h, through which SeaBIOS,
OVMF and Linux fetch numbered items and named files from the host.

Modelled: selector and data port, the DMA interface with read, skip, write and select, the fixed items,
the file directory, and a Linux kernel with initrd and command line for the option ROM of `linuxboot`.

Not modelled: items that a guest may write (there are none, so each write ends in an error), the memory
mapped form of ARM, ACPI tables and a loader for them.

Traps
- The selector is a word at 510h and the data register a byte at 511h: a word read at 510h is neither.
- Bit 14 of a selector has no meaning any more and is dropped; selecting starts an item at its beginning.
- Reading past the end of an item, or an item that does not exist, gives zeros and no error.
- The DMA address is big-endian in two dwords; the write of the low one starts the transfer, and the
  address is zero again afterwards, so that a guest below 4 GiB needs the low one only.
- A descriptor may lie in the memory that its own transfer fills: it is fetched before, and its control
  word is written last.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from attrs import frozen

from vbox_pdm import (
    ConfigError,
    Device,
    DeviceClass,
    DeviceType,
    Ports,
    Reg8,
    Reg16,
    Reg32,
    RegisterMap,
    State,
    hookimpl,
    key,
    optionrom,
)
from vbox_plugin_pc import bzimage, fwcfg_items, linuxboot
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup
from vbox_plugin_pc.fwcfg_items import Content, u16, u32

SELECTOR_PORT, DMA_PORT = 0x510, 0x514
DMA_SIGNATURE = b"QEMU CFG"
CONTROL_ERROR, CONTROL_READ, CONTROL_SKIP, CONTROL_SELECT, CONTROL_WRITE = 1, 2, 4, 8, 16
_UNUSED_SELECTOR_BIT = 0x4000
_DESCRIPTOR = struct.Struct(">IIQ")
_PIECE = 1 << 20
"""Bytes that are moved at a time: a guest may ask for 4 GiB."""
_ZEROS = memoryview(bytes(_PIECE))
_MOST_FILE = 64 << 20
_MOST_KERNEL = 512 << 20
_MOST_INITRD = 3 << 30
_BOOT_ROM = "genroms/linuxboot.bin"
_ROM_FOLDERS = ("genroms/", "vgaroms/")


class Registers(RegisterMap):
    """Ports 510h and 511h."""

    SELECT = Reg16(0, "w", effect="selects an item, at its beginning", values=fwcfg_items.NAMES)
    DATA = Reg8(1, "r", reset=ord("Q"), effect="the next byte of the item; zero behind its end")


class DmaRegisters(RegisterMap):
    """Ports 514h to 51Bh, big-endian; reads give "QEMU CFG"."""

    HIGH = Reg32(0, reset=0x554D4551, bits=0, effect="writes give the high half of a descriptor's address")
    LOW = Reg32(4, reset=0x47464320, bits=0, effect="writes give the low half and start the transfer")


@frozen
class Config:
    kernel: str = key("", help="Linux kernel (bzImage) to start, instead of what is on disks")
    initrd: str = key("", help="initial RAM disk for it")
    append: str = key("", help="command line for it")
    boot_order: str = key(
        "", help="lines of the firmware file 'bootorder' with '|' between them, the first to try first"
    )
    boot_menu: bool = key(False, help="firmware offers its boot menu, and waits for a key")
    boot_menu_wait: int | None = key(
        None, span=(0, 0xFFFF), help="how long it waits, in ms; none: as firmware likes (SeaBIOS 2500)"
    )
    boot_fail_wait: int | None = key(
        -1,
        span=(-1, 0xFFFF),
        help="ms before firmware tries again when nothing could be started; -1: never, none: as it likes",
    )
    files: str = key("", help="more firmware files: NAME=PATH, with ';' between several")
    texts: str = key("", help="more firmware files: NAME=TEXT, with ';' between several")
    uuid: str = key("00000000-0000-0000-0000-000000000000", help="the machine's UUID")
    cpus: int = key(1, span=(1, 64), help="number of CPUs that firmware is told of")


@frozen
class FwCfgState(State, version=1):
    """Where a guest is in an item, and the half of a DMA address.  Items are configuration."""

    selector: int
    offset: int
    dma_high: int


class FwCfg(Device[Config]):
    """Selector, data port and DMA, over a table of items."""

    selector: int
    content: Content
    offset: int
    dma_high: int

    def pdm_construct(self) -> None:
        self.items = self._items()
        self._power_on_values()
        helpers = self.helpers
        items = Ports("fw_cfg", 2, self.read, self.write, registers=Registers, read_string=self.read_string)
        helpers.map_ports(SELECTOR_PORT, items)
        dma = Ports("fw_cfg dma", 8, self.read_dma, self.write_dma, registers=DmaRegisters)
        helpers.map_ports(DMA_PORT, dma)

    def pdm_reset(self) -> None:
        self._power_on_values()

    def _power_on_values(self) -> None:
        self.dma_high = 0
        self.select(fwcfg_items.SIGNATURE)

    # --- selector and data

    def read(self, offset: int, size: int) -> int:
        """511h: the next byte."""
        if offset != 1 or size != 1:
            return (1 << 8 * size) - 1
        at = self.offset
        if at >= len(self.content):
            return 0
        self.offset = at + 1
        return self.content[at]

    def read_string(self, offset: int, size: int, count: int) -> bytes:
        """511h: many bytes at once."""
        if offset != 1 or size != 1:
            return b""
        count = min(count, _PIECE)
        data = bytes(self.content[self.offset : self.offset + count])
        self.offset += len(data)
        return data or bytes(count)

    def write(self, offset: int, size: int, value: int) -> None:
        """510h, a word.  Writes of data are dropped: no item takes any."""
        if offset == 0 and size == 2:
            self.select(value)

    def select(self, selector: int) -> None:
        """Begin with an item; one that does not exist is empty."""
        self.selector = selector & 0xFFFF & ~_UNUSED_SELECTOR_BIT
        self.content = self.items.get(self.selector, b"")
        self.offset = 0

    # --- DMA

    def read_dma(self, offset: int, size: int) -> int:
        """514h..51Bh: the signature."""
        return int.from_bytes(DMA_SIGNATURE[offset : offset + size], "little")

    def write_dma(self, offset: int, size: int, value: int) -> None:
        """514h, 518h: dwords only."""
        if size != 4 or offset not in (0, 4):
            return
        half = int.from_bytes(value.to_bytes(4, "little"), "big")
        if offset == 0:
            self.dma_high = half
            return
        address = self.dma_high << 32 | half
        self.dma_high = 0
        self._transfer(address)

    def _transfer(self, address: int) -> None:
        """Do what the descriptor at `address` says.  It is done when its control word is zero, or the
        error bit alone."""
        handle = self.helpers.dma(address, _DESCRIPTOR.size)
        descriptor = b"".join(handle.views)
        complete = handle.complete
        handle.release()
        done = CONTROL_ERROR
        if complete:
            control, length, target = _DESCRIPTOR.unpack(descriptor)
            if control & CONTROL_SELECT:
                self.select(control >> 16)
            if self._move(control, length, target):
                done = 0
        self.helpers.memory_write(address, done.to_bytes(4, "big"))

    def _move(self, control: int, length: int, target: int) -> bool:
        """One of read, write, skip, in this order of precedence; False: error."""
        if control & CONTROL_READ:
            return self._read_into(target, length)
        if control & CONTROL_WRITE:
            return length == 0
        if control & CONTROL_SKIP:
            self.offset = min(self.offset + length, len(self.content))
        return True

    def _read_into(self, target: int, length: int) -> bool:
        """Bytes of the item, then zeros, into guest memory, up to where no more memory is."""
        content = memoryview(self.content)
        while length:
            size = min(length, _PIECE)
            handle = self.helpers.dma(target, size, write=True)
            for view in handle.views:
                part = content[self.offset : self.offset + len(view)]
                view[: len(part)] = part
                view[len(part) :] = _ZEROS[: len(view) - len(part)]
                self.offset += len(part)
            complete = handle.complete
            handle.release()
            if not complete:
                return False
            target += size
            length -= size
        return True

    # --- items

    def _items(self) -> dict[int, Content]:
        config, helpers = self.config, self.helpers
        where = f"qemu-fw-cfg instance #{self.instance}"
        items = fwcfg_items.machine_items(
            ram_size=helpers.ram_size,
            cpus=config.cpus,
            identity=config.uuid,
            boot_menu=config.boot_menu,
            where=where,
        )
        files: dict[str, Content] = {"etc/e820": fwcfg_items.e820(helpers.ram_size, helpers.ram_below_4g)}
        order = [line for line in config.boot_order.split("|") if line]
        if config.kernel:
            items |= self._kernel_items()
            files[_BOOT_ROM] = linuxboot.rom()
            order.insert(0, f"/rom@{_BOOT_ROM}")
        elif config.initrd or config.append:
            raise ConfigError(
                "VERR_CFGM_VALUE_NOT_FOUND",
                f"{where} has an initrd or a command line, and no kernel that they are for",
                "Give kernel=PATH",
            )
        if order:
            files["bootorder"] = "\n".join(order).encode() + b"\0"
        if config.boot_menu_wait is not None:
            files["etc/boot-menu-wait"] = u16(config.boot_menu_wait)
        if config.boot_fail_wait is not None:
            files["etc/boot-fail-wait"] = u32(config.boot_fail_wait)
        self._add_named(files, where)
        self.names = sorted(files)
        return items | fwcfg_items.directory(files)

    def _kernel_items(self) -> dict[int, Content]:
        config, helpers = self.config, self.helpers
        kernel = helpers.read_host_file(config.kernel, most=_MOST_KERNEL)
        initrd = helpers.read_host_file(config.initrd, most=_MOST_INITRD) if config.initrd else b""
        return bzimage.items(
            bzimage.parse(kernel, config.kernel),
            initrd,
            config.append,
            ram_below_4g=helpers.ram_below_4g,
            initrd_name=config.initrd,
        )

    def _add_named(self, files: dict[str, Content], where: str) -> None:
        """What the keys `files` and `texts` add."""
        config = self.config
        added: list[tuple[str, Content]] = []
        for name, path in fwcfg_items.split_pairs(config.files, "files", where):
            data = self.helpers.read_host_file(path, most=_MOST_FILE)
            if name.startswith(_ROM_FOLDERS):
                optionrom.check(data, path)
            added.append((name, data))
        for name, text in fwcfg_items.split_pairs(config.texts, "texts", where):
            added.append((name, text.encode()))
        for name, content in added:
            fwcfg_items.check_name(name)
            if name in files:
                raise ConfigError(
                    "VERR_ALREADY_EXISTS",
                    f"{where} has a firmware file '{name}' already",
                    "Give it another name, or use the key that is for it",
                )
            files[name] = content

    # --- state

    def pdm_save(self) -> FwCfgState:
        return FwCfgState(selector=self.selector, offset=self.offset, dma_high=self.dma_high)

    def pdm_load(self, state: FwCfgState) -> None:
        self.select(state.selector)
        self.offset = min(max(state.offset, 0), len(self.content))
        self.dma_high = state.dma_high & 0xFFFFFFFF

    def pdm_info(self, arguments: str) -> str:
        lines = [f"item {self.selector:#06x} at {self.offset} of {len(self.content)} bytes"]
        for number, name in enumerate(self.names, fwcfg_items.FIRST_FILE):
            lines.append(f"{number:#06x} {name}: {len(self.items[number])} bytes")
        return "\n".join(lines)


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "qemu-fw-cfg", FwCfg, Config,
            device_class=DeviceClass.MISC, max_instances=1, summary="firmware configuration (fw_cfg)",
        )
    )  # fmt: skip
