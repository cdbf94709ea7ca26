"""Whatever the guest executes and whoever else uses unicorn, the process goes on."""

from __future__ import annotations

import ast
import gc
import os
import random
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import test_robustness
from random_code import MODES
from rem_guest import CODE, HLT, Device, Guest
from rem_guest32 import start

from vbox_pdm.engine import CpuState, ExitReason, Segment
from vbox_vmm.rem.engine import Rem

SECONDS = 0.6
LONG_SECONDS = 67
"""CPU time of random code for each mode; the long ones are ten minutes together."""
PATIENCE = 120.0
"""Seconds without a new case after which the process hangs; a case takes milliseconds, or 6 s of kicks."""
PROGRAM = Path(__file__).parent / "random_code.py"


def run_cases(engine: str, mode: str, cases: str, seconds: float = 0) -> None:
    """random_code.py in a process of its own; fails with the words that run the same cases again."""

    def again(last: str) -> str:
        return f"{PROGRAM.name} {engine} {mode} {cases}-{last}"

    words = [sys.executable, str(PROGRAM), engine, mode, cases, str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    last = "none"
    try:
        while select.select([process.stdout], [], [], PATIENCE)[0]:
            written = os.read(process.stdout.fileno(), 1 << 16).decode()
            if not written:
                break
            last = written.split()[-1]
        else:
            process.kill()
            pytest.fail(f"hangs in case {last}: {again(last)}")
        text, status = process.stderr.read(), process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    if status != 0:
        pytest.fail(f"ends with {status} in case {last}: {again(last)}\n{text}")
    assert "HALTED" in ast.literal_eval(text)


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("os.kill(os.getpid(), 11)", "ends with -11 in case 7: .* real 5-7"),
        ("time.sleep(100)", "hangs in case 7: .* real 5-7"),
        ("sys.exit('an invariant')", "ends with 1 in case 7: .* real 5-7\nan invariant"),
    ],
)
def test_process_that_dies_or_hangs_is_noticed_and_its_case_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, says: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import os, sys, time\nos.write(1, b'5\\n6\\n7\\n')\n{end}\n")
    monkeypatch.setattr(test_robustness, "PROGRAM", program)
    monkeypatch.setattr(test_robustness, "PATIENCE", 2.0)

    with pytest.raises(pytest.fail.Exception, match=says):
        run_cases("rem", "real", "5", 1)


@pytest.mark.parametrize("mode", MODES)
def test_random_code_neither_crashes_nor_hangs(engine: str, mode: str) -> None:
    run_cases(engine, mode, "0", SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_random_code_for_long_neither_crashes_nor_hangs(engine: str, mode: str) -> None:
    run_cases(engine, mode, str(random.SystemRandom().randrange(1 << 32)), LONG_SECONDS)


@pytest.mark.parametrize("length", [1 << 31, 1 << 63, 1 << 32, 0xFFFF_FFFF_8000_0000, 2**64 - 1])
@pytest.mark.parametrize("code", ["660f3a61c1{}", "660f3a60c1{}", "66480f3a61c1{}", "66480f3a60c1{}"])
@pytest.mark.parametrize("control", ["00", "01", "0c", "0d", "48", "7f"])
def test_string_comparison_of_any_length_stays_within_its_operands(
    guest: Guest, code: str, control: str, length: int
) -> None:
    guest.long_mode(bytes.fromhex(code.format(control)) + HLT, rax=length, rdx=length)

    state = guest.halt()

    assert (state.gpr[0], state.gpr[2]) == (length, length)


@pytest.mark.parametrize("code", ["d40a", "d50a"])  # AAM, AAD
def test_block_of_adjustments_stays_within_unicorns_tables(guest: Guest, code: str) -> None:
    start(guest, bytes.fromhex(code) * 700 + HLT, eax=5)

    assert guest.halt().rip == CODE + 1401


SHUFFLES = (
    "660f70c01b",
    "660f73d803",
    "660f3a0fc003",
    "0fc2c001",
    "660fc4c001",
    "f20f70c01b",
    "660f3a63c001",
)


@pytest.mark.parametrize("code", SHUFFLES)
def test_block_of_shuffles_stays_within_unicorns_tables(guest: Guest, code: str) -> None:
    one = bytes.fromhex(code)

    guest.long_mode(one * 600 + HLT)

    assert guest.halt().rip == CODE + 600 * len(one) + 1


def test_state_that_unicorn_cannot_serve_fails_the_run_and_not_the_process(guest: Guest) -> None:
    start(guest, bytes.fromhex("cd80"), user=True, tr=Segment(0x38, 0xC000, 0x67, 0x8200))

    assert guest.run() is ExitReason.FAILED
    assert "tss" in guest.rem.failure
    start(guest, HLT)
    assert guest.run() is ExitReason.HALTED


def test_interrupt_in_ring_3_with_the_task_register_of_reset_works(guest: Guest) -> None:
    start(guest, bytes.fromhex("cd80"), user=True, tr=Segment(0, 0, 0xFFFF, 0x8B00))
    guest.ram.write(4, struct.pack("<II", 0x7F00, 0x10))

    assert guest.halt().gpr[4] == 0x7F00 - 24
    assert guest.rem.get_state().tr.attributes == 0x8B00


WHILE_RUNNING: dict[str, Callable[[Rem], object]] = {
    "run": lambda rem: rem.run(),
    "get_state": lambda rem: rem.get_state(),
    "set_state": lambda rem: rem.set_state(CpuState()),
    "reset": lambda rem: rem.reset(),
    "init": lambda rem: rem.init(),
    "close": lambda rem: rem.close(),
}
EMT_ONLY = WHILE_RUNNING | {
    "map_ram": lambda rem: rem.map_ram(0, 0x1000, 0x1000, None),
    "unmap": lambda rem: rem.unmap(0, 0x1000),
    "invalidate": lambda rem: rem.invalidate(0, 0x1000),
    "dirty_pages": lambda rem: rem.dirty_pages(0, 0x1000),
    "set_ports": lambda rem: rem.set_ports([]),
    "set_mmio": lambda rem: rem.set_mmio([]),
    "a20": lambda rem: rem.a20(False),
    "set_deadline": lambda rem: rem.set_deadline(1),
}


@pytest.mark.parametrize("name", WHILE_RUNNING)
def test_call_that_a_handler_must_not_make_is_refused_and_the_guest_goes_on(guest: Guest, name: str) -> None:
    class Calls(Device):
        def read(self, offset: int, size: int) -> int:
            WHILE_RUNNING[name](guest.rem)
            return 0

    guest.rem.set_ports([Calls().row(0x80, 1)])
    guest.long_mode(bytes.fromhex("e480 f4"))

    assert guest.halt().gpr[0] == 0xFF
    assert isinstance(guest.host.failures[0][4], RuntimeError)
    assert "while the engine runs" in str(guest.host.failures[0][4])


@pytest.mark.parametrize("name", EMT_ONLY)
def test_call_of_another_thread_while_the_guest_runs_is_refused(guest: Guest, name: str) -> None:
    guest.long_mode(bytes.fromhex("ebfe"))  # jmp $
    refusals: list[Exception] = []

    def call() -> None:
        try:
            while not refusals:  # until the guest runs
                guest.rem.dirty_pages(0, 0x1000)
        except RuntimeError:
            pass
        try:
            EMT_ONLY[name](guest.rem)
        except RuntimeError as error:
            refusals.append(error)
        guest.rem.kick()

    thread = threading.Thread(target=call)
    thread.start()
    reason = guest.run(60)
    thread.join()

    assert reason is ExitReason.KICKED
    assert "while the engine runs" in str(refusals[0])


@pytest.mark.parametrize("name", EMT_ONLY)
def test_call_after_close_is_refused_or_has_no_effect(engine: str, name: str) -> None:
    guest = Guest(engine=engine)
    guest.close()

    if name == "close":
        guest.rem.close()
    else:
        with pytest.raises(RuntimeError, match="closed"):
            EMT_ONLY[name](guest.rem)
    for harmless in (guest.rem.kick, guest.rem.nmi, lambda: guest.rem.interrupt(True)):
        harmless()


@pytest.mark.parametrize("answer", [None, "1", 1.0, b"", [], object()])
def test_handler_whose_answer_is_no_integer_reads_ones(guest: Guest, answer: object) -> None:
    class Wrong(Device):
        def read(self, offset: int, size: int) -> int:
            return answer  # type: ignore[return-value]

    guest.rem.set_ports([Wrong().row(0x80, 1)])
    guest.long_mode(bytes.fromhex("e480 f4"))

    assert guest.halt().gpr[0] == 0xFF
    assert isinstance(guest.host.failures[0][4], TypeError)


@pytest.mark.parametrize("answer", [-1, 1 << 64, (1 << 200) + 0x1FF, 0x1FF])
def test_handler_whose_answer_does_not_fit_is_masked(guest: Guest, answer: int) -> None:
    guest.rem.set_ports([Device(answer).row(0x80, 1)])
    guest.long_mode(bytes.fromhex("e480 f4"))

    assert guest.halt().gpr[0] == answer & 0xFF
    assert guest.host.failures == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), RecursionError()])
def test_handler_that_raises_anything_reads_ones_and_the_guest_goes_on(
    guest: Guest, error: BaseException
) -> None:
    class Raises(Device):
        def read(self, offset: int, size: int) -> int:
            raise error

    guest.rem.set_ports([Raises().row(0x80, 1)])
    guest.long_mode(bytes.fromhex("e480 f4"))

    assert guest.halt().gpr[0] == 0xFF
    assert guest.host.failures[0][4] is error


def test_handler_outlives_the_engine(engine: str) -> None:
    guest = Guest(engine=engine)
    device = Device()
    guest.rem.set_ports([device.row(0x80, 1)])
    guest.rem.set_mmio([device.row(0xFEB0_0000, 0x1000)])
    guest.long_mode(bytes.fromhex("e680 f4"))
    guest.halt()
    row = device.row(0x80, 1)

    guest.close()
    gc.collect()

    row.write(0, 1, 2)
    assert device.calls == [("write", 0, 1, 0), ("write", 0, 1, 2)]
    with pytest.raises(RuntimeError, match="closed"):
        guest.rem.run()


def test_handler_that_holds_the_last_reference_to_the_engine_is_collected(engine: str) -> None:
    import weakref

    guest = Guest(engine=engine)

    class Holds(Device):
        engine = guest.rem

    device = Holds()
    guest.rem.set_ports([device.row(0x80, 1)])
    died = weakref.ref(device)
    guest.host.rem = None

    del guest, device, Holds
    gc.collect()

    assert died() is None


FOREIGN = """
import sys
sys.path[:0] = {path!r}
import unicorn
from unicorn.x86_const import UC_X86_REG_EAX

def emulator():
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    uc.mem_map(0x1000, 0x2000)
    uc.mem_write(0x1000, bytes.fromhex("b805000000 a300180000 0305001800009090"))
    return uc

def check(uc):
    uc.reg_write(UC_X86_REG_EAX, 0)
    uc.emu_start(0x1000, 0x1010)
    assert uc.reg_read(UC_X86_REG_EAX) == 10

before = emulator()
check(before)
uc = emulator()

from rem_guest import Device, Guest
guest = Guest(engine={engine!r})
check(before)

class Uses(Device):
    def write(self, offset, size, value):
        check(before)
        check(uc)
        check(emulator())

device = Uses()
guest.rem.set_ports([device.row(0x80, 1)])
guest.long_mode(bytes.fromhex("b9 0a000000 e680 ffc9 75fa f4"))
state = guest.halt()
assert state.gpr[1] == 0 and not guest.host.failures, guest.host.failures
guest.close()
check(before)
check(emulator())
print("fine")
"""


def test_engine_made_after_unicorn_was_used_runs_beside_it(engine: str) -> None:
    program = FOREIGN.format(path=sys.path, engine=engine)

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert (result.stdout, result.returncode) == ("fine\n", 0), result.stderr
