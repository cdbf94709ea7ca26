"""What PDM asks of its surroundings.  The VM implements it, and so does the bench's backend.

All of it is for the EMT (or whoever holds the VM's lock) unless the docstring says "any thread".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.helpers import ResetSource, RuntimeErrorFlags

if TYPE_CHECKING:
    from vbox_vmm.cfgm import Node
    from vbox_vmm.iom import Iom
    from vbox_vmm.pgm import Pgm
    from vbox_vmm.tm import TimeManager


class IomServices(Protocol):
    """What IOM asks of its surroundings."""

    @property
    def catalogue(self) -> Catalogue:
        """Its `manager` has the `pdm_wrap_region` hooks."""

    @property
    def pgm(self) -> Pgm: ...

    def runtime_error(self, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        """Any thread: tell the user; flags say what happens to the VM."""


class PdmServices(IomServices, Protocol):
    """What PDM asks of its surroundings."""

    @property
    def cfgm(self) -> Node:
        """The root of the configuration tree."""

    @property
    def tm(self) -> TimeManager: ...

    @property
    def iom(self) -> Iom: ...

    @property
    def random(self) -> random.Random:
        """The VM's seeded source."""

    def post(self, request: Callable[[], None]) -> None:
        """Any thread: run `request` on the EMT soon; what it raises is logged."""

    def deliver(self, request: Callable[[], None]) -> None:
        """As `post`, for what may run while the guest stands between two instructions."""

    def kick(self) -> None:
        """Any thread: the EMT looks around soon."""

    def wait_requests(self, seconds: float) -> None:
        """Serve what was posted and run due timers; when there was nothing, sleep (the VM's lock
        released) until something is posted, a timer is due, or `seconds` are over."""

    acknowledge_interrupt: Callable[[], int]
    """INTA: PDM puts the interrupt controller's method here."""

    def interrupt(self, level: bool) -> None:
        """Drive the CPU's INTR; no effect without an engine."""

    def ignore_fpu_errors(self) -> None:
        """IGNNE#; no effect without an engine."""

    def nmi(self) -> None:
        """One NMI edge at the CPU."""

    def request_reset(self, source: ResetSource, soft: bool) -> None:
        """A reset at the next boundary."""

    def request_power_off(self, code: int) -> None:
        """Any thread: power off at the next boundary."""

    def current_cpu(self) -> int:
        """The vCPU whose access is being served; 0 otherwise."""

    def is_emt(self) -> bool:
        """Any thread: whether it is the EMT."""

    def assert_emt(self) -> None:
        """Raise VERR_VM_THREAD_NOT_EMT on any other thread."""
