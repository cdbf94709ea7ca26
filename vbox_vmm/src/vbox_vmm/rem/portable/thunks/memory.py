"""Guest-physical memory for thunks: slots of host memory, and how the CPU's TLB leads to them.

Unicorn's own memory regions are not used: where it fills a TLB entry (`tlb_set_page_with_attrs`) this fills
it from the slots, as native/memory.c does, where the reasons are.  In short: the translator's "RAM address"
of code is its host address; while a host page holds translated code, every TLB entry that can store to it
carries NOTDIRTY; pages that are clean in the dirty log are entered without a right to store.
"""

from __future__ import annotations

from ..language import UInt32, lib, tail, u8, u16, u32, u64
from ..layout import (
    CPU_ENV,
    CPU_TLB,
    DESC_VIOTLB,
    DESC_VTABLE,
    FLAG_AC,
    FLAG_IOPL,
    FLAG_TF,
    FLAG_VM,
    HF_CPL,
    HF_SMAP,
    MMU_KNOSMAP,
    MMU_KSMAP,
    MMU_USER,
    PROT_PAGE_EXEC,
    PROT_PAGE_READ,
    PROT_PAGE_WRITE,
    TLB_DESC,
    TLB_DESC_SIZE,
    TLB_DIRTY,
    TLB_DISCARD_WRITE,
    TLB_FAST,
    TLB_FAST_SIZE,
    TLB_INVALID,
    TLB_MMIO,
    TLB_MODES,
    TLB_NOTDIRTY,
    TLB_VICTIMS,
    TLB_WATCHPOINT,
    UC_EXITS,
    UC_L1_MAP,
    UC_L1_SHIFT,
    UC_L1_SIZE,
    UC_L2_LEVELS,
)
from ..structures import (
    IO_TLB_ENTRY_SIZE,
    PAGE_DESC_SIZE,
    SLOT_SIZE,
    TLB_ENTRY_SIZE,
    Cpu,
    Env,
    IoTlbEntry,
    Machine,
    PageDesc,
    Slot,
    TlbDesc,
    TlbEntry,
    TlbFast,
)
from .watch import watch_page

PAGE_BITS = 12
PAGE_SIZE = 1 << PAGE_BITS
PAGE_MASK = ~(PAGE_SIZE - 1)
NOTHING = (1 << 64) - 1  # a tag that no address has
LOG_OFF, LOG_CLEAN, LOG_DIRTY = range(3)
OUR_MACHINE = UC_EXITS + 63 * 8  # in uc_struct, where nothing else is once use_exits is set


def machine_of_uc(uc: int) -> Machine:
    return Machine(u64[uc + OUR_MACHINE])


def machine_of(env: Env) -> Machine:
    return Machine(u64[env.uc + OUR_MACHINE])


def machine_of_cpu(cpu: Cpu) -> Machine:
    return Machine(u64[cpu.uc + OUR_MACHINE])


# --- translated code ------------------------------------------------------------------------------


def page_find(m: Machine, host: int) -> PageDesc:
    """What the translator knows of the host page, or 0."""
    uc = m.uc
    index = host >> PAGE_BITS
    level = u64[uc + UC_L1_MAP] + ((index >> u32[uc + UC_L1_SHIFT]) & (u32[uc + UC_L1_SIZE] - 1)) * 8
    i = u32[uc + UC_L2_LEVELS]
    while i:
        following = u64[level]
        if not following:
            return PageDesc(0)
        level = following + ((index >> (i * 10)) & 1023) * 8
        i -= 1
    table = u64[level]
    return PageDesc(table + (index & 1023) * PAGE_DESC_SIZE if table else 0)


def page_has_code(m: Machine, host: int) -> int:
    page = page_find(m, host)
    return page.address and page.first_block


def invalidate_host(m: Machine, host: int, size: int) -> None:
    """Forget what was translated from this host memory."""
    at = host
    end = host + size
    while at < end:
        following = (at & PAGE_MASK) + PAGE_SIZE
        page = page_find(m, at)
        if not page.address:
            at = (at | (1024 * PAGE_SIZE - 1)) + 1  # no code in all of this table's 1024 pages
            continue
        if following > end:
            following = end
        if page.first_block:
            lib.tb_invalidate_phys_range(m.uc, at, following)
        at = following


# --- slots ----------------------------------------------------------------------------------------


def slot_find(m: Machine, address: int) -> Slot:
    """The slot that holds this guest-physical address, or 0."""
    low = 0
    high = m.slot_count
    if m.slot_hit < high:
        hit = Slot(m.slots + m.slot_hit * SLOT_SIZE)
        if address - hit.start < hit.end - hit.start:
            return hit
    while low < high:
        middle = (low + high) >> 1
        s = Slot(m.slots + middle * SLOT_SIZE)
        if address < s.start:
            high = middle
        elif address >= s.end:
            low = middle + 1
        else:
            m.slot_hit = middle
            return s
    return Slot(0)


def log_store(s: Slot, address: int) -> None:
    if s.log:
        state = s.log + ((address - s.start) >> PAGE_BITS)
        if u8[state] != LOG_OFF:
            u8[state] = LOG_DIRTY


# --- TLB entries ----------------------------------------------------------------------------------

SLOW, FAST, NO_STORE = range(3)


def change_writable(m: Machine, start: int, end: int, *, to: int) -> None:
    """Make stores to host memory [start, end) slow, fast or impossible, in all TLB entries."""
    tlb = m.cpu.address + CPU_TLB
    for mode in range(TLB_MODES):
        fast = TlbFast(tlb + TLB_FAST + mode * TLB_FAST_SIZE)
        count = (fast.mask >> 6) + 1
        at = fast.table
        if u16[tlb + TLB_DIRTY] >> mode & 1:
            for i in range(count + TLB_VICTIMS):
                if i == count:
                    at = tlb + TLB_DESC + mode * TLB_DESC_SIZE + DESC_VTABLE
                e = TlbEntry(at)
                at += TLB_ENTRY_SIZE
                if not e.write & (TLB_INVALID | TLB_MMIO | TLB_DISCARD_WRITE):
                    host = (e.write & PAGE_MASK) + e.addend
                    if host - start < end - start:
                        if to == SLOW:
                            e.write |= TLB_NOTDIRTY
                        elif to == FAST:
                            e.write &= ~TLB_NOTDIRTY
                        else:
                            e.write = NOTHING


def forbid_stores(m: Machine, start: int, end: int) -> None:
    change_writable(m, start, end, to=NO_STORE)


def protect_code(uc: int, host: int) -> None:
    """tlb_protect_code: the first block of this page was translated."""
    page = host & PAGE_MASK
    change_writable(machine_of_uc(uc), page, page + PAGE_SIZE, to=SLOW)


def unprotect_code(uc: int, host: int) -> None:
    """tlb_unprotect_code: its last block is gone."""
    m = machine_of_uc(uc)
    page = host & PAGE_MASK
    if m.fast_stores:
        change_writable(m, page, page + PAGE_SIZE, to=FAST)


def nothing() -> None:
    """tlb_set_dirty, tlb_reset_dirty_by_vaddr: upkeep of NOTDIRTY by virtual address, which misses
    aliases."""


def ram_address(uc: int, host: int) -> int:
    """qemu_ram_addr_from_host."""
    return host


def entry_is_of(e: TlbEntry, page: int) -> int:
    return (
        (e.read & (PAGE_MASK | TLB_INVALID)) == page
        or (e.write & (PAGE_MASK | TLB_INVALID)) == page
        or (e.code & (PAGE_MASK | TLB_INVALID)) == page
    )


def entry_is_empty(e: TlbEntry) -> int:
    return e.read == NOTHING and e.write == NOTHING and e.code == NOTHING


def note_large_page(desc: TlbDesc, page: int, size: int) -> None:
    """Flushing any address of a large page must flush all of it."""
    mask = ~(size - 1)
    known = desc.large_address
    if known == NOTHING:
        known = page
    else:
        mask &= desc.large_mask
        while (known ^ page) & mask:
            mask <<= 1
    desc.large_address = known & mask
    desc.large_mask = mask


def fill_entry(m: Machine, e: TlbEntry, io: IoTlbEntry, page: int, physical: int, rights: int) -> None:
    s = slot_find(m, physical)
    flags = 0
    e.paddr = physical
    if not s.address:
        flags = TLB_MMIO
        e.addend = -page
        io.address = physical - page  # section 0; the offset in it is the physical address
        e.write = page | flags
    else:
        host = s.host + (physical - s.start)
        e.addend = host - page
        if s.write_host == s.host:
            io.address = host - page
            e.write = page
            if s.log and u8[s.log + ((physical - s.start) >> PAGE_BITS)] == LOG_CLEAN:
                e.write = NOTHING
            elif not m.fast_stores or page_has_code(m, host):
                e.write = page | TLB_NOTDIRTY
        else:
            io.address = physical - page
            e.write = page | (TLB_MMIO if s.write_host else TLB_DISCARD_WRITE)
    e.read = page | flags if rights & PROT_PAGE_READ else NOTHING
    e.code = page | flags if rights & PROT_PAGE_EXEC else NOTHING
    if not rights & PROT_PAGE_WRITE:
        e.write = NOTHING


TLB_LEAST_USED = 179  # of 256 entries: below that, a flush would halve the table


def set_page(
    cpu: Cpu, address: int, wanted: int, attributes: UInt32, rights: UInt32, mode: UInt32, size: int
) -> None:
    """tlb_set_page_with_attrs."""
    m = machine_of_cpu(cpu)
    page = address & PAGE_MASK
    physical = wanted & PAGE_MASK
    tlb = cpu.address + CPU_TLB
    desc = TlbDesc(tlb + TLB_DESC + mode * TLB_DESC_SIZE)
    fast = TlbFast(tlb + TLB_FAST + mode * TLB_FAST_SIZE)
    victims = desc.address + DESC_VTABLE
    index = (page >> PAGE_BITS) & (fast.mask >> 6)
    e = TlbEntry(fast.table + index * TLB_ENTRY_SIZE)
    io = IoTlbEntry(desc.io + index * IO_TLB_ENTRY_SIZE)

    if size > PAGE_SIZE:
        note_large_page(desc, page, size)
    u16[tlb + TLB_DIRTY] |= 1 << mode
    for i in range(TLB_VICTIMS):
        if entry_is_of(TlbEntry(victims + i * TLB_ENTRY_SIZE), page):
            lib.memset(victims + i * TLB_ENTRY_SIZE, 0xFF, TLB_ENTRY_SIZE)
            desc.used -= 1
    if entry_is_empty(e):
        desc.used += 1
    elif not entry_is_of(e, page):
        v = desc.victim_index % TLB_VICTIMS
        desc.victim_index += 1
        if entry_is_empty(TlbEntry(victims + v * TLB_ENTRY_SIZE)):
            desc.used += 1
        lib.memcpy(victims + v * TLB_ENTRY_SIZE, e, TLB_ENTRY_SIZE)
        lib.memcpy(desc.address + DESC_VIOTLB + v * IO_TLB_ENTRY_SIZE, io, IO_TLB_ENTRY_SIZE)
    if desc.window_most < TLB_LEAST_USED:
        desc.window_most = TLB_LEAST_USED
    if m.filling_for_store:
        s = slot_find(m, physical)
        if s.address:
            log_store(s, physical)
    io.attributes = attributes
    fill_entry(m, e, io, page, physical, rights)
    if m.watching:
        watched = watch_page(m, page)
        if watched & 1 and e.read != NOTHING:
            e.read |= TLB_WATCHPOINT
        if watched & 2 and e.write != NOTHING:
            e.write |= TLB_WATCHPOINT


def tlb_fill(cpu: Cpu, address: int, size: int, access: UInt32, mode: int, probe: int) -> int:
    """CPUClass.tlb_fill: a fill knows whether it is for a store."""
    machine_of_cpu(cpu).filling_for_store = access == 1
    tail(lib.x86_cpu_tlb_fill, cpu, address, size, access, mode, probe)


# --- the CPU's own accesses to page tables --------------------------------------------------------


def load_u32(cpu: Cpu, address: int) -> int:
    """x86_ldl_phys."""
    s = slot_find(machine_of_cpu(cpu), address)
    return u32[s.host + (address - s.start)] if s.address else NOTHING


def load_u64(cpu: Cpu, address: int) -> int:
    """x86_ldq_phys."""
    s = slot_find(machine_of_cpu(cpu), address)
    return u64[s.host + (address - s.start)] if s.address else NOTHING


def slot_store(m: Machine, address: int, value: int, size: int) -> int:
    """A store that does not go through a TLB entry; 0 when there is no slot."""
    s = slot_find(m, address)
    if not s.address:
        return 0
    if s.write_host:
        host = s.write_host + (address - s.start)
        for i in range(size):
            u8[host + i] = value >> (i * 8)
        log_store(s, address)
        if page_has_code(m, host):
            lib.tb_invalidate_phys_range(m.uc, host, host + size)
    return 1


def store_flags(cpu: Cpu, address: int, value: UInt32) -> None:
    """x86_stl_phys_notdirty: accessed and dirty bits; code does not lie in page tables."""
    s = slot_find(machine_of_cpu(cpu), address)
    if s.address and s.write_host:
        u32[s.write_host + (address - s.start)] = value
        log_store(s, address)


def store_u32(cpu: Cpu, address: int, value: int) -> None:
    """x86_stl_phys."""
    slot_store(machine_of_cpu(cpu), address, value, 4)


def store_u64(cpu: Cpu, address: int, value: int) -> None:
    """x86_stq_phys."""
    slot_store(machine_of_cpu(cpu), address, value, 8)


# --- TLB entries as others look at them -----------------------------------------------------------


def entry_of(env: Env, mode: int, address: int) -> TlbEntry:
    """Where the entry of a virtual address is, if there is one."""
    fast = TlbFast(env.address + mode * TLB_FAST_SIZE + (CPU_TLB + TLB_FAST) - CPU_ENV)
    return TlbEntry(fast.table + ((address >> PAGE_BITS) & (fast.mask >> 6)) * TLB_ENTRY_SIZE)


def plain_memory(env: Env, address: int, mode: int, size: int, store: int) -> int:
    """Where an access lies in the host's memory, when it needs nothing but to be done; else 0."""
    e = entry_of(env, mode, address)
    tag = e.write if store else e.read
    # any flag in the tag, or an end in the next page, makes them differ
    if tag == (address & PAGE_MASK) and (address & (PAGE_SIZE - 1)) <= PAGE_SIZE - size:
        return address + e.addend
    return 0


def data_mode(env: Env) -> int:
    """The MMU mode of data accesses in the CPU's present state."""
    if (env.hflags & HF_CPL) == 3:
        return MMU_USER
    return MMU_KNOSMAP if not env.hflags & HF_SMAP or env.eflags & FLAG_AC else MMU_KSMAP


def update_hflags(env: Env) -> None:
    """Unicorn copies TF, IOPL and VM into hflags, where nothing ever takes them out again."""
    lib.x86_update_hflags(env)
    env.hflags &= ~(FLAG_TF | FLAG_IOPL | FLAG_VM)


def any_region(uc: int, address: int) -> int:
    """uc_struct.memory_mapping."""
    return machine_of_uc(uc).region
