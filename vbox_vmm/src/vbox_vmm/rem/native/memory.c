/* Guest-physical memory: slots of host memory, and how the CPU's TLB leads to them.
 *
 * Unicorn's own memory regions are not used.  A slot maps guest-physical pages to host pages, and
 * where Unicorn fills a TLB entry (`tlb_set_page_with_attrs`) we fill it from the slots:
 *
 *   RAM              loads, stores and fetches go to the host page
 *   ROM              loads and fetches; stores are discarded
 *   read/write split loads and fetches; stores take the I/O path and end up in `slot_store`
 *   anything else    I/O: the MMIO table, and all ones where it has nothing
 *
 * The translator identifies pages of code by a "RAM address".  Ours is the host address, so two
 * guest-physical views of one host page are one page to it, and no table is needed.
 *
 * Self-modifying code: while a host page holds translated code, every TLB entry that can store to
 * it carries NOTDIRTY, which sends the store through the translator's check.  Entries get the flag
 * when they are filled (`page_has_code`) or when the page's first block is translated
 * (`tlb_protect_code`), and lose it when its last block is gone (`tlb_unprotect_code`).
 *
 * Dirty pages: LOG_CLEAN pages are entered without a right to store, so that the first store fills
 * the entry again, marks the page LOG_DIRTY and is at full speed from then on.
 */
#include "rem.h"

enum { LOG_OFF, LOG_CLEAN, LOG_DIRTY };

static void (*orig_set_page)(void *, uint64_t, uint64_t, uint32_t, int, int, uint64_t);
static void (*orig_protect_code)(void *, uint64_t);
static void (*orig_unprotect_code)(void *, uint64_t);
static void (*orig_set_dirty)(void *, uint64_t);
static void (*orig_reset_dirty_by_vaddr)(void *, uint64_t, uint64_t);
static uint64_t (*orig_ram_addr)(void *, void *);
static uint32_t (*orig_ldl_phys)(void *, uint64_t);
static uint64_t (*orig_ldq_phys)(void *, uint64_t);
static void (*orig_stl_phys_notdirty)(void *, uint64_t, uint32_t);
static void (*orig_stl_phys)(void *, uint64_t, uint32_t);
static void (*orig_stq_phys)(void *, uint64_t, uint64_t);

/* ---- translated code --------------------------------------------------------------------------- */

static PageDesc *page_find(Machine *m, uint64_t host)
{
    uint64_t index = host >> PAGE_BITS;
    void **level = FIELD(void **, m->uc, UC_L1_MAP) +
                   ((index >> FIELD(int, m->uc, UC_L1_SHIFT)) & (FIELD(int, m->uc, UC_L1_SIZE) - 1));

    for (int i = FIELD(int, m->uc, UC_L2_LEVELS); i > 0; i--) {
        void **next = *level;
        if (next == NULL) {
            return NULL;
        }
        level = next + ((index >> (i * 10)) & 1023);
    }
    return *level ? (PageDesc *)*level + (index & 1023) : NULL;
}

static inline bool page_has_code(Machine *m, uint64_t host)
{
    PageDesc *page = page_find(m, host);
    return page != NULL && page->first_block != 0;
}

void invalidate_host(Machine *m, uint8_t *host, uint64_t size)
{
    uint64_t at = (uint64_t)host, end = at + size;

    while (at < end) {
        uint64_t next = (at & PAGE_MASK) + PAGE_SIZE;
        PageDesc *page = page_find(m, at);
        if (page == NULL) {
            /* no code in all of this table's 1024 pages */
            at = (at | (1024 * PAGE_SIZE - 1)) + 1;
            continue;
        }
        if (next > end) {
            next = end;
        }
        if (page->first_block != 0) {
            lib.tb_invalidate_phys_range(m->uc, at, next);
        }
        at = next;
    }
}

/* ---- slots ------------------------------------------------------------------------------------- */

Slot *slot_find(Machine *m, uint64_t address)
{
    size_t low = 0, high = m->slot_count;

    if (likely(m->slot_hit < high)) {
        Slot *hit = m->slots + m->slot_hit;
        if (likely(address - hit->start < hit->end - hit->start)) {
            return hit;
        }
    }
    while (low < high) {
        size_t middle = (low + high) / 2;
        Slot *s = m->slots + middle;
        if (address < s->start) {
            high = middle;
        } else if (address >= s->end) {
            low = middle + 1;
        } else {
            m->slot_hit = middle;
            return s;
        }
    }
    return NULL;
}

static void slot_free_log(Slot *s)
{
    PyMem_Free(s->log);
    s->log = NULL;
}

/* The part of `s` in [start, end); its pages keep their state in the log. */
static int slot_part(Slot *out, const Slot *s, uint64_t start, uint64_t end)
{
    *out = *s;
    out->start = start;
    out->end = end;
    out->host = s->host + (start - s->start);
    out->write_host = s->write_host ? s->write_host + (start - s->start) : NULL;
    if (s->log != NULL) {
        size_t pages = (end - start) >> PAGE_BITS;
        out->log = PyMem_Malloc(pages);
        if (out->log == NULL) {
            return -1;
        }
        memcpy(out->log, s->log + ((start - s->start) >> PAGE_BITS), pages);
    }
    return 0;
}

/* Replace [address, address + size) by host memory, or by nothing (host NULL). */
int slot_map(Machine *m, uint64_t address, uint64_t size, uint8_t *host, uint8_t *write_host)
{
    uint64_t end = address + size;
    Slot *fresh = PyMem_Calloc(m->slot_count + 3, sizeof *fresh);
    size_t n = 0;
    bool placed = host == NULL;
    const Slot wanted = {address, end, host, write_host, NULL};

    if (fresh == NULL) {
        return -1;
    }
    for (size_t i = 0; i < m->slot_count; i++) {
        Slot *s = m->slots + i;
        if (s->end <= address || s->start >= end) {
            if (!placed && s->start >= end) {
                fresh[n++] = wanted;
                placed = true;
            }
            fresh[n++] = *s;
            continue;
        }
        if (s->start < address && slot_part(fresh + n++, s, s->start, address) < 0) {
            return -1;
        }
        if (!placed) {
            fresh[n++] = wanted;
            placed = true;
        }
        if (s->end > end && slot_part(fresh + n++, s, end, s->end) < 0) {
            return -1;
        }
        /* The host memory may be given to someone else now. */
        {
            uint64_t from = s->start > address ? s->start : address;
            uint64_t to = s->end < end ? s->end : end;
            invalidate_host(m, s->host + (from - s->start), to - from);
        }
        slot_free_log(s);
    }
    if (!placed) {
        fresh[n++] = wanted;
    }
    PyMem_Free(m->slots);
    m->slots = fresh;
    m->slot_count = n;
    m->slot_hit = 0;
    memory_changed(m);
    return 0;
}

void slots_free(Machine *m)
{
    for (size_t i = 0; i < m->slot_count; i++) {
        slot_free_log(m->slots + i);
    }
    PyMem_Free(m->slots);
    m->slots = NULL;
    m->slot_count = 0;
}

/* What the CPU has cached of the map is void; running code looks again at its next block. */
void memory_changed(Machine *m)
{
    lib.tlb_flush(m->cpu);
    machine_attend(m);
}

void memory_invalidate(Machine *m, uint64_t address, uint64_t size)
{
    uint64_t end = address + size;

    for (size_t i = 0; i < m->slot_count; i++) {
        Slot *s = m->slots + i;
        uint64_t from = address > s->start ? address : s->start;
        uint64_t to = end < s->end ? end : s->end;
        if (from >= to) {
            continue;
        }
        invalidate_host(m, s->host + (from - s->start), to - from);
        if (s->write_host != NULL && s->write_host != s->host) {
            invalidate_host(m, s->write_host + (from - s->start), to - from);
        }
    }
    machine_attend(m);
}

/* Call `visit` for each TLB entry through which a store can reach RAM. */
static void each_writable(Machine *m, void (*visit)(TlbEntry *, uint64_t host, uint64_t, uint64_t), uint64_t from,
                          uint64_t to)
{
    for (int mode = 0; mode < TLB_MODES; mode++) {
        char *tlb = (char *)m->cpu + CPU_TLB;
        char *fast = tlb + TLB_FAST + mode * TLB_FAST_SIZE;
        TlbEntry *table = FIELD(TlbEntry *, fast, FAST_TABLE);
        TlbEntry *victims = (TlbEntry *)(tlb + TLB_DESC + mode * TLB_DESC_SIZE + DESC_VTABLE);
        size_t count = (FIELD(uint64_t, fast, FAST_MASK) >> 6) + 1;

        if (!(FIELD(uint16_t, tlb, TLB_DIRTY) >> mode & 1)) {
            continue;
        }
        for (size_t i = 0; i < count + TLB_VICTIMS; i++) {
            TlbEntry *e = i < count ? table + i : victims + (i - count);
            if ((e->write & (TLB_INVALID | TLB_MMIO | TLB_DISCARD_WRITE)) == 0) {
                uint64_t host = (e->write & PAGE_MASK) + e->addend;
                if (host - from < to - from) {
                    visit(e, host, from, to);
                }
            }
        }
    }
}

static void visit_slow(TlbEntry *e, uint64_t host, uint64_t from, uint64_t to)
{
    (void)host, (void)from, (void)to;
    e->write |= TLB_NOTDIRTY;
}

static void visit_fast(TlbEntry *e, uint64_t host, uint64_t from, uint64_t to)
{
    (void)host, (void)from, (void)to;
    e->write &= ~(uint64_t)TLB_NOTDIRTY;
}

static void visit_no_store(TlbEntry *e, uint64_t host, uint64_t from, uint64_t to)
{
    (void)host, (void)from, (void)to;
    e->write = -1ull;
}

static void rem_protect_code(void *uc, uint64_t host)
{
    Machine *m = machine_of(uc);

    if (m == NULL) {
        orig_protect_code(uc, host);
        return;
    }
    host &= PAGE_MASK;
    each_writable(m, visit_slow, host, host + PAGE_SIZE);
}

static void rem_unprotect_code(void *uc, uint64_t host)
{
    Machine *m = machine_of(uc);

    if (m == NULL) {
        orig_unprotect_code(uc, host);
        return;
    }
    if (m->fast_stores) {
        host &= PAGE_MASK;
        each_writable(m, visit_fast, host, host + PAGE_SIZE);
    }
}

/* Unicorn's own upkeep of NOTDIRTY looks at virtual addresses and misses aliases; ours needs none of it. */
static void rem_set_dirty(void *cpu, uint64_t address)
{
    if (machine_of_cpu(cpu) == NULL) {
        orig_set_dirty(cpu, address);
    }
}

static void rem_reset_dirty_by_vaddr(void *cpu, uint64_t start, uint64_t length)
{
    if (machine_of_cpu(cpu) == NULL) {
        orig_reset_dirty_by_vaddr(cpu, start, length);
    }
}

static uint64_t rem_ram_addr(void *uc, void *host)
{
    return machine_of(uc) ? (uint64_t)host : orig_ram_addr(uc, host);
}

/* ---- dirty pages ------------------------------------------------------------------------------- */

static inline void log_store(Slot *s, uint64_t address)
{
    if (unlikely(s->log != NULL)) {
        uint8_t *state = s->log + ((address - s->start) >> PAGE_BITS);
        if (*state != LOG_OFF) {
            *state = LOG_DIRTY;
        }
    }
}

bool memory_dirty(Machine *m, uint64_t address, uint64_t size, uint8_t *out)
{
    size_t pages = size >> PAGE_BITS;

    for (size_t i = 0; i < pages;) {
        uint64_t at = address + i * PAGE_SIZE;
        Slot *s = slot_find(m, at);
        size_t first, run;

        if (s == NULL) {
            out[i++] = 1;
            continue;
        }
        if (s->log == NULL) {
            s->log = PyMem_Calloc((s->end - s->start) >> PAGE_BITS, 1);
            if (s->log == NULL) {
                return false;
            }
        }
        first = (at - s->start) >> PAGE_BITS;
        run = ((s->end - s->start) >> PAGE_BITS) - first;
        if (run > pages - i) {
            run = pages - i;
        }
        for (size_t k = 0; k < run; k++) {
            out[i + k] = s->log[first + k] != LOG_CLEAN;
            s->log[first + k] = LOG_CLEAN;
        }
        if (s->write_host != NULL && memchr(out + i, 1, run) != NULL) {
            uint64_t from = (uint64_t)s->write_host + (at - s->start);
            each_writable(m, visit_no_store, from, from + run * PAGE_SIZE);
        }
        i += run;
    }
    return true;
}

/* ---- TLB entries ------------------------------------------------------------------------------- */

static inline bool entry_is_of(const TlbEntry *e, uint64_t page)
{
    const uint64_t mask = PAGE_MASK | TLB_INVALID;
    return (e->read & mask) == page || (e->write & mask) == page || (e->code & mask) == page;
}

static inline bool entry_is_empty(const TlbEntry *e)
{
    return e->read == -1ull && e->write == -1ull && e->code == -1ull;
}

/* A large page enters one small page at a time; remember the area, so that flushing any address in it
 * flushes all of it. */
static void note_large_page(char *desc, uint64_t page, uint64_t size)
{
    uint64_t mask = ~(size - 1);
    uint64_t known = FIELD(uint64_t, desc, DESC_LARGE_ADDR);

    if (known == -1ull) {
        known = page;
    } else {
        mask &= FIELD(uint64_t, desc, DESC_LARGE_MASK);
        while (((known ^ page) & mask) != 0) {
            mask <<= 1;
        }
    }
    FIELD(uint64_t, desc, DESC_LARGE_ADDR) = known & mask;
    FIELD(uint64_t, desc, DESC_LARGE_MASK) = mask;
}

static void fill_entry(Machine *m, TlbEntry *e, IoTlbEntry *io, uint64_t page, uint64_t physical, int rights)
{
    Slot *s = slot_find(m, physical);
    uint64_t flags = 0;

    e->paddr = physical;
    if (s == NULL) {
        flags = TLB_MMIO;
        e->addend = -page;
        io->address = physical - page; /* section 0; the offset in it is the physical address */
        e->write = page | flags;
    } else {
        uint8_t *host = s->host + (physical - s->start);
        e->addend = (uint64_t)host - page;
        if (s->write_host == s->host) {
            io->address = (uint64_t)host - page;
            e->write = page;
            if (unlikely(s->log != NULL)) {
                uint8_t *state = s->log + ((physical - s->start) >> PAGE_BITS);
                if (*state == LOG_CLEAN) {
                    e->write = -1ull;
                }
            }
            if (e->write != -1ull && (!m->fast_stores || page_has_code(m, (uint64_t)host))) {
                e->write |= TLB_NOTDIRTY;
            }
        } else {
            io->address = physical - page;
            e->write = page | (s->write_host ? TLB_MMIO : TLB_DISCARD_WRITE);
        }
    }
    e->read = rights & PROT_PAGE_READ ? page | flags : -1ull;
    e->code = rights & PROT_PAGE_EXEC ? page | flags : -1ull;
    if (!(rights & PROT_PAGE_WRITE)) {
        e->write = -1ull;
    }
}

/* A flush shrinks a table that is used by less than 30 % and grows one that is used by more than 70 %.  A guest
 * that flushes once, when it is young, would keep 64 entries for ever, and two arrays 256 KiB apart would put
 * each other out: as if so many were in use it does not go below 256. */
enum { TLB_LEAST_USED = 179 };

static void rem_set_page(void *cpu, uint64_t address, uint64_t physical, uint32_t attributes, int rights, int mode,
                         uint64_t size)
{
    Machine *m = machine_of_cpu(cpu);
    char *tlb, *desc, *fast;
    TlbEntry *table, *victims, *e;
    uint64_t page = address & PAGE_MASK, index;
    int watched;

    if (m == NULL) {
        orig_set_page(cpu, address, physical, attributes, rights, mode, size);
        return;
    }
    physical &= PAGE_MASK;
    tlb = (char *)cpu + CPU_TLB;
    desc = tlb + TLB_DESC + mode * TLB_DESC_SIZE;
    fast = tlb + TLB_FAST + mode * TLB_FAST_SIZE;
    table = FIELD(TlbEntry *, fast, FAST_TABLE);
    victims = (TlbEntry *)(desc + DESC_VTABLE);
    index = (page >> PAGE_BITS) & (FIELD(uint64_t, fast, FAST_MASK) >> 6);
    e = table + index;

    if (size > PAGE_SIZE) {
        note_large_page(desc, page, size);
    }
    FIELD(uint16_t, tlb, TLB_DIRTY) |= 1 << mode;
    for (int i = 0; i < TLB_VICTIMS; i++) {
        if (entry_is_of(victims + i, page)) {
            memset(victims + i, 0xff, sizeof *victims);
            FIELD(uint64_t, desc, DESC_USED)--;
        }
    }
    if (entry_is_empty(e)) {
        FIELD(uint64_t, desc, DESC_USED)++;
    } else if (!entry_is_of(e, page)) {
        uint64_t v = FIELD(uint64_t, desc, DESC_VINDEX)++ % TLB_VICTIMS;
        if (entry_is_empty(victims + v)) {
            FIELD(uint64_t, desc, DESC_USED)++;
        }
        victims[v] = *e;
        ((IoTlbEntry *)(desc + DESC_VIOTLB))[v] = FIELD(IoTlbEntry *, desc, DESC_IOTLB)[index];
    }
    if (FIELD(uint64_t, desc, DESC_WINDOW_MOST) < TLB_LEAST_USED) {
        FIELD(uint64_t, desc, DESC_WINDOW_MOST) = TLB_LEAST_USED;
    }
    if (m->filling_for_store) {
        Slot *s = slot_find(m, physical);
        if (s != NULL) {
            log_store(s, physical);
        }
    }
    FIELD(IoTlbEntry *, desc, DESC_IOTLB)[index].attributes = attributes;
    fill_entry(m, e, FIELD(IoTlbEntry *, desc, DESC_IOTLB) + index, page, physical, rights);
    watched = watch_page(m, page);
    if (unlikely(watched)) {
        if (watched & 1 && e->read != -1ull) {
            e->read |= TLB_WATCHPOINT;
        }
        if (watched & 2 && e->write != -1ull) {
            e->write |= TLB_WATCHPOINT;
        }
    }
}

/* ---- the CPU's own accesses to page tables ------------------------------------------------------ */

static inline uint8_t *host_of(Machine *m, uint64_t address)
{
    Slot *s = slot_find(m, address);
    return s ? s->host + (address - s->start) : NULL;
}

static uint32_t rem_ldl_phys(void *cpu, uint64_t address)
{
    Machine *m = machine_of_cpu(cpu);
    uint8_t *host;

    if (m == NULL) {
        return orig_ldl_phys(cpu, address);
    }
    host = host_of(m, address);
    return host ? *(uint32_t *)host : UINT32_MAX;
}

static uint64_t rem_ldq_phys(void *cpu, uint64_t address)
{
    Machine *m = machine_of_cpu(cpu);
    uint8_t *host;

    if (m == NULL) {
        return orig_ldq_phys(cpu, address);
    }
    host = host_of(m, address);
    return host ? *(uint64_t *)host : UINT64_MAX;
}

/* A store that does not go through a TLB entry; false when there is no slot. */
bool slot_store(Machine *m, uint64_t address, uint64_t value, unsigned size)
{
    Slot *s = slot_find(m, address);

    if (s == NULL) {
        return false;
    }
    if (s->write_host != NULL) {
        uint8_t *host = s->write_host + (address - s->start);
        memcpy(host, &value, size);
        log_store(s, address);
        if (page_has_code(m, (uint64_t)host)) {
            lib.tb_invalidate_phys_range(m->uc, (uint64_t)host, (uint64_t)host + size);
        }
    }
    return true;
}

/* Accessed and dirty bits: as rarely as code lies in page tables, no check is made for it. */
static void rem_stl_phys_notdirty(void *cpu, uint64_t address, uint32_t value)
{
    Machine *m = machine_of_cpu(cpu);
    Slot *s;

    if (m == NULL) {
        orig_stl_phys_notdirty(cpu, address, value);
        return;
    }
    s = slot_find(m, address);
    if (s != NULL && s->write_host != NULL) {
        *(uint32_t *)(s->write_host + (address - s->start)) = value;
        log_store(s, address);
    }
}

static void rem_stl_phys(void *cpu, uint64_t address, uint32_t value)
{
    Machine *m = machine_of_cpu(cpu);

    if (m == NULL) {
        orig_stl_phys(cpu, address, value);
    } else {
        slot_store(m, address, value, 4);
    }
}

static void rem_stq_phys(void *cpu, uint64_t address, uint64_t value)
{
    Machine *m = machine_of_cpu(cpu);

    if (m == NULL) {
        orig_stq_phys(cpu, address, value);
    } else {
        slot_store(m, address, value, 8);
    }
}

const Reroute memory_reroutes[] = {
    {"tlb_set_page_with_attrs", (void *)rem_set_page, (void **)&orig_set_page},
    {"tlb_protect_code", (void *)rem_protect_code, (void **)&orig_protect_code},
    {"tlb_unprotect_code", (void *)rem_unprotect_code, (void **)&orig_unprotect_code},
    {"tlb_set_dirty", (void *)rem_set_dirty, (void **)&orig_set_dirty},
    {"tlb_reset_dirty_by_vaddr", (void *)rem_reset_dirty_by_vaddr, (void **)&orig_reset_dirty_by_vaddr},
    {"qemu_ram_addr_from_host", (void *)rem_ram_addr, (void **)&orig_ram_addr},
    {"x86_ldl_phys", (void *)rem_ldl_phys, (void **)&orig_ldl_phys},
    {"x86_ldq_phys", (void *)rem_ldq_phys, (void **)&orig_ldq_phys},
    {"x86_stl_phys_notdirty", (void *)rem_stl_phys_notdirty, (void **)&orig_stl_phys_notdirty},
    {"x86_stl_phys", (void *)rem_stl_phys, (void **)&orig_stl_phys},
    {"x86_stq_phys", (void *)rem_stq_phys, (void **)&orig_stq_phys},
    {NULL, NULL, NULL},
};

/* ---- fills know whether they are for a store ----------------------------------------------------- */

bool rem_tlb_fill(void *cpu, uint64_t address, int size, int access, int mode, bool probe, uintptr_t back)
{
    bool (*fill)(void *, uint64_t, int, int, int, bool, uintptr_t) = lib.x86_cpu_tlb_fill;

    machine_of_cpu(cpu)->filling_for_store = access == 1;
    return fill(cpu, address, size, access, mode, probe, back);
}
