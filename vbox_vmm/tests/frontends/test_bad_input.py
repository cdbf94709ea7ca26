"""Every mistake is one line on standard error, with a status and what to do; never a traceback."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import cli_guests
import pytest
from click.testing import Result

Vbox = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]

DEVICE = """
contract = "1.0"
from vbox_pdm import Device, DeviceType, Ports, hookimpl

class Thing(Device):
    def pdm_construct(self):
        self.helpers.map_ports({port}, Ports("thing", 1, self.read, self.write))
        {construct}

    def read(self, offset, size):
        {read}

    def write(self, offset, size, value):
        pass

@hookimpl
def vbox_register_devices(register):
    register(DeviceType("{name}", Thing))
    {register}
"""


def plugin(folder: Path, name: str = "thing", file: str = "thing_plugin.py", **parts: object) -> Path:
    """A plugin file with a device at a port."""
    values = {"port": 0x500, "construct": "pass", "read": "return 0", "register": "pass", **parts}
    path = folder / file
    path.write_text(DEVICE.format(name=name, **values))
    return path


def assert_one_line(result: Result, code: int, *patterns: str) -> None:
    text = result.stderr
    assert result.exit_code == code, text
    assert text.startswith("vbox: ")
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    for pattern in patterns:
        assert re.search(pattern, text), text


@pytest.mark.parametrize(
    ("words", "patterns"),
    [
        (
            ["--device", "sreial"],
            ["No device is named 'sreial'", "VERR_PDM_DEVICE_NOT_FOUND", "vbox plugins"],
        ),
        (["--serial", "telepathy"], ["No driver is named 'telepathy'", "VERR_PDM_DRIVER_NOT_FOUND"]),
        (["--filter", "serial#0/lun0=nope"], ["No driver is named 'nope'", "VERR_PDM_DRIVER_NOT_FOUND"]),
        (["--filter", "serial#7/lun0=stdio"], ["serial#7", "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND"]),
        (
            ["--device", "debugcon,io_bsae=1"],
            ["'/io_bsae'.*debugcon", "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "Did you mean 'io_base'"],
        ),
        (["--device", "debugcon,io_base=0x12345"], ["io_base.*0x12345", "VERR_OUT_OF_RANGE", "0x0..0xffff"]),
        (["--device", "debugcon,io_base=much"], ["io_base.*much", "VERR_CFGM_NOT_INTEGER"]),
        (["--serial", "pty,linc=x"], ["'/linc'", "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "Did you mean 'link'"]),
        (["--device", "serial"], ["VERR_PDM_TOO_MANY_DEVICE_INSTANCES", "--set"]),
        (["--serial", "stdio", "--serial", "stdio"], ["VERR_PDM_TOO_MANY_DRIVER_INSTANCES"]),
        (["--serial", "file:/no/such/folder/file"], ["/no/such/folder/file", "VERR_"]),
        (["--memory", "3"], ["3 MiB", "VERR_OUT_OF_RANGE", "4 MiB"]),
        (["--memory", "3000000G"], ["VERR_OUT_OF_RANGE"]),
        (["--memory", "4097K"], ["VERR_INVALID_PARAMETER", "4K"]),
        (["--engine", "warp-drive"], ["No engine is named 'warp-drive'", "VERR_PDM_ENGINE_NOT_FOUND"]),
        (["--cpu", "z80"], ["z80"]),
        (["--cpu", "default,sse"], ["'sse' is no feature"]),
        (["--without", "nothing"], ["'nothing'", "VERR_PDM_DEVICE_NOT_FOUND"]),
        (["--set", "Devices/serial/0/Config/nope=1"], ["'/nope'.*serial", "VERR_CFGM_CONFIG_UNKNOWN_VALUE"]),
        (["--set", "Devices/serial/0/Nope=1"], ["Nope", "VERR_CFGM_CONFIG_UNKNOWN_VALUE"]),
        (["--machine", "/no/such.xml"], ["/no/such.xml", "VERR_FILE_NOT_FOUND"]),
        (["--plugin", "/no/such.py"], ["/no/such.py", "VERR_FILE_NOT_FOUND"]),
        (["--initrd", "/no/such/initrd"], ["/no/such/initrd", "VERR_FILE_NOT_FOUND"]),
        (["--disk", "/no/such.img"], ["/no/such.img", "VERR_FILE_NOT_FOUND", "truncate"]),
        (["--disk", "/tmp"], ["/tmp", "VERR_IS_A_DIRECTORY"]),
        (["--disk", "/dev/null"], ["/dev/null", "VERR_INVALID_PARAMETER", "neither a file nor"]),
        (["--cdrom", "/no/such.iso"], ["/no/such.iso", "VERR_FILE_NOT_FOUND"]),
        (
            ["--cdrom", "none,at=0", "--cdrom", "none,at=0"],
            ["primary master", "VERR_ALREADY_EXISTS", "at=0..3"],
        ),
        (["--cdrom", "none"] * 5, ["VERR_OUT_OF_RANGE", "four drives"]),
        (["--cdrom", "none,modle=x"], ["'/modle'.*atapi-cd", "VERR_CFGM_CONFIG_UNKNOWN_VALUE"]),
        (["--without", "piix3ide", "--cdrom", "none"], ["piix3ide", "VERR_PDM_DEVICE_NOT_FOUND"]),
        (["--boot", "disk"], ["VERR_NOT_SUPPORTED", "--firmware none"]),
        (["--bios", "/no/such.rom"], ["VERR_NOT_SUPPORTED", "without firmware"]),
        (["--display", "curtain"], ["No driver is named 'curtain'", "VERR_PDM_DRIVER_NOT_FOUND"]),
        (["--display", "text", "--serial", "none"], ["no terminal", "VERR_NOT_SUPPORTED"]),
        (["--display", "text", "--serial", "stdio"], ["share the terminal", "--serial none"]),
        (["--display", "png:/no/such/folder/x.png"], ["/no/such/folder", "VERR_PATH_NOT_FOUND"]),
        (["--screenshot", "/no/such/folder/x.png"], ["/no/such/folder", "VERR_PATH_NOT_FOUND"]),
        (["--screenshot", "/tmp"], ["/tmp", "VERR_ACCESS_DENIED", "it is a folder"]),
        (["--without", "vga", "--screenshot", "x.png"], ["vga", "VERR_PDM_DEVICE_NOT_FOUND"]),
        (["--without", "vga", "--expect-screen", "x"], ["vga", "VERR_PDM_DEVICE_NOT_FOUND"]),
        (["--device", "debugcon,io_base=0x3f8"], ["debugcon", "serial#0", "VERR_IOM_IOPORT_RANGE_CONFLICT"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_mistake_is_one_clear_line(vbox: Vbox, tmp_path: Path, words: list[str], patterns: list[str]) -> None:
    result = vbox(
        "run", *cli_guests.DIRECT, cli_guests.hello(tmp_path), "--timeout", 20, "--expect", "Hello", *words
    )

    assert_one_line(result, 1, *patterns)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--nope"],
        ["--memory", "lots", "--kernel", "x"],
        ["--device", ",", "--kernel", "x"],
        ["--device", "a,b", "--kernel", "x"],
        ["--serial", "tcp:nowhere", "--kernel", "x"],
        ["--filter", "serial", "--kernel", "x"],
        ["--set", "nothing", "--kernel", "x"],
        ["--clock", "sundial", "--kernel", "x"],
        ["--timeout", "soon", "--kernel", "x"],
        ["--timeout", "0", "--kernel", "x"],
        ["--firmware", "uefi", "--kernel", "x"],
        ["--firmware", "none"],
        ["--boot", "disk,tape"],
        ["--boot", "disk,disk"],
        ["--boot", ""],
        ["--disk", ""],
        ["--disk", "a,b.img"],
        ["--disk", "a,at=4"],
        ["--disk", "a,snapshot=maybe"],
        ["--disk", "a,at=1,at=2"],
        ["--cdrom", "a,snapshot=on"],
        ["--display", "png"],
        ["--display", "png:"],
        ["--display", ","],
        ["--kernel"],
        ["stray"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_two_and_one_line(vbox: Vbox, words: list[str]) -> None:
    result = vbox("run", *words)

    assert_one_line(result, 2, "VERR_INVALID_PARAMETER", "--help")


def test_unknown_command_is_wrong_usage(vbox: Vbox) -> None:
    assert_one_line(vbox("fly"), 2, "fly")


def test_file_that_is_no_kernel_is_named(vbox: Vbox, tmp_path: Path) -> None:
    for name, content in (("text", b"hello\n" * 1000), ("empty", b""), ("short", b"MZ")):
        path = tmp_path / name
        path.write_bytes(content)
        assert_one_line(
            vbox("run", *cli_guests.DIRECT, path), 1, str(path), "VERR_LDR_INVALID_IMAGE", "bzImage"
        )
    assert_one_line(
        vbox("run", *cli_guests.DIRECT, tmp_path / "missing"), 1, "missing", "VERR_FILE_NOT_FOUND"
    )
    assert_one_line(vbox("run", *cli_guests.DIRECT, tmp_path), 1, "VERR_ACCESS_DENIED|VERR_IS_A_DIRECTORY")


@pytest.mark.usefixtures("any_firmware")
def test_file_that_is_no_kernel_for_a_bios_is_named(vbox: Vbox, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"hello\n" * 1000)
    text, multiboot = tmp_path / "text", cli_guests.hello(tmp_path)

    assert_one_line(vbox("run", "--kernel", text), 1, str(text), "VERR_", "bzImage")
    assert_one_line(vbox("run", "--kernel", multiboot), 1, str(multiboot), "VERR_", "--firmware none")
    assert_one_line(vbox("run", "--kernel", tmp_path / "missing"), 1, "missing", "VERR_FILE_NOT_FOUND")
    assert_one_line(vbox("run", "--kernel", tmp_path), 1, "VERR_ACCESS_DENIED|VERR_IS_A_DIRECTORY")
    assert_one_line(
        vbox("run", "--initrd", text, "--display", "none"), 1, "VERR_INVALID_PARAMETER", "--kernel"
    )
    assert_one_line(
        vbox("run", "--kernel", text, "--without", "qemu-fw-cfg"), 1, "qemu-fw-cfg", "--firmware none"
    )
    assert_one_line(vbox("run", "--boot", "kernel"), 1, "VERR_INVALID_PARAMETER", "--kernel")
    assert_one_line(vbox("run", "--boot", "disk,kernel", "--kernel", text), 1, "VERR_NOT_SUPPORTED", "first")


def test_firmware_that_is_none_is_named(vbox: Vbox, tmp_path: Path) -> None:
    odd = tmp_path / "odd.rom"
    odd.write_bytes(bytes(1000))

    assert_one_line(vbox("run", "--bios", odd), 1, str(odd), "1000 bytes")
    assert_one_line(vbox("run", "--bios", tmp_path), 1, str(tmp_path), "VERR_FILE_NOT_FOUND", "seabios")
    assert_one_line(vbox("run", "--bios", tmp_path / "missing"), 1, "missing", "VERR_FILE_NOT_FOUND")


def test_kernel_that_needs_more_memory_says_how_much(vbox: Vbox, tmp_path: Path) -> None:
    program = cli_guests.code()
    program.bytes += bytes(6 << 20)

    result = vbox("run", *cli_guests.DIRECT, cli_guests.kernel(tmp_path, program), "--memory", "4")

    assert_one_line(result, 1, "VERR_NO_MEMORY", "--memory")


def test_machine_file_that_is_damaged_names_the_line(vbox: Vbox, tmp_path: Path) -> None:
    path = tmp_path / "machine.xml"
    path.write_text("<Machine\n")

    assert_one_line(vbox("run", "--machine", path), 1, f"{path}:", "VERR_PARSE_ERROR")


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("import nothing_like_this", ["which contract", 'contract = "1.0"']),
        ('contract = "1.0"\nimport nothing_like_this', ["importing it failed", "nothing_like_this"]),
        ('contract = "1.0"\nraise SystemExit(3)', ["importing it failed", "SystemExit"]),
        ('contract = "2.0"', ["wants contract 2.0", "offered is 1.0"]),
        ('contract = "1.0"', ["registers nothing"]),
        ("contract = (", ["no Python file"]),
    ],
)
def test_plugin_file_that_is_unusable_says_why(
    vbox: Vbox, tmp_path: Path, text: str, patterns: list[str]
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)

    result = vbox("run", "--plugin", path, *cli_guests.DIRECT, cli_guests.hello(tmp_path))
    assert_one_line(result, 1, str(path), "VERR_PDM_", *patterns)

    listed = vbox("plugins", "--plugin", path)
    assert listed.exit_code == 0
    assert re.search(r"broken .*unusable", listed.stdout)
    assert "serial" in listed.stdout


def test_plugin_that_registers_twice_is_refused(vbox: Vbox, tmp_path: Path) -> None:
    path = plugin(tmp_path, register='register(DeviceType("thing", Thing))')

    result = vbox("run", "--plugin", path, *cli_guests.DIRECT, cli_guests.hello(tmp_path))

    assert_one_line(result, 1, "'thing'.*already registered", "VERR_PDM_DEVICE_NAME_CLASH")


def test_plugins_that_register_the_same_name_are_told_apart(vbox: Vbox, tmp_path: Path) -> None:
    one, two = plugin(tmp_path), plugin(tmp_path, file="other_plugin.py")

    result = vbox("run", "--plugin", one, "--plugin", two, *cli_guests.DIRECT, cli_guests.hello(tmp_path))

    assert_one_line(result, 1, f"{two}.*already registered.*{one}", "VERR_PDM_DEVICE_NAME_CLASH")


def test_plugin_file_cannot_take_an_installed_name(vbox: Vbox, tmp_path: Path) -> None:
    path = plugin(tmp_path, name="serial", file="serial.py")

    result = vbox("run", "--plugin", path, *cli_guests.DIRECT, cli_guests.hello(tmp_path))

    assert_one_line(result, 1, f"{path}", "'serial'.*already registered.*vbox-plugin-pc", "another name")


def test_two_devices_on_one_port_are_both_named(vbox: Vbox, tmp_path: Path) -> None:
    path = plugin(tmp_path, port=0x3FA)

    result = vbox(
        "run", "--plugin", path, "--device", "thing", *cli_guests.DIRECT, cli_guests.hello(tmp_path)
    )

    assert_one_line(result, 1, "thing#0", "serial#0", "VERR_IOM_IOPORT_RANGE_CONFLICT")


def test_construct_that_raises_is_told_with_the_device(vbox: Vbox, tmp_path: Path) -> None:
    path = plugin(tmp_path, construct='raise ValueError("no luck")')

    result = vbox(
        "run", "--plugin", path, "--device", "thing", *cli_guests.DIRECT, cli_guests.hello(tmp_path)
    )

    assert_one_line(result, 1, "Failed to construct device 'thing' instance #0", "no luck")


def test_handler_that_raises_answers_all_ones_and_is_told_once(process: Process, tmp_path: Path) -> None:
    path = plugin(tmp_path, read='raise ValueError("no luck")')
    program = cli_guests.code()
    for _ in range(3):
        program.dx(0x500).raw(0xEC)  # in al, dx
    program.dx(cli_guests.EXIT_PORT).raw(0x24, 0x0F, 0xEE).halt()  # and al, 15; out dx, al

    done = process(
        "run", "--plugin", path, "--device", "thing", "--device", "isa-debug-exit", "--serial", "none",
        *cli_guests.DIRECT, cli_guests.kernel(tmp_path, program), "--timeout", 50,
    )  # fmt: skip

    assert done.returncode == 31
    assert done.stderr.count("no luck") == 1
    assert done.stderr.count("\n") == 1
    assert re.search(r"vbox: error: .*thing#0.*thing.*ValueError: no luck", done.stderr)


def test_handler_that_keeps_raising_stops_the_guest(process: Process, tmp_path: Path) -> None:
    path = plugin(tmp_path, read='raise ValueError("no luck")')
    program = cli_guests.code().dx(0x500).label("again").raw(0xEC).jump(0xEB, "again")

    done = process(
        "run", "--plugin", path, "--device", "thing", "--timeout", 50,
        *cli_guests.DIRECT, cli_guests.kernel(tmp_path, program),
    )  # fmt: skip

    assert done.returncode == 4
    assert re.search(
        r"^vbox: the guest was stopped: DeviceFailed: thing#0 .*\(VERR_VM_SUSPENDED\)$", done.stderr, re.M
    )


def test_handler_that_hangs_is_named_and_left_behind(process: Process, tmp_path: Path) -> None:
    path = plugin(tmp_path, read="__import__('time').sleep(1000)")
    program = cli_guests.code().dx(0x500).raw(0xEC).halt()

    done = process(
        "run", "--plugin", path, "--device", "thing", "--timeout", 8,
        *cli_guests.DIRECT, cli_guests.kernel(tmp_path, program),
    )  # fmt: skip

    assert done.returncode == 3, done.stderr
    assert re.search(r"thing#0 has been in .*read", done.stderr), done.stderr
    assert "did not end within 8 seconds" in done.stderr


def test_construct_that_hangs_is_named_and_left_behind(process: Process, tmp_path: Path) -> None:
    path = plugin(tmp_path, construct="__import__('time').sleep(1000)")

    done = process(
        "run",
        "--plugin",
        path,
        "--device",
        "thing",
        *cli_guests.DIRECT,
        cli_guests.hello(tmp_path),
        "--timeout",
        6,
    )

    assert done.returncode == 3
    assert re.search(r"pdm_construct of .*thing_plugin.py has not returned", done.stderr), done.stderr


def test_debug_shows_the_traceback(process: Process, tmp_path: Path) -> None:
    done = process("run", *cli_guests.DIRECT, tmp_path / "missing", "--debug")

    assert done.returncode == 1
    assert "Traceback" in done.stderr
