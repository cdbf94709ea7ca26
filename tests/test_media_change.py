"""A disc is taken out of a drive and another one put in, while Linux runs and while it reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import guests
import media
import pexpect.fdpexpect
import pytest
from machines import found

from vbox_pdm.catalogue import Catalogue
from vbox_vmm.boot import read_boot
from vbox_vmm.machine import Spec, default_machine, set_lun
from vbox_vmm.vm import Vm
from vbox_vmm.vmstate import VmState

MIB = 1 << 20
DRIVE = ("piix3ide", 0, 2)
BELOW = "Devices/piix3ide/0/LUN#2/AttachedDriver/Config"


class Machine:
    """Linux in this process, a disc in its drive, its shell at the other end of a pseudo terminal."""

    def __init__(self, folder: Path, disc: Path) -> None:
        files = found(guests.storage).direct()
        link = folder / "console"
        catalogue = Catalogue()
        tree = default_machine(256 << 20, firmware="none")
        boot = tree.ensure_node("Boot")
        for key, value in (("Firmware", "none"), ("Kernel", files.kernel), ("Initrd", files.initrd)):
            boot.replace(key, str(value))
        boot.replace("Append", files.append)
        chain = [Spec("atapi-cd"), Spec("raw-image", {"path": str(disc), "read_only": 1})]
        set_lun(tree, "piix3ide#0/lun2", chain, catalogue)
        set_lun(tree, "serial#0/lun0", [Spec("pty", {"link": str(link), "hold": 1})], catalogue)
        self.prompt = files.prompt
        self.vm = Vm(tree, catalogue, boot=read_boot(tree))
        self.vm.power_on()
        self.fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        self.child = pexpect.fdpexpect.fdspawn(self.fd, timeout=100, encoding="latin-1")
        self.child.expect_exact(self.prompt)

    def shell(self, command: str) -> str:
        """What a command prints, with its status."""
        self.child.send(f"echo 'be''gin'; {command}; echo 'e''nd '$?\r")
        self.child.expect(r"(?s)begin\r\n(.*?)end (\d+)\r\n")
        found_text = f"{self.child.match[1]}status {self.child.match[2]}"
        self.child.expect_exact(self.prompt)
        return found_text

    def take_out(self) -> None:
        """The drive is open and empty."""
        self.vm.call(lambda: self.vm.pdm.wiring.driver_detach(*DRIVE, "raw-image"))

    def put_in(self, disc: Path) -> None:
        """Another disc."""

        def insert() -> None:
            self.vm.cfgm.child(BELOW).replace("path", str(disc))
            self.vm.pdm.wiring.driver_attach(*DRIVE)

        self.vm.call(insert)

    def close(self) -> None:
        """Power off."""
        self.vm.power_off()
        self.vm.destroy()
        os.close(self.fd)


@pytest.fixture
def discs() -> tuple[Path, Path]:
    """Two discs of different sizes."""
    return found(lambda: media.random_file(12 * MIB, seed=2)), found(
        lambda: media.random_file(6 * MIB, seed=3)
    )


@pytest.fixture
def machine(tmp_path: Path, discs: tuple[Path, Path]) -> Iterator[Machine]:
    """With the first disc in its drive."""
    made = Machine(tmp_path, discs[0])
    yield made
    made.close()


def digest(path: Path) -> str:
    """As sha256sum prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_disc_that_is_changed_is_read_anew(machine: Machine, discs: tuple[Path, Path]) -> None:
    first, second = discs
    assert digest(first) in machine.shell("sha256sum /dev/sr0")

    machine.take_out()
    empty = machine.shell("sha256sum /dev/sr0 2>&1")
    machine.put_in(second)

    assert "No medium" in empty
    assert "status 1" in empty
    assert digest(second) in machine.shell("sha256sum /dev/sr0")
    assert "BUG" not in machine.shell("dmesg")


def test_disc_that_is_pulled_while_it_is_read_is_an_error_and_nothing_worse(
    machine: Machine, discs: tuple[Path, Path]
) -> None:
    second = discs[1]
    machine.child.send(
        "while dd if=/dev/sr0 of=/dev/null bs=64k iflag=direct 2>/dev/null; "
        "do echo o''nce; done; echo br''oken\r"
    )
    machine.child.expect_exact("once")

    machine.take_out()  # somewhere in the next round
    machine.child.expect_exact("broken")
    machine.child.expect_exact(machine.prompt)
    machine.put_in(second)

    assert digest(second) in machine.shell("sha256sum /dev/sr0")
    assert machine.vm.state is VmState.RUNNING
