"""The engine contract: what EM asks of whatever executes guest code.

An engine (REM on Unicorn, later HM on KVM) fills `Engine`; the kernel fills `EngineHost`.
An engine knows nothing of devices: it sees RAM slots, two exit tables, one interrupt line and
one deadline.  All methods are called on the EMT (the thread that runs the guest) unless the
docstring says otherwise.

Exit table: the resolved handlers of all mapped port and MMIO regions.  An access looks its row
up by address and calls the handler; there is no hook, no search in Python, no logging on the way.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from attrs import define, field, frozen

ReadHandler = Callable[[int, int], int]
"""(offset, size) -> value; size in bytes (ports 1, 2, 4; MMIO 1, 2, 4, 8)."""
WriteHandler = Callable[[int, int, int], None]
"""(offset, size, value)."""
ReadStringHandler = Callable[[int, int, int], bytes]
"""(offset, size, count) -> the next 1..count items of `size` bytes, as so many reads would have given
them; nothing when the next item must be read by itself."""
WriteStringHandler = Callable[[int, int, bytes], int]
"""(offset, size, items) -> how many bytes of `items` were taken, in whole items, as so many writes would
have been; 0 when the next item must be written by itself."""

ALL_SIZES = 1 | 2 | 4 | 8


@frozen(eq=False)
class Exit:
    """One row of an exit table: `size` ports or bytes from `first` on, served by resolved handlers.

    An access of `n` bytes goes straight to `read` and `write` when `n & direct`, it lies wholly in
    the row and (for MMIO) is naturally aligned.  Any other access inside the row goes to
    `adapted_read` and `adapted_write`, which apply the region's width policy.  An access that
    crosses the end of a row is split into bytes by the engine, each looked up on its own.
    Handlers receive `address - first + start` as offset.  A value wider than the access is masked.
    """

    first: int
    size: int
    read: ReadHandler
    write: WriteHandler
    adapted_read: ReadHandler
    adapted_write: WriteHandler
    direct: int = ALL_SIZES
    start: int = 0
    owner: object = None
    """Opaque to the engine; handed back in `EngineHost.handler_failed`."""
    read_string: ReadStringHandler | None = None
    write_string: WriteStringHandler | None = None
    """For REP INS and REP OUTS of a size in `direct`: many items in one call."""
    answers: memoryview | None = None
    """Accesses that go straight to `read` may be answered from these bytes, at their offset, instead."""
    keeps: memoryview | None = None
    """Accesses that go straight to `write` may be carried out on these bytes instead."""


class ExitReason(enum.Enum):
    """Why `Engine.run` came back."""

    KICKED = "kicked"  # kick() or the deadline; nothing is wrong
    HALTED = "halted"  # HLT retired; RIP is behind it
    TRIPLE_FAULT = "triple fault"  # and again from each run, until reset, init or set_state
    FAILED = "failed"  # the engine cannot go on; Engine.failure says why

    __hash__ = object.__hash__  # counted at each exit: Enum's own is slow


@define
class Segment:
    """One segment register with its hidden part.  `attributes` is the descriptor's high dword,
    bits 8..15 (type, S, DPL, P) and 20..23 (AVL, L, D/B, G), in place."""

    selector: int = 0
    base: int = 0
    limit: int = 0xFFFF
    attributes: int = 0x9300


_FPU = b"\x7f\x03".ljust(24, b"\0") + b"\x80\x1f\0\0\xff\xff".ljust(488, b"\0")
"""FXSAVE image of an FPU that was initialised: all exceptions are masked, the x87's and those of SSE."""


@define
class CpuState:
    """The whole architectural state of one vCPU at an instruction boundary.

    `gpr` is RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15.  `fpu` is the 512-byte FXSAVE image
    (64-bit form).  `msr` maps MSR numbers to values for those that the engine keeps.
    `interrupt_shadow` holds after STI and MOV SS for one instruction.  `nmi_blocked` holds from the
    delivery of an NMI to the next IRET; `nmi_pending` is an edge that is not delivered yet.
    `ignores_fpu_errors`: IGNNE# is asserted, see `Engine.ignore_fpu_errors`.
    `msr[0x3B]` (IA32_TSC_ADJUST) is the guest's own offset of the TSC (see `Engine.set_tsc`), whether
    or not CPUID offers the MSR to the guest.
    """

    gpr: list[int] = field(factory=lambda: [0] * 16)
    rip: int = 0xFFF0
    rflags: int = 2
    es: Segment = field(factory=Segment)
    cs: Segment = field(factory=lambda: Segment(0xF000, 0xFFFF0000, 0xFFFF, 0x9B00))
    ss: Segment = field(factory=Segment)
    ds: Segment = field(factory=Segment)
    fs: Segment = field(factory=Segment)
    gs: Segment = field(factory=Segment)
    ldtr: Segment = field(factory=lambda: Segment(attributes=0x8200))
    tr: Segment = field(factory=lambda: Segment(attributes=0x8B00))
    gdtr: tuple[int, int] = (0, 0xFFFF)  # base, limit
    idtr: tuple[int, int] = (0, 0xFFFF)
    cr0: int = 0x60000010
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    dr: list[int] = field(factory=lambda: [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400])
    fpu: bytes = _FPU
    msr: dict[int, int] = field(factory=dict)
    interrupt_shadow: bool = False
    halted: bool = False
    nmi_blocked: bool = False
    nmi_pending: bool = False
    ignores_fpu_errors: bool = False


class EngineHost(Protocol):
    """What the kernel offers to an engine.  Called on the EMT, with the GIL held."""

    def acknowledge_interrupt(self) -> int:
        """The vector of the interrupt that the CPU takes now (bits 0 to 7), or -1 when the request
        went away.  The engine then carries on as if the line had been low; while the line stays
        high it asks again at later boundaries.  Looked up at each call: it may be an attribute that
        changes."""

    def acknowledge_failed(self, error: BaseException) -> None:
        """`acknowledge_interrupt` raised or returned what is not an int: that counts as -1.  Must
        not raise."""

    def attend(self) -> bool:
        """The guest was kicked (by `kick` or the deadline) and stands between two instructions: do what can
        be done without leaving it, which is all that a handler may do; True: the guest must be left.  An
        engine need not ask; one that counts instructions must not.  Looked up at each call.  Must not
        raise."""

    def fpu_error(self) -> None:
        """FERR#: with CR0.NE clear an instruction of the x87 that waits has met an exception that is not
        masked.  An interrupt that comes of this is taken before the instruction; without one the guest goes
        on.  Not said again before the exception was cleared.  Must not raise."""

    def handler_failed(
        self, owner: object, offset: int, size: int, value: int | None, error: BaseException
    ) -> None:
        """A handler raised or returned what is not an int.  `value` is None for a read (which
        answers all ones); a write is dropped.  Must not raise."""


class Engine(Protocol):
    """One vCPU's executor.  Created in the power-on state (see `reset`)."""

    failure: str
    """After `ExitReason.FAILED`: what happened, for the user."""
    attends: bool
    """Whether it asks `EngineHost.attend` when it was kicked, before or within `run`, unless it counts
    instructions."""

    def map_ram(self, address: int, size: int, host: int, write_host: int | None) -> None:
        """Back guest-physical [address, address+size) by host memory at `host`; page aligned.

        `write_host` is where stores go: `host` itself for RAM; None drops them (ROM); another host
        address of equal size serves "reads from ROM, writes to the RAM below".  Replaces whatever
        was there; callable while the guest runs (from a handler on the EMT).
        """

    def unmap(self, address: int, size: int) -> None:
        """[address, address+size) becomes I/O: looked up in the MMIO table, else all ones."""

    def set_ports(self, rows: Sequence[Exit]) -> None:
        """Replace the port table.  Rows are sorted and do not overlap; 0 <= port <= 0xFFFF."""

    def set_mmio(self, rows: Sequence[Exit]) -> None:
        """Replace the MMIO table.  Rows are sorted and do not overlap; any address, any size."""

    def invalidate(self, address: int, size: int) -> None:
        """Memory at [address, address+size) was written behind the CPU's back (DMA, a loader):
        translated code there is stale."""

    def dirty_pages(self, address: int, size: int) -> bytes:
        """One byte per 4 KiB page of [address, address+size): 1 when the CPU may have stored to it
        since the last call for that page; the log is cleared.  The first call for a range starts
        logging and answers all ones."""

    def interrupt(self, level: bool) -> None:
        """The INTR line.  The engine asks `acknowledge_interrupt` at the next boundary where IF
        and the interrupt shadow allow.  Any thread."""

    def nmi(self) -> None:
        """One NMI edge.  Any thread."""

    def ignore_fpu_errors(self) -> None:
        """IGNNE#: instructions of the x87 go on in spite of the exception that `EngineHost.fpu_error` told
        of, until it was cleared; no effect when there is none."""

    def a20(self, enabled: bool) -> None:
        """Mask (False) or pass (True) physical address bit 20."""

    def set_tsc(self, ticks: int, host_ns: int, hz: int, limit: int) -> None:
        """TSC = min(ticks + (monotonic_ns - host_ns) * hz / 1e9, limit), plus the guest's own
        offset from writes to IA32_TSC; never below what was read before (after a reset it may)."""

    def set_deadline(self, host_ns: int) -> None:
        """Kick the guest out at this time.monotonic_ns(); 0 for no deadline.  May be called while
        `run` is in a handler."""

    def kick(self) -> None:
        """Make the current or the next `run` return KICKED soon (microseconds).  Sticky until a
        `run` has returned for it.  Any thread; also from handlers."""

    def run(self) -> ExitReason:
        """Execute guest code until something of `ExitReason` happens.  Releases the GIL.

        A halted CPU is HALTED again at once, unless INTR with IF set or an NMI can wake it.
        RuntimeError when called within a handler, or after `close`.
        """

    def get_state(self) -> CpuState:
        """Everything, at an instruction boundary.  RuntimeError within a handler."""

    def set_state(self, state: CpuState) -> None:
        """Load everything; translations and TLB are flushed.  RuntimeError within a handler."""

    def reset(self) -> None:
        """Hard reset of the CPU: architectural power-on values; memory and tables stay.
        RuntimeError within a handler: a device asks the kernel, which resets after `run`."""

    def init(self) -> None:
        """INIT (soft reset): as reset, but FPU, MTRR and the like survive (SDM 3A table 9-1).
        RuntimeError within a handler."""

    def close(self) -> None:
        """Free everything; no other call may follow."""


@runtime_checkable
class InstructionCounter(Protocol):
    """What an engine may offer besides: executed instructions as a clock, for runs that repeat exactly.

    Each iteration of a repeated string instruction counts, and the look that finds no more to do; an
    instruction that faults does not count.  At equal counts the same guest is in the same state, whatever
    the engine has cached, and whoever kicked it.
    """

    def count_instructions(self, ns: int, executed: int, seed: int) -> None:
        """Count from now on, beginning with `executed`; there is no stop yet.  `set_tsc` then goes by this
        clock, `ns` for each instruction, in place of the host's, and what RDRAND gives follows from `seed`
        and the count.  RuntimeError within a handler."""

    def executed(self) -> int:
        """The count; within a handler without the instruction that is being executed."""

    def stop_at(self, executed: int) -> None:
        """Make `run` return KICKED before the first block of code that would begin at this count or a higher
        one; it replaces the last.  May be called while `run` is in a handler."""


class EngineFactory(Protocol):
    """Creates an engine for one vCPU."""

    def __call__(self, host: EngineHost, cpu: CpuModel) -> Engine: ...


@frozen
class CpuModel:
    """What CPUID says.  `name` is the engine's own name for a model; `without` and `with_` are
    CPUID feature names in the field's usual spelling ("apic", "nx", "sse4_1")."""

    name: str = "default"
    with_: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    translation_buffer: int = 64 << 20
    """Bytes for translated code, where the engine translates."""


@frozen(eq=False)
class EngineType:
    """What `vbox_register_engines(register)` registers."""

    name: str
    create: EngineFactory
    usable: Callable[[], str | None]
    """None when this host can run it, else the reason with the remedy."""
    summary: str = ""
    preference: int = 0
    """The usable engine with the highest preference is the default."""
