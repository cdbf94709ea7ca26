"""All hooks: the catalogue (once per process), the VM, and the life of an instance.

Traffic between neighbours has hooks of its own, generated from the layers (`layers`, `links`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from vbox_pdm.device import DeviceType
    from vbox_pdm.driver import DriverType
    from vbox_pdm.engine import EngineType
    from vbox_pdm.regions import Region
    from vbox_pdm.state import State
    from vbox_pdm.testing.conformance import Setup

PROJECT = "vbox"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class CatalogueSpecs:
    """Called once, when the plugin is loaded.  Register types; build nothing, touch nothing."""

    @hookspec
    def vbox_register_devices(self, register: Callable[[DeviceType], None]) -> None:
        """Hand each DeviceType to `register`."""

    @hookspec
    def vbox_register_drivers(self, register: Callable[[DriverType], None]) -> None:
        """Hand each DriverType to `register`."""

    @hookspec
    def vbox_register_engines(self, register: Callable[[EngineType], None]) -> None:
        """Hand each EngineType to `register`."""

    @hookspec(firstresult=True)
    def vbox_conformance_setup(self, name: str, folder: Path) -> Setup | None:
        """For tests only: what the conformance kit cannot guess of the type `name` (keys that must be
        given, files of the host, neighbours), as a `vbox_pdm.testing.conformance.Setup`; None for
        other types and when there is nothing to say.  `folder` is an empty folder that lasts as long
        as the check.  Import Setup within the function."""


class VmSpecs:
    """Asked by the kernel while it wires a VM."""

    @hookspec
    def pdm_wrap_region(self, instance: Any, region: Region) -> Region | None:
        """Asked once for each port or MMIO region when it is mapped; return
        `region.with_handlers(...)` to wrap its handlers, or None.  Several plugins wrap in the
        order of their registration, the last outermost.  `instance` has `name` ("serial"),
        `number` and `object`."""

    @hookspec
    def pdm_link_created(self, instance: Any, lun: int, link: Any) -> None:
        """A link below `instance` (a device, or a driver of a chain; lun is 0 for a driver) was
        made or its chain changed; `link.observe(...)` registers wrappers on its traffic, and
        `link.unobserve(...)` ends that."""


class InstanceSpecs:
    """The life of an instance, in this order.  All run on the EMT or before it exists, serialised
    by the VM's lock, never after `pdm_destruct`."""

    @hookspec
    def pdm_construct(self) -> None:
        """Claim everything: regions, interrupts, timers, queues, LUNs, roles.  Neighbours of other
        classes may not exist yet.  Raising aborts the VM's creation; destruct still follows."""

    @hookspec
    def pdm_init_complete(self) -> None:
        """All instances are constructed; other roles may be used.  Raising aborts creation."""

    @hookspec
    def pdm_mem_setup(self, at_reset: bool) -> None:
        """After creation and again after each reset: put tables into guest memory, shadow ROM."""

    @hookspec
    def pdm_power_on(self) -> None:
        """The guest starts next."""

    @hookspec
    def pdm_reset(self) -> None:
        """Hard reset: all guest-visible state back to power-on values, interrupt lines low."""

    @hookspec
    def pdm_soft_reset(self) -> None:
        """CPU INIT: most devices ignore it."""

    @hookspec
    def pdm_suspend(self) -> None:
        """The VM pauses: virtual clocks stand still.  Drain or park what is under way."""

    @hookspec
    def pdm_resume(self) -> None:
        """The VM goes on."""

    @hookspec
    def pdm_power_off(self) -> None:
        """The VM is going away; the guest does not run again."""

    @hookspec
    def pdm_destruct(self) -> None:
        """Give back what the host did not make (files, sockets).  Always called exactly once, also
        after a failed construct; what helpers made is freed by the host afterwards."""

    @hookspec
    def pdm_attach(self, lun: int) -> None:
        """Run time: a driver chain was plugged below LUN `lun`; its link is connected."""

    @hookspec
    def pdm_detach(self, lun: int) -> None:
        """Run time: the chain below LUN `lun` is about to go."""

    @hookspec(firstresult=True)
    def pdm_save(self) -> State | None:
        """The state that helpers do not keep; None when there is none."""

    @hookspec
    def pdm_load(self, state: Any) -> None:
        """Take over a state (already decoded as the class that `pdm_save` is annotated with).
        May be called many times; raises no interrupt."""

    @hookspec(firstresult=True)
    def pdm_info(self, arguments: str) -> str | None:
        """A text for people: registers, queues, what goes on."""
