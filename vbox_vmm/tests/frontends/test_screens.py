"""`vbox run` with a screen: firmware, drives, --display, --screenshot, --expect-screen, --keys."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_guests
import pexpect
import pytest
from click.testing import Result

from vbox_vmm import cfgm_xml

Image = pytest.importorskip("PIL.Image")
Vbox = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]
Started = Callable[..., "subprocess.Popen[Any]"]
FOLDERS = (Path("/usr/share/seabios"), Path("/usr/share/qemu"))
needs_firmware = pytest.mark.skipif(
    not any((folder / "bios-256k.bin").is_file() for folder in FOLDERS),
    reason="needs SeaBIOS (package seabios)",
)
EXIT = ("--device", "isa-debug-exit", "--timeout", 100, "--clock", "warp")


def _await_file(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.is_file():
        assert time.monotonic() < end, f"{path.name} is not written"
        time.sleep(0.1)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return int(image.size[0]), int(image.size[1])


# --- what the options build


def tree(vbox: Vbox, folder: Path, *words: object) -> object:
    path = folder / "machine.xml"
    result = vbox("machine", "-o", path, *words)
    assert result.exit_code == 0, result.stderr
    return cfgm_xml.read(path)


def test_display_text_brings_the_terminals_keys_along(vbox: Vbox, tmp_path: Path) -> None:
    made = tree(vbox, tmp_path, "--display", "text", "--kernel", "k")

    assert made.query_string("Devices/vga/0/LUN#0/Driver") == "terminal-screen"
    assert made.query_string("Devices/pckbd/0/LUN#0/Driver") == "terminal-keys"
    assert made.find("Devices/serial/0/LUN#0") is None  # the terminal has one user


def test_display_back_from_text_takes_them_away_again(vbox: Vbox, tmp_path: Path) -> None:
    tree(vbox, tmp_path, "--display", "text")

    made = tree(vbox, tmp_path, "--machine", tmp_path / "machine.xml", "--display", "png:x.png")

    assert made.query_string("Devices/vga/0/LUN#0/Driver") == "screen"
    assert made.query_string("Devices/vga/0/LUN#0/Config/png") == str(Path("x.png").absolute())
    assert made.query_bool("Devices/vga/0/LUN#0/Config/live")
    assert made.query_string("Devices/pckbd/0/LUN#0/Driver") == "keyboard-queue"


def test_keyboard_that_was_chosen_stays(vbox: Vbox, tmp_path: Path) -> None:
    made = tree(vbox, tmp_path, "--filter", "pckbd#0/lun0=keyboard-queue", "--display", "text")

    assert made.query_string("Devices/pckbd/0/LUN#0/AttachedDriver/Driver") == "terminal-keys"


def test_machine_has_drives_order_and_kernel(vbox: Vbox, tmp_path: Path) -> None:
    made = tree(
        vbox, tmp_path, "--disk", "a.img", "--disk", "b.img,snapshot=on,at=3", "--cdrom", "none",
        "--boot", "cdrom,disk", "--kernel", "/k", "--append", "x",
    )  # fmt: skip

    ide = made.child("Devices/piix3ide/0")
    assert [ide.query_string(f"LUN#{at}/Driver", default="") for at in range(4)] == [
        "ata-disk", "", "atapi-cd", "ata-disk",
    ]  # fmt: skip
    assert ide.query_string("LUN#3/AttachedDriver/Driver") == "overlay"
    assert made.query_string("Devices/pcbios/0/Config/boot_device0") == "cdrom"
    assert made.query_string("Devices/qemu-fw-cfg/0/Config/kernel") == "/k"
    assert made.query_string("Devices/qemu-fw-cfg/0/Config/append") == "x"  # the run adds the TSC's rate


def test_help_has_sections_and_examples(vbox: Vbox) -> None:
    text = vbox("run", "--help").stdout

    positions = [
        text.index(f"\n{title}:\n")
        for title in (
            "Machine",
            "Boot",
            "Drives",
            "Display and serial ports",
            "Script",
            "Debugging",
            "Examples",
        )
    ]
    assert positions == sorted(positions)
    assert "vbox run --cdrom" in text
    assert r"\0 \\ \xHH" in text


# --- runs


@needs_firmware
def test_machine_without_anything_shows_no_bootable_device(process: Process, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"

    done = process(
        "run", "--timeout", 100, "--clock", "warp", "--expect-screen", "No bootable device",
        "--screenshot", picture,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert size(picture) == (720, 400)
    assert list(tmp_path.iterdir()) == [picture]


@needs_firmware
def test_disk_starts_and_keys_reach_it(process: Process, tmp_path: Path) -> None:
    disk = cli_guests.disk(tmp_path, "Hello from the disk")

    done = process(
        "run", *EXIT, "--disk", disk, "--expect-screen", "Hello from the disk", "--keys", "aB1",
        "--expect-screen", "diskaB1", "--keys", "q",
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (41, "")


@needs_firmware
@pytest.mark.parametrize(
    ("option", "shown", "changed"),
    [("", "W", True), (",snapshot=on", "W", False), (",readonly=on", "E", False)],
)
def test_disk_is_written_unless_it_must_not_be(
    process: Process, tmp_path: Path, option: str, shown: str, changed: bool
) -> None:
    disk = cli_guests.disk(tmp_path, "disk>")

    done = process(
        "run", *EXIT, "--disk", f"{disk}{option}", "--expect-screen", "disk>", "--keys", "w",
        "--expect-screen", f"disk>{shown}", "--keys", "q",
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (41, "")
    assert (disk.read_bytes()[512:1024] == disk.read_bytes()[:512]) is changed


@needs_firmware
@pytest.mark.parametrize(
    ("words", "shown"),
    [([], "from the disk"), (["--boot", "cdrom"], "from the CD"), (["--boot", "cdrom,disk"], "from the CD")],
    ids=["default", "cdrom", "cdrom,disk"],
)
def test_boot_order_says_which_drive_starts(
    process: Process, tmp_path: Path, words: list[str], shown: str
) -> None:
    disk, cd = cli_guests.disk(tmp_path, "from the disk"), cli_guests.iso(tmp_path, "from the CD")

    done = process("run", *EXIT, "--disk", disk, "--cdrom", cd, *words, "--expect-screen", shown)

    assert (done.returncode, done.stderr) == (0, "")


@needs_firmware
def test_empty_disk_leaves_the_start_to_the_cd(process: Process, tmp_path: Path) -> None:
    disk = tmp_path / "new.img"
    disk.write_bytes(bytes(1 << 20))

    done = process(
        "run", *EXIT, "--disk", disk, "--cdrom", cli_guests.iso(tmp_path, "from the CD"),
        "--expect-screen", "from the CD",
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


@needs_firmware
def test_unmet_screen_says_what_it_shows_and_is_still_kept(process: Process, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"

    done = process("run", "--timeout", 4, "--expect-screen", "login:", "--screenshot", picture)

    assert done.returncode == 3
    assert re.fullmatch(
        r"vbox: the guest did not end within 4 seconds: step 1 of 1 was waiting for 'login:' on the screen; "
        r"the screen ends with 'No bootable device.' \(VERR_TIMEOUT\)\n",
        done.stderr,
    )
    assert size(picture) == (720, 400)


@needs_firmware
@pytest.mark.parametrize("end", ["script error", "signal"])
def test_screenshot_is_made_however_the_run_ends(started: Started, tmp_path: Path, end: str) -> None:
    picture, live = tmp_path / "x.png", tmp_path / "live.png"
    words = {
        "script error": ["--expect-screen", "SeaBIOS", "--keys", "ä"],
        "signal": ["--display", f"png:{live}"],
    }[end]
    child = started(
        "run",
        "--timeout",
        60,
        "--screenshot",
        picture,
        *words,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if end == "signal":
        _await_file(live)
        child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)

    assert child.returncode == (1 if end == "script error" else 143), errors
    assert size(picture) == (720, 400)


@needs_firmware
def test_display_png_follows_the_screen(started: Started, tmp_path: Path) -> None:
    picture = tmp_path / "live.png"
    child = started("run", "--display", f"png:{picture}", "--timeout", 100, stdin=subprocess.DEVNULL)

    _await_file(picture)

    assert size(picture) == (720, 400)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=30) == 130


@needs_firmware
def test_screenshot_is_made_of_a_guru_meditation(process: Process, tmp_path: Path) -> None:
    disk, picture = cli_guests.disk(tmp_path, "disk>"), tmp_path / "x.png"

    done = process(
        "run", "--clock", "warp", "--timeout", 100, "--disk", disk, "--expect-screen", "disk>", "--keys", "f",
        "--screenshot", picture,
    )  # fmt: skip

    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "guru meditation" in done.stderr
    assert size(picture) == (720, 400)


def test_screen_that_shows_nothing_is_told_and_leaves_no_picture(process: Process, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"

    done = process(
        "run", *cli_guests.DIRECT, cli_guests.hello(tmp_path, value=16), *EXIT, "--screenshot", picture
    )

    assert done.returncode == 33
    assert re.fullmatch(r"vbox: there is no screenshot: .*\(VERR_NOT_FOUND\).*\n", done.stderr)
    assert not picture.exists()


@needs_firmware
def test_screen_in_the_terminal_is_live_and_the_terminal_comes_back(
    environment: dict[str, str], tmp_path: Path
) -> None:
    pyte = pytest.importorskip("pyte")
    disk = cli_guests.disk(tmp_path, "disk>")
    child = pexpect.spawn(
        sys.executable, ["-m", "vbox_vmm", "run", "--disk", f"{disk},snapshot=on", "--timeout", "100"],
        env={**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        dimensions=(30, 100), timeout=30,
    )  # fmt: skip
    child.delaybeforesend = None
    screen = pyte.Screen(100, 30)
    stream = pyte.ByteStream(screen)
    raw = b""

    def becomes(condition: Callable[[], bool]) -> bool:
        nonlocal raw
        end = time.monotonic() + 40
        while time.monotonic() < end:
            try:
                data = child.read_nonblocking(65536, timeout=0.1)
            except pexpect.TIMEOUT:
                data = b""
            except pexpect.EOF:
                return condition()
            raw += data
            stream.feed(data)
            if condition():
                return True
        return False

    assert becomes(lambda: any("disk>" in line for line in screen.display)), screen.display
    assert becomes(lambda: any("^A x  power off" in line for line in screen.display))
    child.send(b"hi")
    assert becomes(lambda: any("disk>hi" in line for line in screen.display))
    assert not any("power off" in line for line in screen.display)
    child.send(b"\x01x")
    assert becomes(lambda: not child.isalive() or b"\x1b[?1049l" in raw)
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0
    raw += child.before
    assert b"disk>hi" in raw[raw.rfind(b"\x1b[?1049l") :]


@needs_firmware
def test_bios_from_a_path_starts(process: Process, tmp_path: Path) -> None:
    image = next(folder / "bios-256k.bin" for folder in FOLDERS if (folder / "bios-256k.bin").is_file())
    copy = tmp_path / "bios-256k.bin"
    copy.write_bytes(image.read_bytes())

    for path in (copy, tmp_path):
        done = process(
            "run",
            "--bios",
            path,
            "--clock",
            "warp",
            "--timeout",
            100,
            "--expect-screen",
            "No bootable device",
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("words", "driver"),
    [
        ([], "terminal-screen"),
        (["--serial", "stdio"], "screen"),
        (["--kernel", "k"], "screen"),
        (["--kernel", "k", "--serial", "none"], "terminal-screen"),
        (["--display", "none"], "screen"),
        (["--display", "png:x.png"], "screen"),
        (["--without", "vga"], ""),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else words,
)
def test_screen_goes_to_a_terminal_that_nothing_else_uses(words: list[str], driver: str) -> None:
    from vbox_vmm.frontends.machine_cmd import machine as command
    from vbox_vmm.frontends.options import MachineOptions, build_machine, load_catalogue

    given = command.make_context("machine", [*words, "-o", "-"]).params
    del given["output"], given["debug"]

    made = build_machine(MachineOptions(**given), load_catalogue(), terminal=True)
    without = build_machine(MachineOptions(**given), load_catalogue())

    assert made.query_string("Devices/vga/0/LUN#0/Driver", default="") == driver
    assert without.query_string("Devices/vga/0/LUN#0/Driver", default="") in ("screen", "")


def test_nothing_to_see_is_wrong_usage(vbox: Vbox) -> None:
    assert vbox("run").exit_code == 2
    assert vbox("run", "--timeout", 5).exit_code == 2
