"""`vbox run` with guests of a few instructions, each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import cli_guests
import pexpect
import pytest

Process = Callable[..., "subprocess.CompletedProcess[str]"]
Started = Callable[..., "subprocess.Popen[Any]"]


def test_guest_that_exits_passes_its_code_on(process: Process, tmp_path: Path) -> None:
    done = process(
        "run", *cli_guests.DIRECT, cli_guests.hello(tmp_path, value=16), "--device", "isa-debug-exit"
    )

    assert (done.returncode, done.stdout, done.stderr) == (33, "Hello\n", "")


def test_last_expectation_met_is_success(process: Process, tmp_path: Path) -> None:
    done = process(
        "run", *cli_guests.DIRECT, cli_guests.hello(tmp_path), "--expect", "Hel", "--expect", r"lo\n"
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello\n", "")


def test_expectation_in_the_wrong_order_is_not_met(process: Process, tmp_path: Path) -> None:
    guest = cli_guests.hello(tmp_path, value=0)

    done = process(
        "run", *cli_guests.DIRECT, guest, "--device", "isa-debug-exit", "--expect", "lo", "--expect", "Hel"
    )

    assert done.returncode == 3
    assert re.fullmatch(r"vbox: the guest ended with code 1 before 'Hel' came: step 2 of 2 .*\n", done.stderr)


def test_timeout_says_what_was_waited_for(process: Process, tmp_path: Path) -> None:
    done = process(
        "run", *cli_guests.DIRECT, cli_guests.hello(tmp_path), "--timeout", "1.5", "--expect", "more"
    )

    assert done.returncode == 3
    assert re.fullmatch(
        r"vbox: the guest did not end within 1.5 seconds: step 1 of 1 was waiting for 'more'; "
        r"the last output is 'Hello' \(VERR_TIMEOUT\)\n",
        done.stderr,
    )


def test_thousand_typed_characters_arrive_in_order(process: Process, tmp_path: Path) -> None:
    text = "".join(chr(ord("A") + index % 26) for index in range(1000))

    for fifo in (True, False):
        done = process(
            "run", *cli_guests.DIRECT, cli_guests.echo(tmp_path, fifo=fifo), "--device", "isa-debug-exit",
            "--expect", "> ", "--type", text, "--type", r"\n", "--expect", r"\n", "--serial", "stdio",
            "--timeout", 50,
        )  # fmt: skip

        assert (done.returncode, done.stdout, done.stderr) == (0, f"> {text}\n", "")


@pytest.mark.parametrize("serial", ["none", "pty", "file:{}/out", "tcp:127.0.0.1:0,server"])
def test_script_sees_the_port_whatever_hangs_below(process: Process, tmp_path: Path, serial: str) -> None:
    done = process(
        "run", *cli_guests.DIRECT, cli_guests.echo(tmp_path), "--device", "isa-debug-exit", "--timeout", 50,
        "--serial", serial.format(tmp_path), "--expect", "> ", "--type", "abc", "--expect", "abc",
        "--type", "q",
    )  # fmt: skip

    assert done.returncode == 41, done.stderr
    if serial.startswith("file"):
        assert (tmp_path / "out").read_text() == "> abcq"


def test_standard_input_is_the_guests(process: Process, tmp_path: Path) -> None:
    # Without FIFO: setting one up would throw away what came before.
    guest = cli_guests.echo(tmp_path, fifo=False)

    done = process(
        "run", *cli_guests.DIRECT, guest, "--device", "isa-debug-exit", "--timeout", 50, input="one\ntwo q"
    )

    assert (done.returncode, done.stdout) == (41, "> one\ntwo q")


def test_keys_reach_the_keyboard(process: Process, tmp_path: Path) -> None:
    done = process(
        "run", *cli_guests.DIRECT, cli_guests.scancodes(tmp_path), "--timeout", 50,
        "--expect", r"ready\n", "--keys", "b", "--expect", "la",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout == "ready\ndala"  # translated to scan code set 1: 0x30, and 0xB0 at the release


def test_keys_without_a_key_are_an_error(process: Process, tmp_path: Path) -> None:
    done = process("run", *cli_guests.DIRECT, cli_guests.hello(tmp_path), "--keys", "ä", "--timeout", 50)

    assert done.returncode == 1
    assert re.fullmatch(
        r"vbox: A US keyboard has no key for 'ä' .*\(VERR_INVALID_PARAMETER\).*\n", done.stderr
    )


def test_triple_fault_is_a_guru_meditation(process: Process, tmp_path: Path) -> None:
    done = process("run", *cli_guests.DIRECT, cli_guests.triple_fault(tmp_path), "--timeout", 50)

    assert done.returncode == 4
    assert re.fullmatch(r"vbox: guru meditation 1155: .*\(VINF_EM_TRIPLE_FAULT\).*\n", done.stderr)


def test_trace_names_device_region_and_registers(process: Process, tmp_path: Path) -> None:
    done = process(
        "run", *cli_guests.DIRECT, cli_guests.echo(tmp_path), "--serial", "none", "--trace", "serial#0/uart",
        "--timeout", 50, "--expect", ">",
    )  # fmt: skip

    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == "serial#0 uart+0x3 LCR write 1 = 0x03 (WLS=0x3)"
    assert "serial#0 uart+0x0 THR/DLL write 1 = 0x3e" in lines


def test_trace_of_an_unknown_region_lists_those_there_are(process: Process, tmp_path: Path) -> None:
    done = process(
        "run", *cli_guests.DIRECT, cli_guests.hello(tmp_path), "--trace", "nope", "--expect", "Hello"
    )

    assert done.returncode == 0
    assert "--trace nope names no region; there are" in done.stderr
    assert "serial#0/uart" in done.stderr


def test_exits_are_counted(process: Process, tmp_path: Path) -> None:
    done = process("run", *cli_guests.DIRECT, cli_guests.hello(tmp_path), "--expect", "Hello", "--exits")

    assert re.search(r"^kicked +\d+$", done.stderr, re.MULTILINE)


def test_second_serial_port_writes_to_its_file(process: Process, tmp_path: Path) -> None:
    program = cli_guests.code().out(0x2F8, ord("2")).say("1").exit(0)
    guest = cli_guests.kernel(tmp_path, program)

    done = process(
        "run", *cli_guests.DIRECT, guest, "--device", "isa-debug-exit", "--timeout", 50,
        "--serial", "stdio", "--serial", f"file:{tmp_path}/com2",
    )  # fmt: skip

    assert (done.returncode, done.stdout, (tmp_path / "com2").read_text()) == (1, "1", "2")


def test_machine_file_runs_like_its_options(process: Process, tmp_path: Path) -> None:
    file = tmp_path / "machine.xml"
    written = process(
        "machine", *cli_guests.DIRECT, cli_guests.hello(tmp_path, value=2), "--device", "isa-debug-exit",
        "--memory", "8M", "--serial", "stdio", "--output", file,
    )  # fmt: skip

    done = process("run", "--machine", file, "--timeout", 50)

    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert (done.returncode, done.stdout, done.stderr) == (5, "Hello\n", "")


def test_machine_without_kernel_begins_at_the_reset_vector(process: Process, tmp_path: Path) -> None:
    path = tmp_path / "bios.py"
    path.write_text(
        'contract = "1.0"\n'
        "from vbox_pdm import Device, DeviceType, Rom, hookimpl\n"
        "\n"
        "class Bios(Device):\n"
        "    def pdm_construct(self):\n"
        "        image = bytearray(65536)\n"
        "        image[0xFFF0:0xFFF6] = bytes([0xB0, 21, 0xE6, 0xF4, 0xFA, 0xF4])\n"
        '        self.helpers.map_rom(0xFFFF0000, Rom("bios", bytes(image)))\n'
        "\n"
        "@hookimpl\n"
        "def vbox_register_devices(register):\n"
        '    register(DeviceType("bios", Bios))\n'
    )

    done = process(
        "run", "--firmware", "none", "--plugin", path, "--device", "bios", "--device", "isa-debug-exit",
        "--timeout", 50,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (43, "", "")


def test_plugin_file_wraps_regions_and_sees_links(process: Process, tmp_path: Path) -> None:
    path = tmp_path / "watch.py"
    path.write_text(
        'contract = "1.0"\n'
        "import sys\n"
        "from vbox_pdm import hookimpl\n"
        "\n"
        "class Watch:\n"
        "    @hookimpl(wrapper=True)\n"
        "    def char_send(self, data):\n"
        '        print("sent", data, file=sys.stderr)\n'
        "        return (yield)\n"
        "\n"
        "@hookimpl\n"
        "def pdm_wrap_region(instance, region):\n"
        '    if region.name == "uart" and instance.number == 0:\n'
        "        def write(offset, size, value):\n"
        "            region.write(offset, size, value ^ 0x20 if offset == 0 else value)\n"
        "        return region.with_handlers(write=write)\n"
        "\n"
        "@hookimpl\n"
        "def pdm_link_created(instance, lun, link):\n"
        '    if instance.name == "serial" and instance.number == 0:\n'
        "        link.observe(Watch())\n"
    )

    guest = cli_guests.hello(tmp_path, text="aBc")
    done = process("run", "--plugin", path, *cli_guests.DIRECT, guest, "--expect", "AbC", "--timeout", 50)

    assert (done.returncode, done.stdout) == (0, "AbC"), done.stderr
    assert "sent b'A'" in done.stderr


def test_interrupt_powers_off_with_130(started: Started, tmp_path: Path) -> None:
    child = started(
        "run", *cli_guests.DIRECT, cli_guests.hello(tmp_path), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"Hello\n"

    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)

    assert (child.returncode, errors) == (130, b"")


def test_terminal_is_raw_while_the_guest_runs_and_restored(
    environment: dict[str, str], tmp_path: Path
) -> None:
    guest = cli_guests.echo(tmp_path)
    shell = pexpect.spawn(
        "/bin/sh", env={**environment, "PS1": "$ "}, encoding="utf-8", timeout=40, dimensions=(24, 200)
    )
    shell.expect(r"\$ ")
    shell.sendline(f"stty -g > {tmp_path}/before")
    shell.expect(r"\$ ")
    shell.sendline(f"{sys.executable} -m vbox_vmm run --firmware none --kernel {guest}; echo code=$?")
    shell.expect("> ")
    shell.send("\x03abc")  # Ctrl-C is the guest's
    shell.expect("abc")
    shell.send("\x01x")
    shell.expect("code=0")
    shell.expect(r"\$ ")
    shell.sendline(f"stty -g > {tmp_path}/after; echo d''one")
    shell.expect("done")

    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
    shell.close(force=True)


def test_job_control_suspends_and_goes_on(started: Started, tmp_path: Path) -> None:
    child = started(
        "run", *cli_guests.DIRECT, cli_guests.echo(tmp_path), "--device", "isa-debug-exit",
        stdin=PIPE, stdout=PIPE, process_group=0,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.read(2) == b"> "

    child.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    child.send_signal(signal.SIGCONT)
    child.stdin.write(b"xq")
    child.stdin.flush()

    assert child.wait(timeout=30) == 41
    assert child.stdout.read() == b"xq"


def test_tcp_server_says_its_port_and_serves(started: Started, tmp_path: Path) -> None:
    child = started(
        "run", *cli_guests.DIRECT, cli_guests.echo(tmp_path), "--device", "isa-debug-exit",
        "--serial", "tcp:127.0.0.1:0,server,hold=on", stderr=PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    line = child.stderr.readline()
    match = re.fullmatch(r"vbox: serial#0 listens on 127.0.0.1:(\d+)\n", line)
    assert match, line

    with socket.create_connection(("127.0.0.1", int(match[1])), 30) as peer:
        peer.settimeout(30)
        received = b""
        while not received.endswith(b"> "):  # what comes before the guest clears the FIFOs is lost
            received += peer.recv(100)
        peer.sendall(b"q")
        while not received.endswith(b"q"):
            received += peer.recv(100)

    assert received == b"> q"
    assert child.wait(timeout=30) == 41


def test_start_is_quick_enough(process: Process, tmp_path: Path) -> None:
    guest = cli_guests.hello(tmp_path, value=0)
    process("--version")  # byte code is written

    started = time.monotonic()
    done = process("run", *cli_guests.DIRECT, guest, "--device", "isa-debug-exit")
    elapsed = time.monotonic() - started

    assert done.returncode == 1
    assert elapsed < 10  # a loaded machine; the benchmark knows better


def test_run_imports_only_the_plugins_that_it_uses(environment: dict[str, str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from vbox_vmm.frontends.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    print(sorted(m for m in sys.modules if 'plugin_host' in m or m in ('rich', 'lxml', 'PIL')))"
    )
    guest = cli_guests.hello(tmp_path, value=0)
    words = ["run", *cli_guests.DIRECT, str(guest), "--device", "isa-debug-exit", "--serial", "none"]

    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1, done.stderr
    loaded = done.stdout.splitlines()[-1]
    for absent in ("stdio", "tcp", "pty", "terminal_keys", "'PIL'", "'rich'", "'lxml'"):
        assert absent not in loaded
    assert "keyboard_queue" in loaded
