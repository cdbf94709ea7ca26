"""The structures that thunks and Python look at: Unicorn's, whose offsets `layout` has, and our own.

`Machine` is what thunks know of one engine.  It belongs to the thread that runs the guest, except for
`Env.attention`, `kicked`, `irq` and `nmi`, which any thread may set.
"""

from __future__ import annotations

from itertools import count

from .language import Array, Field, Pointer, Struct, i32, i64, u8, u16, u32, u64
from .layout import (
    CC_EXEC_INTERRUPT,
    CC_TLB_FILL,
    CPU_CC,
    CPU_CFLAGS_NEXT,
    CPU_CREATED,
    CPU_EXCEPTION_INDEX,
    CPU_EXIT_REQUEST,
    CPU_HALTED,
    CPU_INTERRUPT_REQUEST,
    CPU_STOP,
    CPU_STOPPED,
    CPU_UC,
    DESC_IOTLB,
    DESC_LARGE_ADDR,
    DESC_LARGE_MASK,
    DESC_USED,
    DESC_VINDEX,
    DESC_WINDOW_MOST,
    ENV_CC_DST,
    ENV_CC_OP,
    ENV_CC_SRC,
    ENV_CC_SRC2,
    ENV_CPUID_VENDOR,
    ENV_CPUID_VERSION,
    ENV_CR,
    ENV_CSTAR,
    ENV_DF,
    ENV_DR,
    ENV_EFER,
    ENV_EFLAGS,
    ENV_EIP,
    ENV_EXCEPTION_IS_INT,
    ENV_FEATURES,
    ENV_FMASK,
    ENV_FPSTT,
    ENV_FPUC,
    ENV_FPUS,
    ENV_FT0,
    ENV_HFLAGS,
    ENV_HFLAGS2,
    ENV_LSTAR,
    ENV_MP_STATE,
    ENV_MXCSR,
    ENV_OLD_EXCEPTION,
    ENV_REGS,
    ENV_STAR,
    ENV_SYSENTER_CS,
    ENV_SYSENTER_EIP,
    ENV_SYSENTER_ESP,
    ENV_TSC_AUX,
    ENV_UC,
    ENV_V_TPR,
    ENV_X87_ERROR,
    FAST_MASK,
    FAST_TABLE,
)


class Env(Struct):
    """CPUX86State."""

    regs = Array(u64, ENV_REGS)
    eip = Field(u64, ENV_EIP)
    eflags = Field(u64, ENV_EFLAGS)
    cc_dst = Field(u64, ENV_CC_DST)
    cc_src = Field(u64, ENV_CC_SRC)
    cc_src2 = Field(u64, ENV_CC_SRC2)
    cc_op = Field(u32, ENV_CC_OP)
    df = Field(i32, ENV_DF)
    hflags = Field(u32, ENV_HFLAGS)
    hflags2 = Field(u32, ENV_HFLAGS2)
    cr = Array(u64, ENV_CR)
    dr = Array(u64, ENV_DR)
    efer = Field(u64, ENV_EFER)
    fpstt = Field(u32, ENV_FPSTT)
    fpus = Field(u16, ENV_FPUS)
    fpuc = Field(u16, ENV_FPUC)
    met = Field(u8, ENV_FT0 + 10)  # what thunks of the x87 tell each other is where nothing else is
    form = Field(u8, ENV_FT0 + 11)
    x87_error = Field(u8, ENV_X87_ERROR)
    mxcsr = Field(u32, ENV_MXCSR)
    sysenter_cs = Field(u32, ENV_SYSENTER_CS)
    sysenter_esp = Field(u64, ENV_SYSENTER_ESP)
    sysenter_eip = Field(u64, ENV_SYSENTER_EIP)
    star = Field(u64, ENV_STAR)
    lstar = Field(u64, ENV_LSTAR)
    cstar = Field(u64, ENV_CSTAR)
    fmask = Field(u64, ENV_FMASK)
    tsc_aux = Field(u64, ENV_TSC_AUX)
    exception_is_int = Field(u32, ENV_EXCEPTION_IS_INT)
    old_exception = Field(i32, ENV_OLD_EXCEPTION)
    tpr = Field(u8, ENV_V_TPR)
    vendor = Field(u32, ENV_CPUID_VENDOR)
    signature = Field(u32, ENV_CPUID_VERSION)
    features = Array(u64, ENV_FEATURES)
    attention = Field(u32, ENV_MP_STATE)
    uc = Field(u64, ENV_UC)


class CpuClass(Struct):
    """CPUClass; each engine has its own."""

    tlb_fill = Field(u64, CC_TLB_FILL)
    exec_interrupt = Field(u64, CC_EXEC_INTERRUPT)


class Cpu(Struct):
    """CPUState."""

    created = Field(u8, CPU_CREATED)
    stop = Field(u8, CPU_STOP)
    stopped = Field(u8, CPU_STOPPED)
    exit_request = Field(u8, CPU_EXIT_REQUEST)
    cflags_next = Field(u32, CPU_CFLAGS_NEXT)
    interrupt_request = Field(u32, CPU_INTERRUPT_REQUEST)
    halted = Field(u32, CPU_HALTED)
    exception_index = Field(i32, CPU_EXCEPTION_INDEX)
    uc = Field(u64, CPU_UC)
    class_ = Pointer(CpuClass, CPU_CC)


class Segment(Struct):
    """SegmentCache."""

    selector = Field(u32, 0)
    base = Field(u64, 8)
    limit = Field(u32, 16)
    flags = Field(u32, 20)


SEGMENT_SIZE = 24


class TlbEntry(Struct):
    """CPUTLBEntry, with the physical address that Unicorn added."""

    read = Field(u64, 0)
    write = Field(u64, 8)
    code = Field(u64, 16)
    paddr = Field(u64, 24)
    addend = Field(u64, 32)


TLB_ENTRY_SIZE = 64


class IoTlbEntry(Struct):
    """CPUIOTLBEntry."""

    address = Field(u64, 0)
    attributes = Field(u32, 8)


IO_TLB_ENTRY_SIZE = 16


class TlbFast(Struct):
    """CPUTLBDescFast: the table of one MMU mode."""

    mask = Field(u64, FAST_MASK)
    table = Field(u64, FAST_TABLE)


class TlbDesc(Struct):
    """CPUTLBDesc: the rest of what there is for one MMU mode."""

    large_address = Field(u64, DESC_LARGE_ADDR)
    large_mask = Field(u64, DESC_LARGE_MASK)
    window_most = Field(u64, DESC_WINDOW_MOST)
    used = Field(u64, DESC_USED)
    victim_index = Field(u64, DESC_VINDEX)
    io = Field(u64, DESC_IOTLB)


class PageDesc(Struct):
    """What the translator knows of one host page."""

    first_block = Field(u64, 0)


PAGE_DESC_SIZE = 24


# --- our own --------------------------------------------------------------------------------------


class Slot(Struct):
    """Guest-physical [start, end) at `host`; stores go to `write_host`, 0 drops them; `log` has a byte a
    page."""

    start = Field(u64, 0)
    end = Field(u64, 8)
    host = Field(u64, 16)
    write_host = Field(u64, 24)
    log = Field(u64, 32)


SLOT_SIZE = 40


class Replacement(Struct):
    """A helper of Unicorn's, and what translated code calls instead.  Port helpers have more: what checks the
    permission of INS and OUTS, and what serves their repeated forms for each size of address."""

    original = Field(u64, 0)
    ours = Field(u64, 8)
    check = Field(u64, 16)
    bulk = Array(u64, 24)
    places = (8, 16, 24, 32, 40)


REPLACEMENT_SIZE = 48


class CpuidRow(Struct):
    leaf = Field(u32, 0)
    subleaf = Field(u32, 4)
    value = Array(u32, 8)


CPUID_ROW_SIZE = 24

_next = count(0, 8).__next__


class Machine(Struct):
    """One engine."""

    number = Field(u32, _next())  # for callbacks
    uc = Field(u64, _next())
    cpu = Pointer(Cpu, _next())
    env = Pointer(Env, _next())
    tcg = Field(u64, _next())

    kicked = Field(u8, _next())
    irq = Field(u8, _next())
    nmi = Field(u8, _next())
    halted = Field(u8, _next())
    shut_down = Field(u8, _next())
    delivering = Field(i64, _next())  # the vector on its way through the IDT, or -1
    is_program = Field(u32, _next())  # ... because of an INT n
    interrupt_eip = Field(u64, _next())  # where the INT n stands that is being delivered
    abort_format = Field(u64, _next())  # what Unicorn gave up with

    slots = Field(u64, _next())
    slot_count = Field(u64, _next())
    slot_hit = Field(u64, _next())
    fast_stores = Field(u8, _next())
    filling_for_store = Field(u8, _next())
    region = Field(u64, _next())  # a MemoryRegion for Unicorn's slow paths: memory, all rights

    exit_label = Field(u64, _next())
    replaced = Field(u64, _next())
    replaced_count = Field(u64, _next())

    string_ports = Field(u64, _next())  # a byte a port: bits 0 to 2 sizes to read in bulk, 4 to 6 to write
    transfer = Field(u64, _next())  # a page, for what a string handler gives

    watching = Field(u8, _next())  # DR7 has data breakpoints: loads and stores look
    stepping = Field(u8, _next())  # the instruction at `step_at` runs alone
    step_at = Field(u64, _next())
    debug_hits = Field(u64, _next())  # DR6 bits of the instruction that has just run

    timer = Field(u32, _next())  # a timerfd
    timer_name = Field(u64, _next())
    timer_quit = Field(u8, _next())
    inside = Field(u8, _next())  # a deadline that passes while no guest runs is for the next run
    expired = Field(u8, _next())

    tsc_ticks = Field(u64, _next())
    tsc_host_ns = Field(u64, _next())
    tsc_scale = Field(u64, _next())
    tsc_limit = Field(u64, _next())
    tsc_last = Field(u64, _next())
    tsc_offset = Field(u64, _next())

    cpuid = Field(u64, _next())
    cpuid_count = Field(u64, _next())
    size = _next()
