"""Snippets of user-mode code leave on REM what they leave on the host's CPU.

The host runs them in a program of its own (native_snippets.c).  Compared are the registers, the defined
flags, the XMM registers and 256 bytes of memory; what is known to differ is listed in
docs/rem-deviations.md.
"""

from __future__ import annotations

import collections
import platform
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from math import isnan
from pathlib import Path

import pytest
from attrs import evolve, frozen
from rem_guest import COMMON, HLT, Guest
from x86_forms import ALL_FLAGS, FORMS, Form

from vbox_pdm.engine import CpuModel
from vbox_vmm.rem.probe import NATIVE

CODE, DATA, STACK_TOP, WINDOW = 0x180000, 0x190000, 0x190800, 256
STATE_SIZE = 768
# an exception is a signal on the host
SIGNALS = {0: 8, 4: 11, 5: 11, 6: 4, 13: 11, 14: 11, 16: 8, 19: 8}
KNOWN = {
    **dict.fromkeys(("cmpxchg r32, r", "cmpxchg m32, r"), "CMPXCHG of 32 bits"),
    **dict.fromkeys(("cmpxchg8b", "cmpxchg16b"), "flags of CMPXCHG8B"),
    **dict.fromkeys(("blsi r32", "blsi m32", "blsi r64", "blsi m64"), "CF of BLSI"),
    **dict.fromkeys(("bzhi r32", "bzhi m32", "bzhi r64", "bzhi m64"), "BZHI"),
    **dict.fromkeys(("pdep r32",), "PDEP of 32 bits"),
    **dict.fromkeys(("bextr r32", "bextr m32", "bextr r64", "bextr m64"), "BEXTR"),
}
"""Forms that are left out, and the entry of docs/rem-deviations.md that says why."""

# of two NaNs, Unicorn takes the one with the larger fraction, SSE the first
ARITHMETIC = {
    f"{prefix} 0f {op} xmm, {x}".strip()
    for prefix in ("", "66", "f2", "f3")
    for op in ("58", "59", "5c", "5e", "d0")
    for x in ("xmm", "m128")
}

Native = Callable[[bytes], bytes]


@frozen
class Case:
    code: bytes
    gpr: tuple[int, ...]
    flags: int
    fpu: bytes
    data: bytes


@frozen
class Result:
    signal: int
    gpr: tuple[int, ...] = ()
    flags: int = 0
    mxcsr: int = 0
    xmm: bytes = b""
    data: bytes = b""


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the program that runs snippets on the host")
    if platform.machine() != "x86_64":
        pytest.skip("the host is no x86-64")
    program = tmp_path_factory.mktemp("native") / "snippets"
    source = Path(__file__).with_name("native_snippets.c")
    subprocess.run([compiler, "-O1", "-no-pie", "-o", program, source], check=True)

    def run(cases: bytes) -> bytes:
        return subprocess.run([program], input=cases, stdout=subprocess.PIPE, check=True).stdout

    return run


def host_features() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return {{"pni": "sse3"}.get(name, name) for name in line.split(":")[1].split()}
    return set()


def forms(deviation: str | None = None) -> list[Form]:
    """What the host has too: the forms that are as they should be, or those of one deviation."""
    offered = host_features()
    return [f for f in FORMS if KNOWN.get(f.name) == deviation and (not f.feature or f.feature in offered)]


# ---- what goes in


def number(rng: random.Random) -> int:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice((0, 1, 2**63, 2**64 - 1, 2**63 - 1, 0x80, 0x7FFF, 0x80000000, 0xFFFFFFFF))
    if kind == 1:
        return rng.getrandbits(rng.randrange(1, 65))
    if kind == 2:
        return struct.unpack("<Q", struct.pack("<d", rng.uniform(-1e6, 1e6)))[0]
    if kind == 3:
        return struct.unpack("<Q", struct.pack("<ff", rng.uniform(-1e3, 1e3), rng.uniform(-1, 1)))[0]
    return rng.getrandbits(64)


def memory(rng: random.Random) -> bytes:
    data = b""
    while len(data) < WINDOW:
        if rng.random() < 0.3:
            # an x87 number: normal, zero, infinite or not a number, never one that the CPU refuses
            exponent = rng.choice((0, 0x7FFF, 0x3FFF + rng.randrange(-70, 70), rng.randrange(1, 0x7FFF)))
            fraction = rng.choice((0, rng.getrandbits(63))) if exponent else 0
            one = fraction | (1 << 63 if exponent else 0)
            data += struct.pack("<QH6x", one, exponent | rng.getrandbits(1) << 15)
        else:
            data += struct.pack("<QQ", number(rng), number(rng))
    return data


def draw(rng: random.Random, chosen: Sequence[Form]) -> tuple[Case, list[bytes]]:
    parts = [form.assemble(rng) for form in chosen]
    gpr = [number(rng) for _ in range(16)]
    gpr[4], gpr[15] = STACK_TOP, DATA + WINDOW // 2
    fpu = bytearray(512)
    struct.pack_into("<HH", fpu, 0, 0x37F, 0)
    struct.pack_into("<II", fpu, 24, 0x1F80, 0xFFFF)
    fpu[160:416] = memory(rng)
    flags = rng.getrandbits(12) & ALL_FLAGS | 2
    return Case(b"".join(parts), tuple(gpr), flags, bytes(fpu), memory(rng)), parts


# ---- running


def on_host(native: Native, cases: Sequence[Case]) -> Iterator[Result]:
    request = b"".join(
        struct.pack("<I", len(case.code))
        + case.code
        + struct.pack("<17Q", *case.gpr, case.flags)
        + bytes(120)
        + case.fpu
        + case.data
        for case in cases
    )
    answer = native(request)
    size = STATE_SIZE + WINDOW
    assert len(answer) == size * len(cases)
    for at in range(0, len(answer), size):
        values = struct.unpack_from("<21Q", answer, at)
        fpu = answer[at + 256 : at + STATE_SIZE]
        yield result(values[20], values[:16], values[16], fpu, answer[at + STATE_SIZE : at + size])


def on_rem(guest: Guest, case: Case) -> Result:
    guest.ram.write(CODE, case.code + HLT)
    guest.ram.write(DATA, case.data)
    guest.rem.invalidate(CODE, 0x1000)
    state = guest.long_mode(b"", rip=CODE, rflags=case.flags, fpu=case.fpu, gpr=list(case.gpr))
    assert state.gpr[15] == DATA + WINDOW // 2
    state = guest.halt()
    signal = SIGNALS[guest.frame(state.gpr[4]).vector] if state.rip == COMMON + 1 else 0
    return result(signal, state.gpr, state.rflags, state.fpu, guest.ram.read(DATA, WINDOW))


def result(signal: int, gpr: Sequence[int], flags: int, fpu: bytes, data: bytes) -> Result:
    if signal:
        return Result(signal)

    mxcsr = struct.unpack_from("<I", fpu, 24)[0]
    return Result(0, tuple(gpr), flags & ALL_FLAGS, mxcsr, fpu[160:416], data)


def difference(a: Result, b: Result) -> str:
    lines = []
    for name in ("signal", "flags", "mxcsr"):
        if getattr(a, name) != getattr(b, name):
            lines.append(f"{name}: host {getattr(a, name):x}, REM {getattr(b, name):x}")
    for i, (x, y) in enumerate(zip(a.gpr, b.gpr, strict=False)):
        if x != y:
            lines.append(f"register {i}: host {x:x}, REM {y:x}")
    for name in ("xmm", "data"):
        x, y = getattr(a, name), getattr(b, name)
        for at in range(0, len(x) if len(x) == len(y) else 0, 16):
            if x[at : at + 16] != y[at : at + 16]:
                lines.append(f"{name}+{at:x}: host {x[at : at + 16].hex()}, REM {y[at : at + 16].hex()}")
    return "; ".join(lines)


def compare(
    native: Native, guest: Guest, rng: random.Random, known: Sequence[Form], rounds: int, length: int
) -> dict[str, int]:
    """Each form `rounds` times; how often each was run.  Fails with the forms that differ."""
    counts: collections.Counter[str] = collections.Counter()
    wrong: dict[str, str] = {}
    may_differ = not any(form.name in KNOWN for form in known)
    for _ in range(rounds):
        order = rng.sample(known, len(known))
        groups = [order[i : i + length] for i in range(0, len(order), length)]
        drawn = [draw(rng, group) for group in groups]
        for group, (case, parts), expected in zip(
            groups, drawn, list(on_host(native, [case for case, _ in drawn])), strict=True
        ):
            counts.update(form.name for form in group)
            if on_rem(guest, case) != expected:
                name, text, is_other_nan = first_difference(native, guest, group, case, parts)
                if not is_other_nan or not may_differ:
                    wrong.setdefault(name, text)
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in sorted(wrong.items()))
    return dict(counts)


def first_difference(
    native: Native, guest: Guest, group: Sequence[Form], case: Case, parts: Sequence[bytes]
) -> tuple[str, str, bool]:
    """Form, how it differs, and whether only by which of two NaNs it took."""
    prefixes = [
        Case(b"".join(parts[: i + 1]), case.gpr, case.flags, case.fpu, case.data) for i in range(len(parts))
    ]
    for form, part, prefix, expected in zip(
        group, parts, prefixes, list(on_host(native, prefixes)), strict=True
    ):
        got = on_rem(guest, prefix)
        if got != expected:
            other_nan = form.name in ARITHMETIC and all_nans(expected, got)
            return form.name, f"{part.hex()}: {difference(expected, got)}", other_nan
    return group[-1].name, "differs only sometimes", False


def all_nans(a: Result, b: Result) -> bool:
    """Whether nothing differs but NaNs in XMM registers."""
    if evolve(a, xmm=b"") != evolve(b, xmm=b""):
        return False
    for size, code in ((4, "<f"), (8, "<d")):
        lanes = [
            (x, y)
            for at in range(0, len(a.xmm), size)
            if (x := a.xmm[at : at + size]) != (y := b.xmm[at : at + size])
        ]
        if all(isnan(struct.unpack(code, value)[0]) for lane in lanes for value in lane):
            return True
    return False


@pytest.fixture
def guest(engine: str) -> Iterator[Guest]:
    """With the instructions that are not offered unless they are asked for, too."""
    guest = Guest(CpuModel(with_=("bmi1", "bmi2"), translation_buffer=2 << 20), engine)
    yield guest
    guest.close()


def test_forms_have_names_of_their_own() -> None:
    assert [name for name, n in collections.Counter(form.name for form in FORMS).items() if n > 1] == []
    assert set(KNOWN) <= {form.name for form in FORMS}


def test_snippets_leave_on_rem_what_they_leave_on_the_host(native: Native, guest: Guest) -> None:
    # Both engines have the same translator; that they call the same helpers, two rounds show.
    rounds = 6 if guest.engine == NATIVE else 2

    counts = compare(native, guest, random.Random(1), forms(), rounds, length=6)

    assert min(counts.values()) >= rounds


@pytest.mark.parametrize("deviation", sorted(set(KNOWN.values())))
def test_deviation_is_listed_and_is_still_one(native: Native, guest: Guest, deviation: str) -> None:
    page = Path(__file__).parents[3] / "docs/rem-deviations.md"
    affected = forms(deviation)
    if not affected:
        pytest.skip("the host has no such instruction")

    assert f"| {deviation} |" in page.read_text()
    with pytest.raises(AssertionError, match="host"):
        compare(native, guest, random.Random(1), affected, rounds=100, length=1)


@pytest.mark.long
def test_each_form_a_hundred_times_leaves_on_rem_what_it_leaves_on_the_host(
    native: Native, guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = compare(native, guest, random.Random(2), forms(), rounds=500, length=5)

    assert min(counts.values()) >= 100
    with capsys.disabled():
        print(f"\n{len(counts)} forms, {sum(counts.values())} runs")
        for name, count in sorted(counts.items()):
            print(f"{count:6} {name}")
