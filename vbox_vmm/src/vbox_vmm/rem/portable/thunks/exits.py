"""Where accesses to I/O come in, on their way to a callback in Python: as native/exits.c has it.

Loads and stores of translated code arrive at `load` and `store`; Unicorn would make two aligned accesses of
one that is not aligned, which a device would notice.  Instruction fetches, and helpers that access memory
themselves, arrive at `dispatch_read` and `dispatch_write`.  All that can fault is done before Python is
called.
"""

from __future__ import annotations

from ..language import UInt32, lib, python, tail, u8, u16, u32, u64
from ..layout import CPU_ENV, HF_CS64, TLB_INVALID, TLB_MMIO
from ..structures import Cpu, Env, Machine, TlbEntry
from .debug import watch_access
from .memory import (
    PAGE_MASK,
    PAGE_SIZE,
    entry_of,
    machine_of,
    machine_of_uc,
    plain_memory,
    slot_store,
)

# --- fetches and helpers --------------------------------------------------------------------------


def mmio_write(m: Machine, address: int, size: int, value: int) -> None:
    if not slot_store(m, address, value, size):  # reads from ROM, writes to the RAM below
        python.mmio_write(m.number, address, size, value)


def dispatch_read(uc: int, region: int, address: int, value: int, op: UInt32) -> int:
    """memory_region_dispatch_read."""
    u64[value] = python.mmio_read(machine_of_uc(uc).number, address, 1 << (op & 3))
    return 0


def dispatch_write(uc: int, region: int, address: int, value: int, op: UInt32) -> int:
    """memory_region_dispatch_write."""
    mmio_write(machine_of_uc(uc), address, 1 << (op & 3), value)
    return 0


# --- translated code ------------------------------------------------------------------------------


def hits(tag: int, address: int) -> int:
    return (tag & (PAGE_MASK | TLB_INVALID)) == (address & PAGE_MASK)


def entry_filled(env: Env, mode: int, address: int, size: int, is_store: int, back: int) -> TlbEntry:
    e = entry_of(env, mode, address)
    if not hits(e.write if is_store else e.read, address):
        cpu = Cpu(env.address - CPU_ENV)
        machine_of(env).filling_for_store = is_store
        lib.x86_cpu_tlb_fill(cpu, address, size, is_store, mode, 0, back)
        e = entry_of(env, mode, address)
    return e


def io_entry(env: Env, mode: int, address: int, size: int, is_store: int, back: int) -> TlbEntry:
    """The entry of an access that lies in one page of I/O, or 0."""
    if (address & (PAGE_SIZE - 1)) + size > PAGE_SIZE:
        return TlbEntry(0)
    e = entry_of(env, mode, address)
    tag = e.write if is_store else e.read
    if not hits(tag, address):
        if not address & (size - 1):
            return TlbEntry(0)  # Unicorn does it right
        e = entry_filled(env, mode, address, size, is_store, back)
        tag = e.write if is_store else e.read
    return TlbEntry(e.address if hits(tag, address) and tag & TLB_MMIO else 0)


def spans_io(env: Env, mode: int, address: int, size: int, is_store: int, back: int) -> int:
    """An access that begins in one page and ends in the next: is either of them I/O?  Both may fault, which
    must happen before any byte of it is done."""
    following = (address & PAGE_MASK) + PAGE_SIZE
    first_size = following - address
    if first_size >= size:
        return 0
    if not env.hflags & HF_CS64:
        following = u32(following)
    e = entry_filled(env, mode, address, first_size, is_store, back)
    tags = e.write if is_store else e.read
    e = entry_filled(env, mode, following, size - first_size, is_store, back)
    return (tags | (e.write if is_store else e.read)) & TLB_MMIO


def next_address(env: Env, address: int) -> int:
    return address + 1 if env.hflags & HF_CS64 else u32(address + 1)


def load_bytes(env: Env, start: int, mode: int, size: int, back: int) -> int:
    value = 0
    address = start
    for i in range(size):
        value |= u8(load(env, address, mode, back, size=1)) << (i * 8)
        address = next_address(env, address)
    return value


def store_bytes(env: Env, start: int, value: int, mode: int, size: int, back: int) -> None:
    address = start
    for i in range(size):
        store(env, address, u8(value >> (i * 8)), mode, back, size=1)
        address = next_address(env, address)


def load(env: Env, address: int, oi: UInt32, back: int, *, size: int) -> int:
    """helper_ret_ldub_mmu, helper_le_lduw_mmu, helper_le_ldul_mmu, helper_le_ldq_mmu."""
    m = machine_of(env)
    if m.watching:
        watch_access(m, address, size, 0, back)
    e = io_entry(env, oi & 15, address, size, 0, back)
    if e.address:
        return python.mmio_read(m.number, e.paddr | (address & (PAGE_SIZE - 1)), size)
    if size > 1 and spans_io(env, oi & 15, address, size, 0, back):
        return load_bytes(env, address, oi & 15, size, back)
    if size == 1:
        tail(lib.helper_ret_ldub_mmu, env, address, oi, back)
    elif size == 2:
        tail(lib.helper_le_lduw_mmu, env, address, oi, back)
    elif size == 4:
        tail(lib.helper_le_ldul_mmu, env, address, oi, back)
    else:
        tail(lib.helper_le_ldq_mmu, env, address, oi, back)


def store(env: Env, address: int, value: int, oi: UInt32, back: int, *, size: int) -> None:
    """helper_ret_stb_mmu, helper_le_stw_mmu, helper_le_stl_mmu, helper_le_stq_mmu."""
    m = machine_of(env)
    if m.watching:
        watch_access(m, address, size, 1, back)
    e = io_entry(env, oi & 15, address, size, 1, back)
    if e.address:
        mmio_write(m, e.paddr | (address & (PAGE_SIZE - 1)), size, value)
    elif size > 1 and spans_io(env, oi & 15, address, size, 1, back):
        store_bytes(env, address, value, oi & 15, size, back)
    elif size == 1:
        tail(lib.helper_ret_stb_mmu, env, address, value, oi, back)
    elif size == 2:
        tail(lib.helper_le_stw_mmu, env, address, value, oi, back)
    elif size == 4:
        tail(lib.helper_le_stl_mmu, env, address, value, oi, back)
    else:
        tail(lib.helper_le_stq_mmu, env, address, value, oi, back)


# --- loads and stores of Unicorn's helpers: interrupt frames, descriptors, FXSAVE -----------------
# Unicorn walks its hooks and regions for each; what is plain memory needs neither.


def helper_load(env: Env, address: int, mode: UInt32, back: int, *, size: int) -> int:
    """cpu_ldub_mmuidx_ra, cpu_lduw_mmuidx_ra, cpu_ldl_mmuidx_ra, cpu_ldq_mmuidx_ra."""
    host = plain_memory(env, address, mode, size, 0)
    if size == 1:
        if host:
            return u8[host]
        tail(lib.cpu_ldub_mmuidx_ra, env, address, mode, back)
    elif size == 2:
        if host:
            return u16[host]
        tail(lib.cpu_lduw_mmuidx_ra, env, address, mode, back)
    elif size == 4:
        if host:
            return u32[host]
        tail(lib.cpu_ldl_mmuidx_ra, env, address, mode, back)
    else:
        if host:
            return u64[host]
        tail(lib.cpu_ldq_mmuidx_ra, env, address, mode, back)


def helper_store(env: Env, address: int, value: int, mode: UInt32, back: int, *, size: int) -> None:
    """cpu_stb_mmuidx_ra, cpu_stw_mmuidx_ra, cpu_stl_mmuidx_ra, cpu_stq_mmuidx_ra."""
    host = plain_memory(env, address, mode, size, 1)
    if size == 1:
        if not host:
            tail(lib.cpu_stb_mmuidx_ra, env, address, value, mode, back)
        u8[host] = value
    elif size == 2:
        if not host:
            tail(lib.cpu_stw_mmuidx_ra, env, address, value, mode, back)
        u16[host] = value
    elif size == 4:
        if not host:
            tail(lib.cpu_stl_mmuidx_ra, env, address, value, mode, back)
        u32[host] = value
    else:
        if not host:
            tail(lib.cpu_stq_mmuidx_ra, env, address, value, mode, back)
        u64[host] = value
