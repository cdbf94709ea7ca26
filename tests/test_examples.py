"""The plugins in examples/: built as wheels, installed, listed, tested there, and used by Linux.

They are installed into an environment of their own, which sees our packages through a .pth file, as
in test_third_party: the one that `make` works in never has them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sysconfig
from pathlib import Path

import guests
import media
import pytest
from machines import ROOT, VBOX, Guest, found, make_venv, run

EXAMPLES = ROOT / "examples"
PROJECTS = sorted(path.parent for path in EXAMPLES.glob("*/pyproject.toml"))
NAMES = [path.name for path in PROJECTS]
PAGE = 4096


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with `vbox`, our plugins, and a wheel of each example."""
    folder = tmp_path_factory.mktemp("examples")
    python = make_venv(folder / "venv")
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    ours = sysconfig.get_path("purelib")
    Path(site, "vbox.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    wheels = folder / "wheels"
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, *PROJECTS)
    run(python, "-m", "pip", "install", "-q", "--no-deps", *sorted(wheels.glob("*.whl")))
    return python


def plugin_file(name: str) -> Path:
    """An example as `vbox run --plugin` takes it."""
    return EXAMPLES / name / "src" / f"vbox_plugin_{name}" / "__init__.py"


def compiled(source: Path, target: Path) -> Path:
    """A program for a Linux guest, which has no libraries."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        pytest.skip("programs for guests are built with gcc, which is not there (apt-get install gcc)")
    run(compiler, "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", target, source)
    return target


def test_examples_installed_are_listed_as_loaded(venv: Path) -> None:
    rows = {row["name"]: row for row in json.loads(run(venv, "-m", "vbox_vmm", "plugins", "--json"))}

    assert NAMES == ["copyengine", "diskfaults", "doorbell"]
    for name in NAMES:
        assert rows[name]["distribution"] == f"vbox-plugin-{name}"
        assert rows[name]["state"] == "loaded"
        assert name in rows[name]["devices"] + rows[name]["drivers"]


@pytest.mark.parametrize("name", NAMES)
def test_example_as_a_file_is_a_plugin(name: str) -> None:
    rows = json.loads(run(VBOX, "plugins", "--json", "--plugin", plugin_file(name)))

    mine = [row for row in rows if row["distribution"] == str(plugin_file(name))]
    assert [row["state"] for row in mine] == ["loaded"]


@pytest.mark.parametrize("bench", ["bench", "kernel"])
def test_examples_own_tests_pass(venv: Path, bench: str) -> None:
    output = run(
        venv, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ROOT, "--vbox-bench", bench,
        *(project / "tests" for project in PROJECTS),
    )  # fmt: skip

    assert " passed" in output
    assert "skipped" not in output


def test_copyengine_is_driven_by_a_program_in_linux(venv: Path, tmp_path: Path) -> None:
    program = compiled(EXAMPLES / "copyengine" / "guest" / "copyengine.c", tmp_path / "copyengine")
    linux = found(lambda: guests.debian(["uio_pci_generic"], files={"bin/copyengine": program}))

    output = run(
        venv, "-m", "vbox_vmm", "run", *linux.words(), "--device", "copyengine", "--display", "none",
        "--timeout", "240",
        "--expect", linux.prompt,
        "--type", r"echo 1234 ce01 > /sys/bus/pci/drivers/uio_pci_generic/new_id\n",
        "--expect", linux.prompt,
        "--type", r"copyengine /sys/class/uio/uio0/device /dev/uio0; cat /proc/interrupts; echo t''he end\n",
        "--expect", "the end",
    )  # fmt: skip

    assert "copyengine: passed" in output
    ended_by_interrupt = re.search(r"copyengine: (\d+) operations", output)
    counted = re.search(r"(\d+) +XT-PIC +uio_pci_generic", output)
    assert ended_by_interrupt is not None
    assert counted is not None
    assert int(counted[1]) == int(ended_by_interrupt[1]) > 0


def test_diskfaults_are_io_errors_in_linux_where_they_are_and_nowhere_else(tmp_path: Path) -> None:
    linux = found(lambda: guests.debian(["ata_piix", "sd_mod"]))
    disks = [tmp_path / "bad.img", tmp_path / "good.img"]
    for disk in disks:
        shutil.copyfile(found(lambda: media.random_file(1 << 20)), disk)
    content = disks[0].read_bytes()
    bad = 8 * 100  # the first sector of a page
    options = ["--plugin", str(plugin_file("diskfaults")), "--display", "none"]
    for lun, (disk, config) in enumerate(zip(disks, (f",bad={bad}-{bad + 7}", ""), strict=True)):
        options += ["--disk", str(disk), "--filter", f"piix3ide#0/lun{lun}=diskfaults{config}"]

    with Guest(linux, *options) as guest:
        guest.prompt()
        # Linux looks for both at the same time, and so which of them is sda is chance.
        names = guest.shell("for unit in 0 1; do ls /sys/bus/scsi/devices/0:0:$unit:0/block; done").split()
        guest.shell("ln -s {} /dev/bad; ln -s {} /dev/good".format(*names))
        guest.shell("dd if=/dev/bad of=/dev/null bs=4k skip=100 count=1", status=1)
        guest.shell("yes ill | dd of=/dev/bad bs=4k seek=100 count=1 iflag=fullblock conv=fsync", status=1)
        errors = guest.shell("dmesg | grep 'I/O error, dev'")
        guest.shell("echo 3 > /proc/sys/vm/drop_caches")
        around = guest.shell("(dd if=/dev/bad bs=4k count=100; dd if=/dev/bad bs=4k skip=101) | sha256sum")
        guest.shell("yes well | dd of=/dev/good bs=4k seek=100 count=1 iflag=fullblock conv=fsync")
        whole = guest.shell("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/good")

    assert re.search(rf"dev {names[0]}, sector {bad} op 0x0:\(READ\)", errors)
    assert re.search(rf"dev {names[0]}, sector {bad} op 0x1:\(WRITE\)", errors)
    assert names[1] not in errors
    before, after = content[: 100 * PAGE], content[101 * PAGE :]
    assert hashlib.sha256(before + after).hexdigest() in around
    assert disks[0].read_bytes() == content  # what failed was not written
    written = before + (b"well\n" * PAGE)[:PAGE] + after
    assert disks[1].read_bytes() == written
    assert hashlib.sha256(written).hexdigest() in whole
