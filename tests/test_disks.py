"""Disks and CDs in Linux with its own drivers: what is read is what the host has, and the reverse."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import guests
import media
import packages
import pytest
from guests import GuestFiles
from machines import Guest, found

MIB = 1 << 20
NO_SCREEN = ("--display", "none")


@pytest.fixture(params=["dma", "pio"])
def transfers(request: pytest.FixtureRequest) -> str:
    """How Linux moves data."""
    return str(request.param)


@pytest.fixture
def linux(transfers: str) -> GuestFiles:
    """Linux with drivers of disks and CDs."""
    return found(lambda: guests.storage(append=guests.ONLY_PIO if transfers == "pio" else ""))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with something in every sector."""
    path = tmp_path / "disk.img"
    shutil.copyfile(found(lambda: media.random_file(24 * MIB)), path)
    return path


def digest(path: Path) -> str:
    """As sha256sum prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_disk_and_cd_read_the_same_as_on_the_host(linux: GuestFiles, transfers: str, disk: Path) -> None:
    data = found(lambda: media.random_file(6 * MIB, seed=1))
    debian = found(guests.debian)
    cd = found(lambda: guests.isolinux_cd(debian, extra={"data.bin": data})).cdroms[0]

    with Guest(linux, "--disk", str(disk), "--cdrom", str(cd), *NO_SCREEN) as guest:
        guest.prompt()
        modes = guest.shell("cat /sys/class/ata_device/dev*/xfer_mode")
        whole = guest.shell("sha256sum /dev/sda /dev/sr0")
        guest.shell("mkdir /cd && mount -t iso9660 -o ro /dev/sr0 /cd")
        on_cd = guest.shell("sha256sum /cd/data.bin /cd/DATA.BIN 2>/dev/null; true")

    assert ("DMA" in modes) == (transfers == "dma")
    assert digest(disk) in whole
    assert digest(cd) in whole
    assert digest(data) in on_cd


def test_ext4_is_made_filled_unmounted_and_checked(linux: GuestFiles, disk: Path, tmp_path: Path) -> None:
    with Guest(linux, "--disk", str(disk), *NO_SCREEN) as guest:
        guest.prompt()
        guest.shell("mkfs.ext4 -q /dev/sda && mkdir /disk && mount /dev/sda /disk")
        guest.shell("for n in $(seq 40); do dd if=/dev/urandom of=/disk/$n bs=100k count=2 2>/dev/null; done")
        guest.shell(
            "for n in $(seq 1 2 40); do rm /disk/$n; done; mkdir /disk/folder; cp /bin/busybox /disk/folder"
        )
        sums = guest.shell("cd /disk && sha256sum 2 40 folder/busybox; cd /")
        guest.shell("umount /disk && e2fsck -f -n /dev/sda")
        guest.shell("mount /dev/sda /disk")
        again = guest.shell("cd /disk && sha256sum 2 40 folder/busybox; cd /; umount /disk")

    assert again == sums
    assert digest(packages.busybox()) in sums
    # And the host's own tools agree.
    checker = packages.Program(packages.FILE_SYSTEM_TOOLS, "sbin/e2fsck")
    assert "Pass 5" in checker.run("-f", "-n", disk)


def test_what_was_written_and_synced_is_in_the_image_though_the_machine_is_killed(
    linux: GuestFiles, disk: Path
) -> None:
    with Guest(linux, "--disk", str(disk), *NO_SCREEN) as guest:
        guest.prompt()
        guest.shell(
            "yes 'all that was synced is kept' | "
            "dd of=/dev/sda bs=64k count=64 iflag=fullblock seek=100 conv=fsync"
        )
    # The guest was killed, not shut down.

    written = disk.read_bytes()[100 * 65536 : 164 * 65536]
    assert written == (b"all that was synced is kept\n" * 200_000)[: 64 * 65536]


def test_snapshot_leaves_the_image_alone(linux: GuestFiles, transfers: str, disk: Path) -> None:
    if transfers == "pio":
        pytest.skip("the image does not know how data is moved")
    before = digest(disk)

    with Guest(linux, "--disk", f"{disk},snapshot=on", *NO_SCREEN) as guest:
        guest.prompt()
        guest.shell("yes new | dd of=/dev/sda bs=4k count=100 seek=7 iflag=fullblock conv=fsync")
        guest.shell("echo 3 > /proc/sys/vm/drop_caches")
        found_again = guest.shell("dd if=/dev/sda bs=4k count=1 skip=50 2>/dev/null | head -n 2")

    assert found_again == "new\nnew\n"
    assert digest(disk) == before


def test_read_only_disk_refuses_writes_and_goes_on(linux: GuestFiles, transfers: str, disk: Path) -> None:
    before = digest(disk)

    with Guest(linux, "--disk", f"{disk},readonly=on", *NO_SCREEN) as guest:
        guest.prompt()
        guest.shell("dd if=/dev/zero of=/dev/sda bs=4k count=1 conv=fsync", status=1)
        assert digest(disk) in guest.shell("echo 3 > /proc/sys/vm/drop_caches; sha256sum /dev/sda")

    assert digest(disk) == before


def test_four_drives_are_four_devices(transfers: str, linux: GuestFiles, tmp_path: Path) -> None:
    words: list[str] = []
    for number in (0, 1, 3):
        path = tmp_path / f"{number}.img"
        path.write_bytes(bytes([number]) * MIB)
        words += ["--disk", f"{path},at={number}"]

    with Guest(linux, *words, "--cdrom", "none", *NO_SCREEN) as guest:
        guest.prompt()
        names = guest.shell(
            "for d in sda sdb sdc; do dd if=/dev/$d bs=1 count=1 2>/dev/null | od -An -tu1; done"
        )
        empty = guest.shell("dd if=/dev/sr0 of=/dev/null count=1 2>&1; true")

    assert [int(line) for line in names.split()] == [0, 1, 3]
    assert re.search(r"(?i)no medium", empty)


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", folder]).returncode:
        pytest.skip("nobody but root may mount a file system that is soon full")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_of_the_host_holds_the_guest_until_there_is_room(
    transfers: str, linux: GuestFiles, small_folder: Path
) -> None:
    image, ballast = small_folder / "disk.img", small_folder / "ballast"
    with image.open("wb") as file:
        file.truncate(6 * MIB)
    ballast.write_bytes(bytes(5 * MIB))

    with Guest(linux, "--disk", str(image), *NO_SCREEN) as guest:
        guest.prompt()
        guest.type("yes room | dd of=/dev/sda bs=64k count=96 iflag=fullblock conv=fsync && echo wri''tten\r")
        guest.expect("the guest waits: DrvVD_DISKFULL")
        ballast.unlink()
        guest.expect("written")
        guest.prompt()
        assert "I/O error" not in guest.shell("dmesg")

    assert image.read_bytes() == (b"room\n" * 1_300_000)[: 6 * MIB]
