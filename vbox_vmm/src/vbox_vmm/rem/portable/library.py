"""libunicorn in a copy of its own, taken in hand with thunks.

The library is copied into anonymous memory and loaded from there: what is changed in it concerns nobody else
who uses unicorn in this process, not even the native engine.  Every call inside it to a global function goes
through the global offset table; we write our thunks into the few slots that matter.  Loading costs some 25
MB.

References: System V ABI, AMD64 supplement, chapter 5 (relocations); ELF gABI chapter 5 (dynamic section).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Hashable, Mapping
from pathlib import Path

from attrs import frozen

from .compiler import Program
from .language import lib, python, u64
from .structures import REPLACEMENT_SIZE, Replacement
from .thunks import catalogue, memory, running, sse

SUFFIX = "_x86_64"
WANTED_VERSION = (2, 1, 4)
_PUBLIC = ("uc_open", "uc_close", "uc_ctl", "uc_hook_add", "uc_version")
_C_LIBRARY = ("memcpy", "memset", "clock_gettime", "prctl", "read")

_DT_PLTRELSZ, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 6, 7, 8, 23
_R_X86_64_64, _R_X86_64_JUMP_SLOT = 1, 7
_SYMBOL_SIZE = 24
_RTLD_DI_LINKMAP = 2


@frozen
class Library:
    """The entries that an engine needs, by address."""

    handle: ctypes.CDLL
    replacements: ctypes.Array[ctypes.c_char]
    replacement_count: int
    run: int
    timer_main: int
    on_exception: int
    tlb_fill: int
    exec_interrupt: int
    any_region: int
    forbid_stores: int
    invalidate_host: int
    update_hflags: int


def load(path: Path, callbacks: Mapping[str, int]) -> Library:
    """Load and reroute; `callbacks` are the functions of `python`.  ImportError names what is missing,
    OSError says that memory may not become executable."""
    handle = _load_copy(path)
    version = handle.uc_version(None, None)
    found = tuple(version >> shift & 0xFF for shift in (24, 16, 8))
    if found != WANTED_VERSION:
        raise ImportError(f"libunicorn is version {'.'.join(map(str, found))}, not 2.1.4")
    features = _host_features()
    replaced = list(catalogue.replaced(lambda name: _address(handle, name + SUFFIX), features))
    names = {*catalogue.CALLED, *catalogue.REROUTED_CALLS, *catalogue.REROUTED_TABLES}
    names |= {r.name for r in replaced}
    lib.define({name: _address(handle, name + SUFFIX) for name in names})
    lib.define({name: _address(handle, name) for name in _PUBLIC})
    c_library = ctypes.CDLL(None)
    lib.define({name: _address(c_library, name) for name in _C_LIBRARY})
    python.define(callbacks)

    program = Program()
    calls = _labels(program, catalogue.REROUTED_CALLS)
    tables = _labels(program, catalogue.REROUTED_TABLES)
    rows = [[program.add(thunk, **constants) for thunk, constants in r.thunks] for r in replaced]
    entries = {
        "run": program.add(running.run),
        "timer_main": program.add(running.timer_main),
        "on_exception": program.add(running.on_exception),
        "tlb_fill": program.add(memory.tlb_fill),
        "exec_interrupt": program.add(running.exec_interrupt),
        "any_region": program.add(memory.any_region),
        "forbid_stores": program.add(memory.forbid_stores),
        "invalidate_host": program.add(memory.invalidate_host),
        "update_hflags": program.add(memory.update_hflags),
    }
    at = program.load()

    image = _Image(handle)
    image.reroute(image.calls, _R_X86_64_JUMP_SLOT, {name: at(label) for name, label in calls.items()})
    image.reroute(image.all, _R_X86_64_64, {name: at(label) for name, label in tables.items()})
    replacements = ctypes.create_string_buffer(len(rows) * REPLACEMENT_SIZE)
    for number, (r, labels) in enumerate(zip(replaced, rows, strict=True)):
        row = Replacement(ctypes.addressof(replacements) + number * REPLACEMENT_SIZE)
        row.original = lib.addresses[r.name]
        for place, label in zip(Replacement.places, labels, strict=False):
            u64[row.address + place] = at(label)
    return Library(handle, replacements, len(rows), **{name: at(label) for name, label in entries.items()})


def _load_copy(path: Path) -> ctypes.CDLL:
    descriptor = os.memfd_create("libunicorn", os.MFD_CLOEXEC)
    try:
        with path.open("rb") as source:
            left = os.fstat(source.fileno()).st_size
            while left:
                left -= os.sendfile(descriptor, source.fileno(), None, left)
        mode = os.RTLD_LAZY | os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0)
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}", mode=mode)
    finally:
        os.close(descriptor)


def _address(handle: ctypes.CDLL, name: str) -> int:
    try:
        function = getattr(handle, name)
    except AttributeError:
        raise ImportError(f"libunicorn has no function {name}") from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _host_features() -> int:
    program = Program()
    label = program.add(sse.later_features)
    return int(ctypes.CFUNCTYPE(ctypes.c_uint64)(program.load()(label))())


def _labels(program: Program, thunks: Mapping[str, catalogue.Thunk]) -> dict[str, Hashable]:
    return {name: program.add(thunk, **constants) for name, (thunk, constants) in thunks.items()}


class _Image:
    """The loaded library as its dynamic section describes it."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        link_map = ctypes.c_void_p()
        dlinfo = ctypes.CDLL(None).dlinfo
        dlinfo.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        if dlinfo(handle._handle, _RTLD_DI_LINKMAP, ctypes.byref(link_map)) != 0 or not link_map.value:
            raise ImportError("the dynamic linker does not say where libunicorn is")
        self.base = u64[link_map.value]
        dynamic = u64[link_map.value + 16]
        tags: dict[int, int] = {}
        while tag := u64[dynamic]:
            tags[tag] = u64[dynamic + 8]
            dynamic += 16
        try:
            self.calls = self._relocations(tags[_DT_JMPREL], tags[_DT_PLTRELSZ])
            self.all = self._relocations(tags[_DT_RELA], tags[_DT_RELASZ])
            self._symbols = self._pointer(tags[_DT_SYMTAB])
        except KeyError as error:
            raise ImportError(f"libunicorn's dynamic section has no tag {error}") from None

    def _pointer(self, value: int) -> int:
        """Some C libraries leave the addresses of the dynamic section relative."""
        return value if value >= self.base else value + self.base

    def _relocations(self, at: int, size: int) -> memoryview:
        """Triples: where, type and symbol, addend."""
        view = (ctypes.c_char * size).from_address(self._pointer(at))
        return memoryview(view).cast("B").cast("Q")

    def reroute(self, relocations: memoryview, kind: int, thunks: Mapping[str, int]) -> None:
        """Write thunks wherever the library calls (or keeps the address of) their functions."""
        wanted = {lib.addresses[name] - self.base: name for name in thunks}
        missing = set(thunks)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        infos = relocations[1::3]
        for number, info in enumerate(infos):
            if info & 0xFFFF_FFFF != kind:
                continue
            name = wanted.get(u64[self._symbols + (info >> 32) * _SYMBOL_SIZE + 8])
            if name is None:
                continue
            slot = self.base + relocations[number * 3]
            # Tables of addresses are read-only after relocation.
            if protect(slot & -mmap.PAGESIZE, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            u64[slot] = thunks[name]
            missing.discard(name)
        if missing:
            raise ImportError(f"libunicorn does not call {', '.join(sorted(missing))} through a slot")
