"""A PCI function that copies memory, and what can be wrong with it."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from faulty import correct, faulty

from vbox_pdm import Capability, Device, Mmio, PciIdentity, Reg32, RegisterMap, State, Width


class Registers(RegisterMap):
    SOURCE = Reg32(0)
    TARGET = Reg32(4)
    LENGTH = Reg32(8, bits=0xFF)
    CONTROL = Reg32(12, bits=3, fields={"GO": 0, "DONE": 1}, effect="write GO: copies; write DONE: clears it")


@frozen
class CopierState(State, version=1):
    source: int
    target: int
    length: int
    done: bool


@correct
class Copier(Device[None]):
    """GO copies LENGTH bytes and sets DONE; the interrupt pin is DONE."""

    capabilities: Any = ()

    def pdm_construct(self) -> None:
        identity = PciIdentity(0x1234, 0x0001, class_code=0xFF0000)
        self.pci = self.helpers.pci(identity, capabilities=self.capabilities)
        region = Mmio("copier", 16, self.read, self.write, registers=Registers, width=Width.DWORD)
        self.pci.bar(0, region)
        self.pdm_reset()

    def pdm_reset(self) -> None:
        self.source = self.target = self.length = 0
        self.finish(False)

    def finish(self, done: bool) -> None:
        self.done = done
        self.pci.set_irq(done)

    def read(self, offset: int, size: int) -> int:
        return (self.source, self.target, self.length, self.done << 1)[offset // 4]

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.source = value
        elif offset == 4:
            self.target = value
        elif offset == 8:
            self.length = value & 0xFF
        else:
            self.finish(self.done and not value & 2)
            if value & 1:
                self.copy()
                self.finish(True)

    def copy(self) -> None:
        with self.pci.dma(self.source, self.length) as views:
            data = b"".join(views)
        self.store(data)

    def store(self, data: bytes) -> None:
        with self.pci.dma(self.target, len(data), write=True) as views:
            at = 0
            for view in views:
                view[:] = data[at : at + len(view)]
                at += len(view)

    def pdm_save(self) -> CopierState:
        return CopierState(self.source, self.target, self.length, self.done)

    def pdm_load(self, state: CopierState) -> None:
        self.source, self.target = state.source, state.target
        self.length, self.done = state.length, state.done


@faulty("bus-master", "helpers.memory_write")
class StoresPastItsFunction(Copier):
    def store(self, data: bytes) -> None:
        self.helpers.memory_write(self.target, data)


@faulty("bus-master", "helpers.dma(")
class TransfersPastItsFunction(Copier):
    def copy(self) -> None:
        with self.helpers.dma(self.source, self.length) as views:
            data = b"".join(views)
        self.store(data)


@faulty("dma-released", "not released at the end")
class KeepsItsTransfer(Copier):
    def copy(self) -> None:
        self.transfer = self.pci.dma(self.source, self.length)
        self.store(b"".join(self.transfer.views))


@faulty("lines-low", "the PCI interrupt")
class InterruptsAfterReset(Copier):
    def pdm_reset(self) -> None:
        super().pdm_reset()
        self.pci.set_irq(True)


@faulty("pci", "VENDOR")
class BecomesAnother(Copier):
    """After the first copy it shows another vendor."""

    def copy(self) -> None:
        super().copy()
        self.pci.set_config(0, b"\x78\x56")


@faulty("pci", "the capability list leads to")
class LoopsItsCapabilities(Copier):
    capabilities = (Capability(9, bytes(2)), Capability(9, bytes(2)))

    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.pci.custom(0x45, b"\x40")


@faulty("pci", "BAR2 is not declared")
class HasABarOfItsOwn(Copier):
    """A BAR that decodes nothing, made by hand."""

    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.pci.custom(0x18, bytes(4), b"\x00\xf0\xff\xff")


@faulty("pci", "STATUS does not say")
class HidesItsCapabilities(Copier):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.pci.custom(0x34, b"\x40")
