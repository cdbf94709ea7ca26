"""What a machine starts with: the CFGM node /Boot, and the loaders that it asks for.

Firmware   "bios" (the default): the CPU begins at its reset vector, in the ROM of a device
           "none": the VMM sets up the board and enters the kernel itself
TellTsc    whether Linux is told the rate of the TSC (default: yes)

With "none" alone; with firmware they are configuration of qemu-fw-cfg (see machine_boot):

Kernel     a bzImage or a multiboot kernel; without one the CPU begins at its reset vector
Initrd     an initrd, or the module of a multiboot kernel
Append     the kernel's command line
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm.engine import CpuState
from vbox_pdm.errors import ConfigError, PdmError
from vbox_pdm.timers import Clock
from vbox_vmm.cfgm import Node
from vbox_vmm.loaders import firmware_none, linux, multiboot
from vbox_vmm.loaders.memory import GuestMemory, read_file

if TYPE_CHECKING:
    from vbox_vmm.vm import Vm

_4G = 1 << 32
_DEFAULT_RAM, _DEFAULT_HOLE = 128 << 20, 512 << 20


@frozen
class Boot:
    """Calling it, as `Vm(boot=...)` does, loads the kernel and returns the CPU state to enter it."""

    kernel: Path
    initrd: Path | None = None
    command_line: str = ""
    long_mode: bool = True
    tell_tsc: bool = True

    def __call__(self, vm: Vm) -> CpuState:
        """On the EMT.  Raises PdmError as the loaders do."""
        memory = VmMemory(vm)
        firmware_none.set_up(memory, vm.iom)
        return self.load(memory, vm.tm.frequency(Clock.TSC) // 1000)

    def check(self, tree: Node) -> None:
        """Whether the kernel is one and fits, without a VM.  Raises PdmError as the loaders do."""
        ram = tree.query_integer("RamSize", default=_DEFAULT_RAM)
        self.load(_NoMemory(ram, tree.query_integer("RamHoleSize", default=_DEFAULT_HOLE)))

    def load(self, memory: GuestMemory, tsc_khz: int = 0) -> CpuState:
        """Put the files into memory; `tsc_khz` is what Linux is told, 0 for nothing."""
        head = read_file(self.kernel, "kernel")
        if multiboot.is_multiboot(head):
            modules = [multiboot.Module(self.initrd)] if self.initrd is not None else []
            return multiboot.load(memory, self.kernel, modules, self.command_line)
        if head[0x202:0x206] != b"HdrS":
            raise PdmError(
                "VERR_LDR_INVALID_IMAGE",
                f"{self.kernel} is neither a Linux kernel (bzImage) nor a multiboot kernel",
                "Give a bzImage, such as /boot/vmlinuz-*, or a kernel with a multiboot 1 header",
            )
        line = self.command_line
        if tsc_khz and self.tell_tsc and "tsc_early_khz=" not in line:
            line = f"{line} tsc_early_khz={tsc_khz}".lstrip()
        return linux.load(memory, self.kernel, self.initrd, line, long_mode=self.long_mode)


def read_boot(tree: Node) -> Boot | None:
    """What /Boot of a machine says; None when the CPU begins at its reset vector.

    Raises ConfigError: VERR_CFGM_* for unknown keys and wrong types, VERR_NOT_SUPPORTED."""
    node = tree.find("Boot")
    if node is None:
        return None
    node.validate("Firmware|Kernel|Initrd|Append|TellTsc", "", "Boot")
    firmware = node.query_string("Firmware", default="bios")
    if firmware not in ("bios", "none"):
        raise ConfigError("VERR_NOT_SUPPORTED", f"There is no firmware '{firmware}'", "Use bios or none")
    if firmware == "bios":
        misplaced = next((key for key in ("Kernel", "Initrd", "Append") if node.exists(key)), None)
        if misplaced is not None:
            raise ConfigError(
                "VERR_NOT_SUPPORTED",
                f"/Boot/{misplaced} is for machines without firmware",
                f"Set /Boot/Firmware to none, or Devices/qemu-fw-cfg/0/Config/{misplaced.lower()} instead",
            )
        return None
    kernel = node.query_string("Kernel", default="")
    initrd = node.query_string("Initrd", default="")
    if not kernel:
        if initrd or node.exists("Append"):
            raise ConfigError(
                "VERR_INVALID_PARAMETER", "An initrd or command line needs a kernel", "Give --kernel"
            )
        return None
    without = tree.query_string("CPUM/Without", default="").split()
    return Boot(
        Path(kernel),
        Path(initrd) if initrd else None,
        node.query_string("Append", default=""),
        "lm" not in without,
        node.query_bool("TellTsc", default=True),
    )


class VmMemory:
    """The memory of a VM, as loaders see it."""

    def __init__(self, vm: Vm) -> None:
        self._pgm = vm.pgm

    def read(self, address: int, length: int) -> bytes:
        """Bytes of memory."""
        return self._pgm.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into memory."""
        self._pgm.write(address, data)

    def ram_ranges(self) -> Sequence[tuple[int, int]]:
        """(first, end) of each piece of RAM."""
        return _ranges(self._pgm.ram_size, self._pgm.ram_below_4g)


class _NoMemory:
    """As large as a machine's, and nothing in it."""

    def __init__(self, ram: int, hole: int) -> None:
        self._ram = ram
        self._below_4g = min(ram, _4G - hole)

    def read(self, address: int, length: int) -> bytes:
        return bytes(length)

    def write(self, address: int, data: bytes) -> None:
        pass

    def ram_ranges(self) -> Sequence[tuple[int, int]]:
        return _ranges(self._ram, self._below_4g)


def _ranges(ram: int, below_4g: int) -> list[tuple[int, int]]:
    ranges = [(0, below_4g)]
    if ram > below_4g:
        ranges.append((_4G, _4G + ram - below_4g))
    return ranges
