"""What CPUID says, and what the translator may use.

The default is an AMD processor of family 15 with the later features that Unicorn's translator does well.
AMD, because Linux then leaves page-table isolation off, which costs up to nine times per system call
here.  Family 15, because none of the later families' speculation workarounds apply to it.

Left out on purpose: what is not there (an APIC, AVX, XSAVE, SVM), what does not work (MONITOR, VME; BMI1 and
BMI2, of which BZHI, BEXTR, BLSI and PDEP are wrong), and what makes guests slower here than they are without
(ERMS: string moves in bytes; SMAP: a translation block ends at each STAC and CLAC).

Feature names are those of Linux' /proc/cpuinfo; other spellings with `.` or `-` for `_` are taken too.
References: AMD APM volume 3 appendix E, Intel SDM volume 2 CPUID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import frozen

from vbox_pdm.engine import CpuModel

ANY_SUBLEAF = 0xFFFF_FFFF

# Unicorn's feature words, by their number
WORD_1_EDX, WORD_1_ECX, WORD_7_EBX, WORD_7_ECX, WORD_7_EDX = range(5)
WORD_8000_0001_EDX, WORD_8000_0001_ECX, WORD_8000_0007_EDX, WORD_8000_0008_EBX = range(6, 10)
WORDS = 10

_NAMES: Mapping[int, str] = {
    WORD_1_EDX: "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush"
    " - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    WORD_1_ECX: "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm"
    " - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c"
    " rdrand hypervisor",
    WORD_7_EBX: "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a"
    " avx512f avx512dq rdseed adx smap - - clflushopt clwb intel_pt",
    WORD_7_ECX: "- - umip pku ospke",
    WORD_8000_0001_EDX: "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb"
    " rdtscp - lm 3dnowext 3dnow",
    WORD_8000_0001_ECX: "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw"
    " ibs xop skinit wdt - lwp fma4 tce",
    WORD_8000_0007_EDX: "- - - - - - - - constant_tsc",
    WORD_8000_0008_EBX: "clzero - - - - - - - - - - - ibpb - ibrs stibp - - - - - - - - amd_ssbd virt_ssbd"
    " amd_ssb_no",
}
FEATURES: Mapping[str, tuple[int, int]] = {
    name: (word, bit)
    for word, names in _NAMES.items()
    for bit, name in enumerate(names.split())
    if name != "-"
}
"""Name -> (feature word, bit)."""

ALIASES: Mapping[str, str] = {"pni": "sse3", "invtsc": "constant_tsc", "xd": "nx", "lzcnt": "abm"}

_OFFERED = """
    fpu de pse tsc msr pae mce cx8 sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2
    sse3 pclmulqdq ssse3 cx16 sse4_1 sse4_2 movbe popcnt aes rdrand
    fsgsbase smep adx
    syscall nx mmxext pdpe1gb rdtscp lm
    lahf_lm cr8_legacy abm sse4a 3dnowprefetch constant_tsc amd_ssb_no
"""
_ON_REQUEST = """
    apic x2apic ss acpi ht monitor hypervisor tsc_adjust smap erms clflushopt clwb pku bmi1 bmi2
    3dnow 3dnowext fxsr_opt cmp_legacy
"""

DEFAULT_FEATURES = frozenset(_OFFERED.split())
"""The default model.  No `apic` until there is a local APIC to answer."""

SUPPORTED = DEFAULT_FEATURES | frozenset(_ON_REQUEST.split())
"""What a CpuModel may ask for with `with_`."""

# AMD repeats these bits of leaf 1 EDX in leaf 0x80000001 EDX
_REPEATED = 0x0183_F3FF


@frozen
class Cpu:
    """A resolved model: what the native module is given."""

    vendor: bytes
    signature: int
    features: tuple[int, ...]
    rows: tuple[tuple[int, int, int, int, int, int], ...]
    """(leaf, subleaf, EAX, EBX, ECX, EDX)"""


@frozen
class _Model:
    vendor: bytes
    brand: str
    family: int
    model: int
    stepping: int
    features: frozenset[str]

    @property
    def signature(self) -> int:
        base, extended = min(self.family, 15), max(self.family - 15, 0)
        return extended << 20 | (self.model >> 4) << 16 | base << 8 | (self.model & 15) << 4 | self.stepping


MODELS: Mapping[str, _Model] = {
    "default": _Model(b"AuthenticAMD", "vbox-vmm REM virtual CPU", 15, 0x6B, 1, DEFAULT_FEATURES),
}


def resolve(cpu: CpuModel) -> Cpu:
    """The CPUID table of a model; ValueError names what is unknown."""
    model = MODELS.get(cpu.name)
    if model is None:
        raise ValueError(f"REM has no CPU model {cpu.name!r}; it has {', '.join(sorted(MODELS))}")
    added, removed = set(_known(cpu.with_)), set(_known(cpu.without))
    if missing := added - SUPPORTED:
        raise ValueError(f"REM cannot offer the CPU feature {', '.join(sorted(missing))}")
    words = _words((model.features | added) - removed)
    return Cpu(model.vendor, model.signature, words, tuple(_rows(model, words)))


def _known(names: Iterable[str]) -> list[str]:
    result = []
    for name in names:
        plain = name.lower().replace(".", "_").replace("-", "_")
        plain = ALIASES.get(plain, plain)
        if plain not in FEATURES:
            raise ValueError(f"there is no CPU feature {name!r}")
        result.append(plain)
    return result


def _words(names: Iterable[str]) -> tuple[int, ...]:
    words = [0] * WORDS
    for name in names:
        word, bit = FEATURES[name]
        words[word] |= 1 << bit
    words[WORD_8000_0001_EDX] |= words[WORD_1_EDX] & _REPEATED
    return tuple(words)


def _rows(model: _Model, words: tuple[int, ...]) -> Iterable[tuple[int, int, int, int, int, int]]:
    b, d, c = (int.from_bytes(model.vendor[i : i + 4], "little") for i in (0, 4, 8))
    yield 0, ANY_SUBLEAF, 7, b, c, d
    yield 1, ANY_SUBLEAF, model.signature, 8 << 8, words[WORD_1_ECX], words[WORD_1_EDX]
    yield 7, 0, 0, words[WORD_7_EBX], words[WORD_7_ECX], words[WORD_7_EDX]
    yield 0x8000_0000, ANY_SUBLEAF, 0x8000_0008, b, c, d
    yield 0x8000_0001, ANY_SUBLEAF, model.signature, 0, words[WORD_8000_0001_ECX], words[WORD_8000_0001_EDX]
    brand = model.brand.encode().ljust(48, b"\0")
    for i in range(3):
        a, b, c, d = (int.from_bytes(brand[i * 16 + k : i * 16 + k + 4], "little") for k in (0, 4, 8, 12))
        yield 0x8000_0002 + i, ANY_SUBLEAF, a, b, c, d
    # caches: 64 KiB L1 (two-way, 64-byte lines), 512 KiB L2 (16-way)
    yield 0x8000_0005, ANY_SUBLEAF, 0x01FF_01FF, 0x01FF_01FF, 0x4002_0140, 0x4002_0140
    yield 0x8000_0006, ANY_SUBLEAF, 0, 0x4200_4200, 0x0200_8140, 0
    yield 0x8000_0007, ANY_SUBLEAF, 0, 0, 0, words[WORD_8000_0007_EDX]
    # 40 bits of physical addresses, 48 of virtual ones
    yield 0x8000_0008, ANY_SUBLEAF, 0x3028, words[WORD_8000_0008_EBX], 0, 0
