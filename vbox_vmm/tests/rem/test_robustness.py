"""Whatever the guest executes and whoever else uses unicorn, the process goes on."""

from __future__ import annotations

import gc
import random
import struct
import subprocess
import sys
import time

import pytest
from rem_guest import CODE, HLT, RAM_SIZE, STUBS, Device, Guest
from rem_guest32 import CODE16, DATA16, start, start_v86

from vbox_pdm.engine import CpuState, ExitReason, Segment

SECONDS = 0.6
LONG_SECONDS = 67
"""Of random code for each mode; the long ones are ten minutes together."""
MODES = ["real", "16", "32", "32 user", "pae", "v86", "long", "long user", "watched"]


class Noise(Device):
    """Answers reads at random."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng

    def read(self, offset: int, size: int) -> int:
        return self.rng.getrandbits(size * 8)

    def write(self, offset: int, size: int, value: int) -> None:
        pass

    adapted_read, adapted_write = read, write


def state_of(guest: Guest, mode: str, code: bytes, rng: random.Random) -> CpuState:
    flags = rng.getrandbits(22) & 0x254FD5 | 2
    if mode == "v86":
        return start_v86(guest, code, iopl=rng.choice([0, 3]))
    if mode == "real":
        guest.real_mode(code)
        for vector in range(256):
            guest.ram.write(vector * 4, struct.pack("<HH", STUBS + (vector & 15) * 16, 0))
        return guest.rem.get_state()
    if mode in ("long", "long user", "watched"):
        state = guest.long_mode(code, user=mode == "long user", rflags=flags)
        if mode == "watched":
            control = 0x4FF | rng.getrandbits(16) << 16
            state.dr = [0x8000, 0x9000, CODE + 3, 0xEFF0, 0, 0, 0xFFFF0FF0, control]
        return state
    state = start(guest, code, user=mode == "32 user", rflags=flags)
    if mode == "16":
        state.cs, state.ss = CODE16, DATA16
    if mode == "pae":
        state.cr0, state.cr3, state.cr4 = 0x80000031, 0x300000, 0x20
        guest.ram.write(0x300000, struct.pack("<4Q", 0x301001, 0, 0, 0))
        guest.ram.write(0x301000, struct.pack("<4Q", 0x83, 0x200083, 0x400083, 0x83))
    return state


def random_code(rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return rng.randbytes(256)
    starts = (
        *(b"\x0f", b"\x66\x0f", b"\xf3\x0f", b"\xf2\x0f", b"\x0f\x38", b"\x0f\x01", b"\x0f\xc7", b"\x0f\xae"),
        *(
            b"\x66\x0f\x38",
            b"\x66\x0f\x3a",
            b"\x66\x0f\x3a\x61",
            b"\x66\x48\x0f\x3a\x60",
            b"\xc4",
            b"\xcf",
            b"\xca",
        ),
        *(b"\xd9", b"\xdf", b"\x0f\x22", b"\x0f\x23", b"\x8e", b"\xf3", b"\xcd", b"\x0f\x00", b""),
        b"\xb9\x80\x00\x00\xc0\x0f\x30",  # wrmsr of EFER
    )
    return b"".join(rng.choice(starts) + rng.randbytes(rng.randrange(1, 5)) for _ in range(60))


@pytest.mark.parametrize("mode", MODES)
def test_random_code_neither_crashes_nor_hangs(guest: Guest, mode: str) -> None:
    run_random_code(guest, mode, random.Random(mode), SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_random_code_for_long_neither_crashes_nor_hangs(guest: Guest, mode: str) -> None:
    run_random_code(guest, mode, random.Random(f"long {mode}"), LONG_SECONDS)


def run_random_code(guest: Guest, mode: str, rng: random.Random, seconds: float) -> None:
    noise = Noise(rng)
    guest.rem.set_ports([noise.row(0, 0x10000)])
    guest.rem.set_mmio([noise.row(0x400000, 0x100000), noise.row(0xFEB0_0000, 0x1000)])
    pristine = guest.ram.read(0, RAM_SIZE)
    values = (0x10000, 0xFFF8, 0x9FFE, 0x3FFFF0, 0x400000, 0, 8, 0x18, 0x40)
    reasons = set()
    stop = time.process_time() + seconds
    while time.process_time() < stop:
        guest.ram.write(0, pristine)
        guest.rem.invalidate(0, RAM_SIZE)
        state = state_of(guest, mode, random_code(rng), rng)
        for number in range(16):
            if number != 4 or rng.random() < 0.2:
                state.gpr[number] = rng.choice((rng.getrandbits(64), rng.randrange(0x10000), *values))
        guest.host.vectors = [rng.randrange(256) for _ in range(3)]
        guest.rem.interrupt(rng.random() < 0.3)
        if rng.random() < 0.1:
            guest.rem.nmi()
        guest.rem.set_state(state)
        for _ in range(3):
            begin = time.monotonic()
            reason = guest.run(0.002)
            assert time.monotonic() - begin < 3
            assert reason is not ExitReason.FAILED, guest.rem.failure
            reasons.add(reason)

    assert {ExitReason.KICKED, ExitReason.HALTED} <= reasons
    assert guest.host.failures == []
    guest.ram.write(0, pristine)
    guest.rem.invalidate(0, RAM_SIZE)
    guest.long_mode(HLT)
    assert guest.halt().rip == CODE + 1


@pytest.mark.parametrize("length", [1 << 31, 1 << 63, 1 << 32, 0xFFFF_FFFF_8000_0000, 2**64 - 1])
@pytest.mark.parametrize("code", ["660f3a61c1{}", "660f3a60c1{}", "66480f3a61c1{}", "66480f3a60c1{}"])
@pytest.mark.parametrize("control", ["00", "01", "0c", "0d", "48", "7f"])
def test_string_comparison_of_any_length_stays_within_its_operands(
    guest: Guest, code: str, control: str, length: int
) -> None:
    guest.long_mode(bytes.fromhex(code.format(control)) + HLT, rax=length, rdx=length)

    state = guest.halt()

    assert (state.gpr[0], state.gpr[2]) == (length, length)


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
