"""Class `Core`: what the native module has under this name, by ctypes and thunks.

Guest code runs in a call of `thunks.running.run`, without the GIL; `exits` has the ways back into Python.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from threading import get_ident
from typing import Any

from vbox_pdm.engine import EngineHost, Exit, ExitReason

from . import library, state
from .deadline import Deadline, kick
from .exits import Exits, attach, callbacks, detach
from .language import lib, u8, u32, u64
from .layout import (
    CC_DO_INTERRUPT,
    CC_EXEC_INTERRUPT,
    CC_RESET,
    CC_TLB_FILL_CPU,
    CPU_CC,
    CPU_ENV,
    CPU_ENV_PTR,
    CPU_ICOUNT_DECR,
    CPU_ICOUNT_DECR_PTR,
    ENV_FEATURE_WORDS,
    ENV_FPSTT,
    ENV_MISC_ENABLE,
    ENV_MTRR_FIXED,
    ENV_MTRR_VAR,
    ENV_PAT,
    ENV_SEGS,
    ENV_SYSENTER_CS,
    ENV_TSC_AUX,
    ENV_UC,
    ENV_XMM,
    ERROR_IGNORED,
    ERROR_TOLD,
    R_DX,
    REGION_PERMISSIONS,
    REGION_RAM,
    REGION_SIZE,
    TCG_UC,
    TSS_BUSY,
    UC_CPU,
    UC_L1_SHIFT,
    UC_L2_LEVELS,
    UC_MEMORY_MAPPING,
    UC_NESTED_LEVEL,
    UC_NO_EXIT_REQUEST,
    UC_STOP_INTERRUPT,
    UC_TCG,
    UC_USE_EXITS,
)
from .memory import Slots
from .structures import CPUID_ROW_SIZE, SEGMENT_SIZE, Cpu, CpuidRow, Env, Machine, Segment
from .thunks.memory import OUR_MACHINE, PAGE_SIZE
from .thunks.running import FAILED, PRIVATE_REQUEST, STOPPED, TRIPLE_FAULT

_UC_ARCH_X86, _UC_MODE_64, _UC_HOOK_INTR = 4, 8, 1
_UC_CTL_USE_EXITS = 4 | 1 << 26 | 1 << 30
_UC_CTL_TCG_BUFFER_SIZE = 13 | 1 << 26 | 1 << 30
_TR = 7
_U64 = (1 << 64) - 1

# What INIT leaves alone (SDM 3A table 9-1): x87 and SSE, MSRs, MTRRs; EFER is cleared.
_KEPT_BY_INIT = (
    (ENV_FPSTT, ENV_XMM + 32 * 64),
    (ENV_SYSENTER_CS, ENV_TSC_AUX + 8),
    (ENV_MISC_ENABLE, ENV_MISC_ENABLE + 8),
    (ENV_PAT, ENV_PAT + 8),
    (ENV_MTRR_FIXED, ENV_MTRR_VAR + 128),
)

_library: library.Library | None = None
_loading = threading.Lock()


def load(path: str) -> None:
    """Load libunicorn from this path and take it in hand; once for the process."""
    global _library
    with _loading:
        if _library is None:
            _library = library.load(Path(path), callbacks())


class Core:
    """One vCPU on Unicorn; see vbox_pdm.engine.Engine."""

    def __init__(
        self,
        host: EngineHost,
        reasons: tuple[ExitReason, ...],
        cpuid: Sequence[tuple[int, int, int, int, int, int]],
        features: Sequence[int],
        vendor: bytes,
        signature: int,
        translation_buffer: int,
        fast_stores: bool,
    ) -> None:
        self._closed = True  # until it is open
        self._runner = 0  # while running: the thread that may call what is not for any thread
        if _library is None or len(vendor) != 12:
            raise RuntimeError("load libunicorn first; a vendor has 12 letters")
        if len(features) > ENV_FEATURE_WORDS:
            raise ValueError("too many feature words")
        self.failure = ""
        self._reasons = reasons
        self._running = False
        self._a20 = True
        self._signature = signature
        self._library = _library
        # One piece of memory: the Machine, and what it points to.
        parts = (Machine.size, REGION_SIZE, 8 + PAGE_SIZE, 0x10000, len(cpuid) * CPUID_ROW_SIZE)
        self._memory = ctypes.create_string_buffer(sum(parts) + 16)
        at = (ctypes.addressof(self._memory) + 15) & ~15
        m = self._m = Machine(at)
        m.region = at + parts[0]
        m.transfer = m.region + parts[1] + 8
        m.string_ports = m.transfer + PAGE_SIZE
        m.cpuid = m.string_ports + parts[3]
        m.cpuid_count = len(cpuid)
        for number, (leaf, subleaf, *values) in enumerate(cpuid):
            row = CpuidRow(m.cpuid + number * CPUID_ROW_SIZE)
            row.leaf, row.subleaf = leaf, subleaf
            for i, value in enumerate(values):
                row.value[i] = value
        u8[m.region + REGION_RAM] = 1
        u32[m.region + REGION_PERMISSIONS] = 7
        m.fast_stores = fast_stores
        m.delivering = -1
        m.replaced = ctypes.addressof(_library.replacements)
        m.replaced_count = _library.replacement_count
        m.tsc_limit = _U64
        m.tsc_scale = 1 << 40  # 1 GHz until told otherwise
        m.tsc_host_ns = time.monotonic_ns()
        self._run = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(_library.run)
        self._update_hflags = ctypes.PYFUNCTYPE(None, ctypes.c_uint64)(_library.update_hflags)
        self._exits = Exits(host)
        self._open(translation_buffer)
        self._slots = Slots(m, _library)
        self._deadline = Deadline(m, _library.timer_main)
        m.number = attach(self._exits)
        self._closed = False
        env = m.env
        for i in range(ENV_FEATURE_WORDS):
            env.features[i] = features[i] if i < len(features) else 0
        for i in range(3):
            u32[env.address + Env.vendor.offset + i * 4] = int.from_bytes(vendor[i * 4 : i * 4 + 4], "little")
        env.signature = signature
        self._reset()

    def _open(self, translation_buffer: int) -> None:
        unicorn = self._library.handle
        m = self._m
        uc, hook = ctypes.c_void_p(), ctypes.c_size_t()
        error = unicorn.uc_open(_UC_ARCH_X86, _UC_MODE_64, ctypes.byref(uc))
        m.uc = uc.value or 0
        if not error:
            error = unicorn.uc_ctl(uc, _UC_CTL_TCG_BUFFER_SIZE, ctypes.c_uint32(translation_buffer))
        if not error:
            error = unicorn.uc_ctl(uc, _UC_CTL_USE_EXITS, 1)  # the first call that builds the CPU
        if not error:
            on_exception = ctypes.c_void_p(self._library.on_exception)
            bounds = ctypes.c_uint64(1), ctypes.c_uint64(0)
            machine = ctypes.c_void_p(m.address)
            error = unicorn.uc_hook_add(uc, ctypes.byref(hook), _UC_HOOK_INTR, on_exception, machine, *bounds)
        if error:
            self._close_unicorn()
            raise RuntimeError(f"unicorn does not open (error {error})")
        m.cpu = Cpu(u64[m.uc + UC_CPU])
        if wrong := _misfit(m):
            self._close_unicorn()
            raise RuntimeError(f"unicorn's structures are not where they should be: {wrong}")
        m.env = Env(m.cpu.address + CPU_ENV)
        m.tcg = u64[m.uc + UC_TCG]
        u64[m.uc + OUR_MACHINE] = m.address
        u32[m.uc + UC_USE_EXITS] = 1
        u32[m.uc + UC_NESTED_LEVEL] = 1
        u8[m.uc + UC_NO_EXIT_REQUEST] = 1  # no exit in the middle of an instruction
        u64[m.uc + UC_STOP_INTERRUPT] = 0  # #UD goes to the guest as all others do
        u64[m.uc + UC_MEMORY_MAPPING] = self._library.any_region
        m.cpu.class_.tlb_fill = self._library.tlb_fill
        m.cpu.class_.exec_interrupt = self._library.exec_interrupt
        m.env.attention = 0
        reset = u64[m.cpu.class_.address + CC_RESET]
        self._reset_cpu = ctypes.PYFUNCTYPE(None, ctypes.c_uint64)(reset)

    def _close_unicorn(self) -> None:
        if self._m.uc:
            self._library.handle.uc_close(ctypes.c_void_p(self._m.uc))
            self._m.uc = 0

    def close(self) -> None:
        if self._closed:
            return
        self._check_idle("close")
        self._closed = True
        self._deadline.stop()
        self._close_unicorn()
        detach(self._m.number)
        self._exits.clear()

    def __del__(self) -> None:
        if not self._closed:
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")
        if self._running and self._runner != get_ident():
            raise RuntimeError("while the engine runs, other threads may only kick and raise interrupts")

    def _check_idle(self, what: str) -> None:
        self._check_open()
        if self._running:
            raise RuntimeError(f"{what} is not possible while the engine runs")

    # --- memory and tables

    def map_ram(self, address: int, size: int, host: int, write_host: int | None, /) -> None:
        self._check_open()
        _check_pages(address, size)
        if host == 0 or (host | (write_host or 0)) & (PAGE_SIZE - 1):
            raise ValueError("host memory must be page aligned")
        self._slots.map(address, size, host, write_host or 0)

    def unmap(self, address: int, size: int, /) -> None:
        self._check_open()
        _check_pages(address, size)
        self._slots.map(address, size, 0, 0)

    def invalidate(self, address: int, size: int, /) -> None:
        self._check_open()
        self._slots.invalidate(address, size)

    def dirty_pages(self, address: int, size: int, /) -> bytes:
        self._check_open()
        _check_pages(address, size)
        return self._slots.dirty(address, size)

    def set_ports(self, rows: Sequence[Exit], /) -> None:
        self._check_open()
        strings = self._exits.set_ports(rows)
        ctypes.memmove(self._m.string_ports, strings, len(strings))

    def set_mmio(self, rows: Sequence[Exit], /) -> None:
        self._check_open()
        self._exits.set_mmio(rows)

    @property
    def exits(self) -> int:
        """How many handlers were called."""
        return self._exits.count

    # --- lines and time

    def interrupt(self, level: bool, /) -> None:
        self._m.irq = bool(level)
        if level and not self._closed:
            self._m.env.attention = 1

    def nmi(self) -> None:
        self._m.nmi = 1
        if not self._closed:
            self._m.env.attention = 1

    def kick(self) -> None:
        if not self._closed:
            kick(self._m)

    def ignore_fpu_errors(self) -> None:
        if not self._closed and self._m.env.x87_error == ERROR_TOLD:
            self._m.env.x87_error = ERROR_IGNORED

    def a20(self, enabled: bool, /) -> None:
        self._check_open()
        self._a20 = bool(enabled)
        lib.x86_cpu_set_a20(self._m.cpu, self._a20)
        self._m.env.attention = 1

    def set_tsc(self, ticks: int, host_ns: int, hz: int, limit: int, /) -> None:
        m = self._m
        m.tsc_ticks, m.tsc_host_ns, m.tsc_limit = ticks, host_ns, limit
        m.tsc_scale = min((hz << 40) // 1_000_000_000, _U64)

    def set_deadline(self, host_ns: int, /) -> None:
        self._check_open()
        self._deadline.set(host_ns)

    # --- running and state

    def run(self) -> ExitReason:
        self._check_idle("run")
        self._runner = get_ident()
        self._running = True
        try:
            result = self._run(self._m.address)
        finally:
            self._running = False
        if result <= TRIPLE_FAULT:
            return self._reasons[int(result)]
        self.failure = f"{self._reason(result)} at RIP {self._m.env.eip:#x}"
        return self._reasons[FAILED]

    def _reason(self, result: int) -> str:
        kind, code = result & 0xFFFF, result >> 16
        if kind == FAILED:
            text = ctypes.string_at(self._m.abort_format).decode(errors="replace")
            return f"the translator gave up ({text})"
        if kind == STOPPED:
            return f"the translator stopped with code {code:#x}"
        return f"unicorn stopped with error {code}"

    def reset(self) -> None:
        self._check_idle("reset")
        self._reset()

    def init(self) -> None:
        self._check_idle("INIT")
        env = self._m.env
        kept = [(start, ctypes.string_at(env.address + start, end - start)) for start, end in _KEPT_BY_INIT]
        cr0, tsc_offset = env.cr[0], self._m.tsc_offset
        self._reset()
        for start, data in kept:
            ctypes.memmove(env.address + start, data, len(data))
        env.cr[0] = 0x10 | cr0 & 0x60000000
        self._m.tsc_offset = tsc_offset

    def _reset(self) -> None:
        m = self._m
        self._reset_cpu(m.cpu)
        lib.cpu_x86_update_cr4(m.env, 0)
        m.env.regs[R_DX] = self._signature
        task = Segment(m.env.address + ENV_SEGS + _TR * SEGMENT_SIZE)
        task.flags &= ~TSS_BUSY  # set, it makes Unicorn abort later
        m.cpu.interrupt_request = PRIVATE_REQUEST
        m.cpu.exception_index = -1
        if not self._a20:
            lib.x86_cpu_set_a20(m.cpu, 0)
        m.tsc_offset = 0
        m.tsc_last = 0
        m.delivering = -1
        m.watching = 0
        m.stepping = 0
        m.debug_hits = 0
        m.cpu.cflags_next = 0xFFFF_FFFF
        m.halted = 0
        m.shut_down = 0
        m.nmi = 0
        lib.tlb_flush(m.cpu)

    def state(self) -> dict[str, Any]:
        self._check_idle("get_state")
        return state.get(self._m)

    def load_state(self, values: dict[str, Any], /) -> None:
        self._check_idle("set_state")
        state.check(values)
        self._reset()
        state.put(self._m, values, self._update_hflags)


def _check_pages(address: int, size: int) -> None:
    if (address | size) & (PAGE_SIZE - 1) or size <= 0 or address < 0 or address + size > 1 << 64:
        raise ValueError(f"{size:#x} bytes at {address:#x} are not whole pages")


def _misfit(m: Machine) -> str | None:
    """The structures are where we believe they are?  Names the first that is not."""
    cpu, class_ = m.cpu.address, u64[m.cpu.address + CPU_CC]
    tcg = u64[m.uc + UC_TCG]
    expected = (
        ("CPUState.uc", m.cpu.uc, m.uc),
        ("CPUState.env_ptr", u64[cpu + CPU_ENV_PTR], cpu + CPU_ENV),
        ("CPUState.icount_decr_ptr", u64[cpu + CPU_ICOUNT_DECR_PTR], cpu + CPU_ICOUNT_DECR),
        ("CPUX86State.uc", u64[cpu + CPU_ENV + ENV_UC], m.uc),
        ("CPUClass.do_interrupt", u64[class_ + CC_DO_INTERRUPT], lib.addresses["x86_cpu_do_interrupt"]),
        ("CPUClass.tlb_fill", u64[class_ + CC_TLB_FILL_CPU], lib.addresses["x86_cpu_tlb_fill"]),
        (
            "CPUClass.cpu_exec_interrupt",
            u64[class_ + CC_EXEC_INTERRUPT],
            lib.addresses["x86_cpu_exec_interrupt"],
        ),
        ("TCGContext.uc", u64[tcg + TCG_UC], m.uc),
        ("uc_struct.l1_map", u32[m.uc + UC_L1_SHIFT], (u32[m.uc + UC_L2_LEVELS] + 1) * 10),
    )
    return next((name for name, found, wanted in expected if found != wanted), None)
