#!/usr/bin/env python3
"""The guests of the demo and the tests: Debian's kernel with busybox from wherever a PC starts, programs
that start from a CD of their own, and the tiny guest.

    guests.py KIND      says which guest it is, and prints the words for `vbox run`, one a line

    debian              by --kernel, through the firmware
    direct              by --kernel, without firmware
    storage             debian with drivers of disks and CDs, and programs for ext4
    isolinux-cd, grub-cd, grub-disk     by a boot loader
    empty               the firmware alone
    memtest, installer  memtest86+, and Debian's installer for i386, each from its CD
    tiny                our own kernel, without firmware
    best                debian where its packages can be had; else the tiny guest, and a sentence why
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import initrd
import media
import packages
from attrs import evolve, frozen
from iso import Content
from tiny import tiny_kernel

SYSTEM_FIRMWARE = Path("/usr/share/seabios/bios-256k.bin")
"""Where `vbox run` finds SeaBIOS by itself."""
STORAGE_MODULES = ("ata_piix", "sr_mod", "sd_mod", "isofs", "ext4", "crc32c_generic")
"""IDE disks and CDs, and what is on them.  ext4 asks for crc32c, which no list of dependencies says."""
ONLY_PIO = "libata.dma=0"
"""For `append`: Linux moves data by PIO alone."""


@frozen
class GuestFiles:
    """What `vbox run` needs to start a guest; `note` tells people which one it is.

    `memory` is in MiB.  When the guest is up, `prompt` comes on the serial line and `screen` is on the
    screen, where they are not empty.  `boot` says what the firmware starts."""

    kernel: Path | None
    initrd: Path | None
    append: str
    memory: int
    prompt: str
    note: str
    bios: Path | None = None
    disks: tuple[Path, ...] = ()
    cdroms: tuple[Path, ...] = ()
    boot: str = ""
    screen: str = ""
    firmware: bool = True

    def direct(self) -> GuestFiles:
        """The same guest, its kernel entered without firmware."""
        return evolve(self, firmware=False, bios=None)

    def words(self) -> list[str]:
        """Options of `vbox run`."""
        words = ["--memory", str(self.memory)]
        if not self.firmware:
            words += ["--firmware", "none"]
        for option, value in (
            ("--bios", self.bios),
            *(("--disk", path) for path in self.disks),
            *(("--cdrom", path) for path in self.cdroms),
            ("--boot", self.boot),
            ("--kernel", self.kernel),
            ("--initrd", self.initrd),
            ("--append", self.append),
        ):
            if value:
                words += [option, str(value)]
        return words


def debian(
    modules: Sequence[str] = (),
    *,
    append: str = "",
    files: Mapping[str, bytes | Path] | None = None,
    commands: Sequence[str] = (),
    firmware: bool = True,
) -> GuestFiles:
    """Debian's amd64 kernel with a shell on the first serial line, by --kernel.

    Raises packages.Unavailable."""
    kernel = packages.kernel()
    archive = initrd.build(
        packages.busybox(),
        modules_dir=packages.modules_dir(),
        modules=modules,
        files=files,
        commands=commands,
    )
    version = kernel.name.removeprefix("vmlinuz-")
    return GuestFiles(
        kernel,
        media.kept("initrd", ".cpio", {"": archive}, lambda target: _write(target, archive)),
        f"console=ttyS0 {append}".strip(),
        256,
        initrd.PROMPT,
        f"Debian's kernel {version}",
        bios=_bios() if firmware else None,
        firmware=firmware,
    )


def storage(*, append: str = "", files: Mapping[str, bytes | Path] | None = None) -> GuestFiles:
    """debian() with drivers of IDE disks and CDs, and programs that make and check ext4.

    ONLY_PIO is a word for `append`.  Raises packages.Unavailable."""
    return debian(STORAGE_MODULES, append=append, files={**initrd.file_system_tools(), **(files or {})})


def isolinux_cd(guest: GuestFiles, extra: Mapping[str, Content] | None = None) -> GuestFiles:
    """The same guest, started by ISOLINUX from a CD.  Raises packages.Unavailable."""
    return _booted(guest, "ISOLINUX on a CD", cd=media.isolinux_cd(*_linux(guest), extra=extra))


def grub_cd(
    guest: GuestFiles, extra: Mapping[str, Content] | None = None, *, interactive: bool = False
) -> GuestFiles:
    """The same guest, started by GRUB from a CD; `interactive`: from its menu, which waits for a key.

    Raises packages.Unavailable."""
    cd = media.grub_cd(*_linux(guest), extra=extra, interactive=interactive)
    return evolve(_booted(guest, "GRUB on a CD", cd=cd), screen="GNU GRUB" if interactive else "")


def grub_disk(guest: GuestFiles, extra: Mapping[str, Content] | None = None) -> GuestFiles:
    """The same guest, started by GRUB from the first partition of a disk.  Raises packages.Unavailable.

    The image is shared: who writes to it makes a copy, and puts that into `disks`."""
    return _booted(guest, "GRUB on a disk", hard_disk=media.grub_disk(*_linux(guest), extra=extra))


def empty() -> GuestFiles:
    """No guest at all: the firmware finds nothing to start, and says so.  Raises packages.Unavailable."""
    return GuestFiles(
        *(None, None, "", 64, "", "the firmware alone"), bios=_bios(), screen="No bootable device."
    )


def memtest(kind: str = "x64") -> GuestFiles:
    """memtest86+ from its CD; its picture is complete when the bottom line says the version.

    Raises packages.Unavailable."""
    cd = media.memtest_cd(kind)
    return GuestFiles(
        *(None, None, "", 32, "", "memtest86+"), bios=_bios(), cdroms=(cd,), boot="cdrom", screen="Memtest86+"
    )


def installer() -> GuestFiles:
    """Debian's installer for i386 from a CD, up to its first question.  Raises packages.Unavailable.

    With less than 273 MiB its first screen is a warning."""
    cd = media.installer_cd()
    return GuestFiles(
        *(None, None, "", 512, "", "Debian's installer"),
        bios=_bios(),
        cdroms=(cd,),
        boot="cdrom",
        screen="Select a language",
    )


def tiny(append: str = "") -> GuestFiles:
    """Our own guest, built with gcc and binutils, entered without firmware.  Raises packages.Unavailable."""
    return GuestFiles(tiny_kernel(), None, append, 16, "tiny> ", "the tiny guest", firmware=False)


def best() -> GuestFiles:
    """The best guest that can be had here.  Raises packages.Unavailable when there is none."""
    reasons: list[str] = []
    for find in (KINDS["debian"], KINDS["direct"], KINDS["tiny"]):
        try:
            guest = find()
        except packages.Unavailable as error:
            reasons.append(str(error))
        else:
            because = f", because others cannot be had ({'; '.join(reasons)})" if reasons else ""
            return evolve(guest, note=guest.note + because)
    raise packages.Unavailable("; and ".join(dict.fromkeys(reasons)))


def _bios() -> Path | None:
    """The folder for --bios where `vbox run` needs to be told.  Raises packages.Unavailable."""
    return None if SYSTEM_FIRMWARE.is_file() else packages.firmware_dir()


def _linux(guest: GuestFiles) -> tuple[Path, Path, str]:
    if guest.kernel is None or guest.initrd is None:
        raise ValueError(f"{guest.note} is not started with a kernel and an initrd")
    return guest.kernel, guest.initrd, guest.append


def _booted(
    guest: GuestFiles, by: str, *, cd: Path | None = None, hard_disk: Path | None = None
) -> GuestFiles:
    return evolve(
        guest,
        kernel=None,
        initrd=None,
        append="",
        note=f"{guest.note}, by {by}",
        bios=_bios(),
        firmware=True,
        disks=(hard_disk,) if hard_disk else (),
        cdroms=(cd,) if cd else (),
        boot="cdrom" if cd else "disk",
    )


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)


KINDS: dict[str, Callable[[], GuestFiles]] = {
    "debian": debian,
    "direct": lambda: debian(firmware=False),
    "storage": storage,
    "isolinux-cd": lambda: isolinux_cd(debian()),
    "grub-cd": lambda: grub_cd(debian()),
    "grub-disk": lambda: grub_disk(debian()),
    "empty": empty,
    "memtest": memtest,
    "installer": installer,
    "tiny": tiny,
    "best": best,
}


def main(words: list[str]) -> int:
    """The command line."""
    if len(words) != 1 or words[0] not in KINDS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        files = KINDS[words[0]]()
    except packages.Unavailable as error:
        print(f"no guest: {error}", file=sys.stderr)
        return 1
    print(f"guest: {files.note}", file=sys.stderr)
    print("\n".join(files.words()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
