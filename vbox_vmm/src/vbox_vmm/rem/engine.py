"""Class `Rem`: the Engine of `vbox_pdm.engine` on Unicorn.

What is hot is in the class `Core` of `_native` or of `portable`, with which `NativeRem` and `PortableRem`
join this.  Here are the choice of the CPU and the CPU state.

`CpuState.msr` has, under the number of IA32_TSC_ADJUST, the guest's own offset (its writes to IA32_TSC);
the counter itself belongs to the kernel, which sets it with `set_tsc`.

What Unicorn's CPU model has not, and this engine does not add: virtual-8086 mode extensions (VME), a local
APIC, AVX and XSAVE, SVM and VMX, machine checks, the #AC alignment check, segment limits (a load beyond
one succeeds; bases, rights and presence are honoured), RF in the frames of faults other than code
breakpoints.  Breakpoints of all four kinds work; data breakpoints see the loads and stores of translated
code, not those of complex instructions (native/debug.c has the list).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from vbox_pdm.engine import CpuModel, CpuState, EngineHost, ExitReason, Segment

from . import cpuid

_REASONS = (ExitReason.KICKED, ExitReason.HALTED, ExitReason.TRIPLE_FAULT, ExitReason.FAILED)
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
_PLAIN = (
    *("gpr", "rip", "rflags", "gdtr", "idtr", "cr8", "efer"),
    *("dr", "fpu", "msr", "interrupt_shadow", "halted", "nmi_blocked", "nmi_pending"),
    "ignores_fpu_errors",
)


if TYPE_CHECKING:
    from ._native import Core as _Core
else:
    _Core = object  # this, or the portable one, comes with the derived class


class Rem(_Core):
    """One vCPU.  Created with `create`, in the power-on state."""

    attends = False

    @classmethod
    def create(cls, host: EngineHost, cpu: CpuModel, fast_stores: bool = True) -> Self:
        """Needs the library to have been loaded; `probe.engine` sees to that."""
        model = cpuid.resolve(cpu)
        return cls(
            host,
            _REASONS,
            model.rows,
            model.features,
            model.vendor,
            model.signature,
            cpu.translation_buffer,
            fast_stores,
        )

    def get_state(self) -> CpuState:
        raw = self.state()
        fields: dict[str, Any] = {name: raw[name] for name in _PLAIN}
        fields.update(zip(_SEGMENTS, (Segment(*values) for values in raw["segments"]), strict=True))
        cr0, _, cr2, cr3, cr4 = raw["cr"]
        return CpuState(cr0=cr0, cr2=cr2, cr3=cr3, cr4=cr4, **fields)

    def set_state(self, state: CpuState) -> None:
        raw: dict[str, Any] = {name: getattr(state, name) for name in _PLAIN}
        raw["cr"] = [state.cr0, 0, state.cr2, state.cr3, state.cr4]
        segments: list[Segment] = [getattr(state, name) for name in _SEGMENTS]
        raw["segments"] = [(s.selector, s.base, s.limit, s.attributes) for s in segments]
        self.load_state(raw)
