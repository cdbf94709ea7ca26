"""From the reset vector: SeaBIOS, boot loaders, and what they start, on the default machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import guests
import pytest
from guests import GuestFiles
from machines import VBOX, Guest, found, run
from PIL import Image

NO_SCREEN = ("--display", "none")


def on_screen(files: GuestFiles, *steps: str, timeout: float = 150) -> str:
    """Run a guest whose screen is all that there is to see, until the steps of the script are met."""
    words = [VBOX, "run", *files.words(), *NO_SCREEN, "--timeout", str(timeout), *steps]
    return run(*words, timeout=timeout + 60)


def colours(picture: Path) -> tuple[tuple[int, int], int]:
    """(size, number of colours) of a PNG."""
    with Image.open(picture) as image:
        listed = image.convert("RGB").getcolors(1 << 24)
        assert listed is not None
        return image.size, len(listed)


def test_seabios_alone_finds_no_bootable_device(tmp_path: Path) -> None:
    files = found(guests.empty)

    on_screen(
        files, "--screenshot", str(tmp_path / "screen.png"), "--expect-screen", "SeaBIOS (version",
        "--expect-screen", "No bootable device.",
    )  # fmt: skip

    size, used = colours(tmp_path / "screen.png")
    assert size == (720, 400)
    assert used == 2


@pytest.mark.parametrize("boot", [guests.isolinux_cd, guests.grub_cd, guests.grub_disk])
def test_boot_loader_starts_linux(debian: GuestFiles, boot: Callable[[GuestFiles], GuestFiles]) -> None:
    files = found(lambda: boot(debian))

    with Guest(files, "--serial", "stdio", *NO_SCREEN) as guest:
        guest.prompt()

        assert guest.shell("uname -s -m") == "Linux x86_64\n"
        line = guest.shell("cat /proc/cmdline")
        assert "console=ttyS0" in line
        assert "tsc_early_khz" not in line  # nobody but the loader wrote it
        assert guest.shell("cat /sys/class/dmi/id/bios_vendor") == "Bochs\n"  # as SeaBIOS calls itself there


def test_kernel_through_the_firmware_sees_what_the_firmware_made(debian: GuestFiles) -> None:
    with Guest(debian, *NO_SCREEN) as guest:
        guest.prompt()
        log = guest.shell("dmesg")

    assert "DMI: " in log
    assert "SeaBIOS" in log or "BIOS" in log.partition("DMI: ")[2].splitlines()[0]
    assert "EBDA" in log or "BIOS-e820" in log
    assert "PCI: Using configuration type 1" in log


def test_kernel_that_reboots_comes_up_again(debian: GuestFiles) -> None:
    with Guest(debian, *NO_SCREEN) as guest:
        guest.prompt()
        guest.type("reboot -f\r")
        guest.prompt()

        assert float(guest.shell("cat /proc/uptime").split()[0]) < 60


def test_installer_reaches_its_first_screen(tmp_path: Path) -> None:
    files = found(guests.installer)

    on_screen(files, "--screenshot", str(tmp_path / "screen.png"), "--expect-screen", "activates buttons")

    size, used = colours(tmp_path / "screen.png")
    assert size == (720, 400)
    assert used >= 5  # a dialog in colours


def test_memtest_passes_every_test_before_bit_fade() -> None:
    files = found(guests.memtest)

    on_screen(
        files, *("--expect-screen", "Test #3"), *("--expect-screen", "Test #9"),
        *("--expect-screen", "Bit fade"), "--expect-screen", "Errors: 0", timeout=280,
    )  # fmt: skip


def test_keys_reach_grub_and_its_command_line(debian: GuestFiles) -> None:
    files = found(lambda: guests.grub_cd(debian, interactive=True))

    on_screen(
        files, "--expect-screen", "GNU GRUB", "--keys", "c", "--expect-screen", "grub>",
        "--keys", "set\\n", "--expect-screen", "root=cd",
    )  # fmt: skip
