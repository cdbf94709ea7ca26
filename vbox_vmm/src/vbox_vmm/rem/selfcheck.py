"""A guest of nine instructions that modifies its own code through an alias.

1000  call 1100          ; mov al, 1 / ret
1003  add  bl, al
1005  mov  byte [5101], 2 ; the immediate, in the alias of the page
100a  call 1100
100d  add  bl, al
100f  mov  byte [5101], 4
1014  call 1100
1017  add  bl, al
1019  hlt                ; BL = 1 + 2 + 4
"""

from __future__ import annotations

import ctypes
import mmap

from vbox_pdm.engine import CpuModel, CpuState, ExitReason, Segment

from .engine import Rem

_MAIN = bytes.fromhex("e8fd00 00c3 c606015102 e8f300 00c3 c606015104 e8e900 00c3 f4")
_CALLED = bytes.fromhex("b001 c3")


class _Nobody:
    """A host without devices."""

    def acknowledge_interrupt(self) -> int:
        return -1

    def attend(self) -> bool:
        return True

    def fpu_error(self) -> None:
        raise AssertionError("the check has no errors of the FPU")

    def acknowledge_failed(self, error: BaseException) -> None:
        raise AssertionError("nothing is acknowledged") from error

    def handler_failed(
        self, owner: object, offset: int, size: int, value: int | None, error: BaseException
    ) -> None:
        raise AssertionError("the check has no handlers")


def aliased_code_is_noticed(engine: type[Rem]) -> bool:
    memory = mmap.mmap(-1, 0x2000)
    memory[:0x1A] = _MAIN
    memory[0x100:0x103] = _CALLED
    view = ctypes.c_char.from_buffer(memory)
    rem = engine.create(_Nobody(), CpuModel(translation_buffer=1 << 20), fast_stores=True)
    try:
        rem.map_ram(0x1000, 0x2000, ctypes.addressof(view), ctypes.addressof(view))
        rem.map_ram(0x5000, 0x1000, ctypes.addressof(view), ctypes.addressof(view))
        state = CpuState(rip=0x1000, cs=Segment(0, 0, 0xFFFF, 0x9B00))
        state.gpr[4] = 0x3000
        rem.set_state(state)
        return rem.run() is ExitReason.HALTED and rem.get_state().gpr[3] & 0xFF == 7
    finally:
        rem.close()
        del view
        memory.close()
