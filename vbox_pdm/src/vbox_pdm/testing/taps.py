"""What a bench records: the taps on wires, messages, requests and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import ResetSource, RuntimeErrorFlags
from vbox_pdm.testing.backend import BenchBackend, Failure
from vbox_pdm.testing.dmac import FakeDmac


class Edge(NamedTuple):
    """A wire changed: at `ns` of the virtual clock, ISA line or (slot, pin 1..4), to `level`."""

    ns: int
    line: int | tuple[int, int]
    level: bool


class Message(NamedTuple):
    """An MSI or MSI-X message."""

    address: int
    data: int


class ResetRequest(NamedTuple):
    """A device asked for a reset; `soft` is a CPU INIT."""

    source: ResetSource
    soft: bool


class RuntimeErrorReport(NamedTuple):
    """An instance set a runtime error."""

    title: str
    flags: RuntimeErrorFlags
    error_id: str
    text: str


class FakeRtc:
    """The stand-in for CMOS: a dict; what was never set reads as 0."""

    def __init__(self) -> None:
        self.cmos: dict[int, int] = {}

    def cmos_read(self, index: int) -> int:
        """A byte."""
        return self.cmos.get(index, 0)

    def cmos_write(self, index: int, value: int) -> None:
        """Set a byte."""
        self.cmos[index] = value & 0xFF


class Taps:
    """`BenchTaps` that remember."""

    def __init__(self, now: Callable[[], int], dmac: FakeDmac, files: Mapping[str, bytes]) -> None:
        self.rtc = FakeRtc()
        self.dmac = dmac
        self.irq_edges: list[Edge] = []
        self.pci_irq_edges: list[Edge] = []
        self.intr_edges: list[tuple[int, bool]] = []
        self.messages: list[Message] = []
        self.nmis = 0
        self.ignored_fpu_errors = 0
        self.resets: list[ResetRequest] = []
        self.exit_code: int | None = None
        self.runtime_errors: list[RuntimeErrorReport] = []
        self.log_lines: list[str] = []
        self.dma_ranges: list[tuple[int, int]] = []
        self.failures: list[Failure] = []
        self._now = now
        self._files = files

    def host_file(self, name: str, most: int) -> bytes:
        data = self._files.get(name)
        if data is None:
            raise PdmError(
                "VERR_FILE_NOT_FOUND", f"The bench has no file '{name}'", "Give it: Bench(files=...)"
            )
        if len(data) > most:
            raise PdmError("VERR_FILE_TOO_BIG", f"'{name}' has {len(data)} bytes, more than {most}")
        return data

    def isa_irq(self, line: int, level: bool) -> None:
        """See `BenchTaps`; so are the rest."""
        self.irq_edges.append(Edge(self._now(), line, level))

    def intx(self, device: int, pin: int, level: bool) -> None:
        self.pci_irq_edges.append(Edge(self._now(), (device, pin + 1), level))

    def message(self, address: int, data: int) -> None:
        self.messages.append(Message(address, data))

    def interrupt(self, level: bool) -> None:
        self.intr_edges.append((self._now(), level))

    def fpu_errors_ignored(self) -> None:
        self.ignored_fpu_errors += 1

    def nmi(self) -> None:
        self.nmis += 1

    def reset_requested(self, source: ResetSource, soft: bool) -> None:
        self.resets.append(ResetRequest(source, soft))

    def power_off_requested(self, exit_code: int) -> None:
        self.exit_code = exit_code

    def runtime_error(self, title: str, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        self.runtime_errors.append(RuntimeErrorReport(title, flags, error_id, text))

    def dma_written(self, address: int, length: int) -> None:
        self.dma_ranges.append((address, length))

    def log_line(self, title: str, level: int, text: str) -> None:
        self.log_lines.append(f"{title}: {text}")

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


class TapViews:
    """What a Bench shows of its taps."""

    backend: BenchBackend
    _taps: Taps

    def irq(self, line: int) -> bool:
        """The level of ISA line 0..15: high while any owner holds it."""
        return self.backend.isa_level(line)

    @property
    def irq_edges(self) -> list[Edge]:
        """Every change of an ISA line: (ns, line, level).  Loading a state changes none."""
        return self._taps.irq_edges

    @property
    def pci_irq_edges(self) -> list[Edge]:
        """Every change of an INTx pin: (ns, (slot, pin 1..4), level)."""
        return self._taps.pci_irq_edges

    @property
    def messages(self) -> list[Message]:
        """MSI and MSI-X messages: (address, data)."""
        return self._taps.messages

    @property
    def intr(self) -> bool:
        """INTR, as the interrupt controller drives it; False without one."""
        return self.backend.interrupt_level()

    @property
    def intr_edges(self) -> list[tuple[int, bool]]:
        """Every change of INTR: (ns, level)."""
        return self._taps.intr_edges

    @property
    def ignored_fpu_errors(self) -> int:
        """How often IGNNE# was asserted."""
        return self._taps.ignored_fpu_errors

    @property
    def nmis(self) -> int:
        """How many NMI edges reached the CPU."""
        return self._taps.nmis

    @property
    def resets(self) -> list[ResetRequest]:
        """Resets that devices asked for: (source, soft).  The test carries them out, or not."""
        return self._taps.resets

    @property
    def exit_code(self) -> int | None:
        """The exit code of a power off that was asked for; None when none was."""
        return self._taps.exit_code

    def forget_exit_code(self) -> None:
        """Nobody has asked for a power off."""
        self._taps.exit_code = None

    @property
    def a20(self) -> bool:
        """Whether address bit 20 passes."""
        return self.backend.a20

    @property
    def runtime_errors(self) -> list[RuntimeErrorReport]:
        """Runtime errors: (title, flags, error id, text)."""
        return self._taps.runtime_errors

    @property
    def log_lines(self) -> list[str]:
        """What instances logged, as "serial#0: text"."""
        return self._taps.log_lines

    @property
    def failures(self) -> list[Failure]:
        """What plugins raised where they must not."""
        return self._taps.failures

    @property
    def cmos(self) -> dict[int, int]:
        """The bytes of the stand-in for CMOS, used while no device plays the RTC."""
        return self._taps.rtc.cmos

    @property
    def dma_written(self) -> list[tuple[int, int]]:
        """Ranges of guest RAM that were held for writing and released: (address, length)."""
        return self._taps.dma_ranges
