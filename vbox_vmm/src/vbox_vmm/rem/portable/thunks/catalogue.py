"""Which thunk stands for which function of Unicorn's.

Rerouted functions are those that the library calls (or keeps the address of) through a slot; replaced ones
are helpers, whose calls the translator emits.  Names are without the suffix of the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen

from . import debug, exits, helpers, memory, ports, running, sse, sse_strings, translation, x87_code

Thunk = tuple[Callable[..., Any], dict[str, Any]]
_LETTERS = {"b": 1, "w": 2, "l": 4}


@frozen
class Replaced:
    """A helper and its thunk; for a port helper also what checks INS and OUTS, and what serves their repeated
    forms with addresses of 16, 32 and 64 bits."""

    name: str
    thunks: tuple[Thunk, ...]


REROUTED_CALLS: dict[str, Thunk] = {
    "tcg_gen_callN": (translation.call_helper, {}),
    "tcg_gen_exit_tb": (translation.exit_block, {}),
    "tcg_temp_new_internal": (translation.new_temporary, {}),
    "tlb_set_page_with_attrs": (memory.set_page, {}),
    "tlb_protect_code": (memory.protect_code, {}),
    "tlb_unprotect_code": (memory.unprotect_code, {}),
    "tlb_set_dirty": (memory.nothing, {}),
    "tlb_reset_dirty_by_vaddr": (memory.nothing, {}),
    "qemu_ram_addr_from_host": (memory.ram_address, {}),
    "x86_ldl_phys": (memory.load_u32, {}),
    "x86_ldq_phys": (memory.load_u64, {}),
    "x86_stl_phys_notdirty": (memory.store_flags, {}),
    "x86_stl_phys": (memory.store_u32, {}),
    "x86_stq_phys": (memory.store_u64, {}),
    "memory_region_dispatch_read": (exits.dispatch_read, {}),
    "memory_region_dispatch_write": (exits.dispatch_write, {}),
    "cpu_ldub_mmuidx_ra": (exits.helper_load, {"size": 1}),
    "cpu_lduw_mmuidx_ra": (exits.helper_load, {"size": 2}),
    "cpu_ldl_mmuidx_ra": (exits.helper_load, {"size": 4}),
    "cpu_ldq_mmuidx_ra": (exits.helper_load, {"size": 8}),
    "cpu_stb_mmuidx_ra": (exits.helper_store, {"size": 1}),
    "cpu_stw_mmuidx_ra": (exits.helper_store, {"size": 2}),
    "cpu_stl_mmuidx_ra": (exits.helper_store, {"size": 4}),
    "cpu_stq_mmuidx_ra": (exits.helper_store, {"size": 8}),
    "cpu_abort": (running.abort, {}),
    "raise_exception_err": (running.raise_exception_err, {}),
    "raise_exception_err_ra": (running.raise_exception_err_ra, {}),
    "cpu_watchpoint_insert": (debug.watchpoint_insert, {}),
}

REROUTED_TABLES: dict[str, Thunk] = {
    "helper_ret_ldub_mmu": (exits.load, {"size": 1}),
    "helper_le_lduw_mmu": (exits.load, {"size": 2}),
    "helper_le_ldul_mmu": (exits.load, {"size": 4}),
    "helper_le_ldq_mmu": (exits.load, {"size": 8}),
    "helper_ret_stb_mmu": (exits.store, {"size": 1}),
    "helper_le_stw_mmu": (exits.store, {"size": 2}),
    "helper_le_stl_mmu": (exits.store, {"size": 4}),
    "helper_le_stq_mmu": (exits.store, {"size": 8}),
}

CALLED = (
    *("cpu_exec", "x86_cpu_do_interrupt", "do_interrupt_x86_hardirq", "x86_cpu_tlb_fill"),
    *("x86_cpu_exec_interrupt", "x86_cpu_set_a20", "x86_update_hflags", "cpu_x86_update_cr4"),
    *("cpu_x86_update_dr7", "update_fp_status", "update_mxcsr_status", "cpu_loop_exit_restore"),
    *("tlb_flush", "tb_flush", "tb_invalidate_phys_range", "gen_new_label"),
    *("tcg_temp_free_internal", "tcg_gen_op1", "tcg_gen_op3", "tcg_gen_brcondi_i32"),
    *("cpu_lduw_data_ra", "cpu_ldq_data_ra", "cpu_stw_data_ra", "cpu_stl_data_ra", "cpu_stq_data_ra"),
    *("helper_cc_compute_all", "helper_cli", "helper_check_exit_request"),
)
"""What thunks and the engine call beside those that are rerouted or replaced."""

_PLAIN = (
    helpers.syscall, helpers.sysenter, helpers.raise_interrupt, helpers.into, helpers.read_crN,
    helpers.write_crN, helpers.ldmxcsr, helpers.iret_protected, helpers.ltr, helpers.rdpmc, helpers.rdtsc,
    helpers.rdtscp, helpers.rdmsr, helpers.wrmsr, helpers.cpuid, debug.debug, debug.get_dr, debug.set_dr,
)  # fmt: skip
_HORIZONTAL = ("phaddw", "phaddd", "phaddsw", "phsubw", "phsubd", "phsubsw")


def replaced(address: Callable[[str], int], features: int) -> Iterator[Replaced]:
    """All replaced helpers; `address` finds an original, `features` is what the host has."""
    for thunk in _PLAIN:
        yield Replaced(f"helper_{thunk.__name__}", ((thunk, {}),))
    for letter, is_explicit in (("e", 1), ("i", 0)):
        for result, is_mask in (("i", 0), ("m", 1)):
            constants = {"is_explicit": is_explicit, "is_mask": is_mask}
            yield Replaced(f"helper_pcmp{letter}str{result}_xmm", ((sse_strings.compare, constants),))
    for name in _HORIZONTAL:
        full = f"helper_{name}_xmm"
        yield Replaced(full, ((helpers.horizontal, {"original": address(full)}),))
    for letter, size in _LETTERS.items():
        check = (ports.string_check, {"size": size})
        ways = ((ports.port_in, ports.string_in, "in"), (ports.port_out, ports.string_out, "out"))
        for item, string, way in ways:
            bulk = ((string, {"size": size, "bits": bits}) for bits in (16, 32, 64))
            yield Replaced(f"helper_{way}{letter}", ((item, {"size": size}), check, *bulk))
    for name, thunk, constants in (*sse.replacements(features), *x87_code.replacements()):
        yield Replaced(f"helper_{name}", ((thunk, constants),))
