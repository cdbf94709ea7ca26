"""The machines that are measured, and the commands that start a guest on each.

Ours is one machine an engine of the catalogue that this host can run.  QEMU is there twice: with no more
devices than ours, which is what budgets compare with, and with its defaults.  Bochs and v86 take part where
they are installed; they have the firmware that QEMU has.

Bochs starts a multiboot kernel by GRUB from a CD; the others do it themselves.  v86 is looked for in
`.cache/v86` (`npm install --prefix .cache/v86 v86`), and has no 64-bit mode.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import grub
import guests
import iso
import media
import packages
from attrs import frozen

from vbox_pdm.catalogue import Catalogue

ROOT = Path(__file__).resolve().parent.parent

VBOX = Path(sys.executable).parent / "vbox"
QEMU, BOCHS, NODE = "qemu-system-x86_64", "bochs", "node"
V86 = ROOT / ".cache" / "v86" / "node_modules" / "v86"
MEMORY = 128
"""MiB of a machine for a multiboot kernel."""
Words = list[str]

_GRUB_CFG = """\
terminal_output console
multiboot /boot/kernel.elf {line}
boot
"""
_BOCHSRC = """\
megs: {memory}
romimage: file={bios}
vgaromimage: file={video}
display_library: rfb, options="timeout=0"
log: /dev/null
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
panic: action=fatal
com1: enabled=1, mode=file, dev=/dev/stdout
com2: enabled=1, mode=null
ata1-master: type=cdrom, path={cd}, status=inserted
{disk}
boot: cdrom
clock: sync=none
"""


@frozen
class Multiboot:
    """A guest of our own: a multiboot kernel, its command line, and a disk for the primary master."""

    kernel: Path
    line: str = ""
    disk: Path | None = None


@frozen
class Machine:
    """One that is measured.  `start_kernel(guest, folder)` and `start_guest(guest)` are the words of a
    command whose standard output is the guest's first serial port; `folder` is for files that it needs.
    `missing` says why the machine cannot be measured here, with the remedy; empty when it can."""

    name: str
    title: str
    version: str
    start_kernel: Callable[[Multiboot, Path], Words]
    start_guest: Callable[[guests.GuestFiles], Words] | None = None
    missing: str = ""
    only_32_bits: bool = False
    ours: bool = False


def machines() -> list[Machine]:
    """All, ours first, the preferred engine in front; those that are missing here, too."""
    return [*_ours(), _qemu(defaults=False), _qemu(defaults=True), _bochs(), _v86()]


# --- ours


def _ours() -> list[Machine]:
    version = "vbox-vmm " + _output(str(VBOX), "--version").split()[1]
    return [
        Machine(
            *(engine.name, f"ours ({engine.name})", version, _vbox_kernel(engine.name), _vbox(engine.name)),
            ours=True,
        )
        for engine in Catalogue().engines()
        if engine.usable() is None
    ]


def _vbox(engine: str) -> Callable[[guests.GuestFiles], Words]:
    words = [str(VBOX), "run", "--engine", engine, "--serial", "stdio", "--display", "none"]
    return lambda guest: [*words, *guest.words()]


def _vbox_kernel(engine: str) -> Callable[[Multiboot, Path], Words]:
    def start(guest: Multiboot, folder: Path) -> Words:
        files = guests.GuestFiles(guest.kernel, None, guest.line, MEMORY, "", "", firmware=False)
        disk = ["--disk", f"{guest.disk},snapshot=on"] if guest.disk else []
        return [*_vbox(engine)(files), *disk]

    return start


# --- QEMU


def _qemu(*, defaults: bool) -> Machine:
    if defaults:
        name, title, kind = "qemu-defaults", "QEMU, its defaults", ["-M", "pc"]
    else:
        kind = ["-M", "pc,acpi=off", "-cpu", "qemu64,-apic", "-smp", "1", "-nic", "none", "-vga", "std"]
        name, title = "qemu", "QEMU"

    def words(memory: int, *more: str) -> Words:
        console = ["-display", "none", "-serial", "stdio", "-serial", "null", "-monitor", "none"]
        return [QEMU, "-accel", "tcg", *kind, "-m", str(memory), *console, "-no-reboot", *more]

    def kernel(guest: Multiboot, folder: Path) -> Words:
        disk = _drives("disk,snapshot=on", [guest.disk] if guest.disk else [])
        return words(MEMORY, "-kernel", str(guest.kernel), "-append", guest.line, *disk)

    def linux(guest: guests.GuestFiles) -> Words:
        boot: Words = []
        if guest.kernel is not None:
            boot = ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", guest.append]
        drives = _drives("disk,snapshot=on", guest.disks) + _drives("cdrom,readonly=on", guest.cdroms)
        return words(guest.memory, *boot, *drives)

    missing = "" if shutil.which(QEMU) else "not installed (Debian: apt-get install qemu-system-x86)"
    version = "" if missing else _output(QEMU, "--version").splitlines()[0].replace(" emulator version", "")
    return Machine(name, title, version, kernel, linux, missing)


def _drives(kind: str, paths: Sequence[Path]) -> Words:
    words: Words = []
    for path in paths:
        words += ["-drive", f"file={path},if=ide,format=raw,media={kind}"]
    return words


# --- Bochs and v86


def _firmware() -> tuple[Path, Path]:
    """A BIOS of 128 KiB and a video BIOS.  Raises packages.Unavailable."""
    folder = guests.SYSTEM_FIRMWARE.parent if guests.SYSTEM_FIRMWARE.is_file() else packages.firmware_dir()
    return folder / "bios.bin", folder / "vgabios-stdvga.bin"


def _bochs() -> Machine:
    def kernel(guest: Multiboot, folder: Path) -> Words:
        bios, video = _firmware()
        disk = ""
        if guest.disk is not None:
            copy = folder / "bochs.img"  # what the guest writes is thrown away with it
            shutil.copyfile(guest.disk, copy)
            disk = f"ata0-master: type=disk, mode=flat, path={copy}"
        cd, file = folder / "bochs.iso", folder / "bochsrc"
        core = grub.core_image(grub.CD_FORMAT, f"(cd){media.GRUB_FOLDER}", ("iso9660", "multiboot"))
        files: dict[str, iso.Content] = {
            "boot/grub/eltorito.img": core,
            "boot/grub/grub.cfg": _GRUB_CFG.format(line=guest.line).encode(),
            "boot/kernel.elf": guest.kernel,
        }
        iso.write(cd, "BENCH", files, boot="boot/grub/eltorito.img")
        file.write_text(_BOCHSRC.format(memory=MEMORY, bios=bios, video=video, cd=cd, disk=disk))
        commands = folder / "commands"  # Debian's waits in its debugger for leave to begin
        commands.write_text("continue\n")
        return [BOCHS, "-q", "-f", str(file), "-rc", str(commands)]

    missing = "" if shutil.which(BOCHS) else "not installed (Debian: apt-get install bochs)"
    version = "" if missing else _line(_output(BOCHS, "--help"), "Bochs x86 Emulator")
    return Machine("bochs", "Bochs", version.replace(" x86 Emulator", ""), kernel, None, missing)


def _v86() -> Machine:
    def kernel(guest: Multiboot, folder: Path) -> Words:
        script = Path(__file__).with_name("v86.mjs")
        files = [V86 / "build" / "libv86.mjs", *_firmware(), guest.kernel, guest.line]
        return [NODE, str(script), *map(str, files), *([str(guest.disk)] if guest.disk else [])]

    missing = ""
    if shutil.which(NODE) is None:
        missing = "node is not installed (Debian: apt-get install nodejs)"
    elif not V86.is_dir():
        missing = "not installed (npm install --prefix .cache/v86 v86)"
    version = "" if missing else f"v86 {_v86_version()} on node {_output(NODE, '--version').strip()}"
    return Machine("v86", "v86", version, kernel, None, missing, only_32_bits=True)


def _v86_version() -> str:
    return str(json.loads((V86 / "package.json").read_text())["version"])


def _output(*words: str) -> str:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout


def _line(text: str, part: str) -> str:
    return next((line.strip() for line in text.splitlines() if part in line), "")
