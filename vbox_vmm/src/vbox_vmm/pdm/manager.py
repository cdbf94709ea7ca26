"""PDM: it builds the devices and drivers of a VM, leads them through their lives, and takes them apart.

Facts: pdm.md.  Instances are built in the order of their classes, then told of each change of the VM
in that order (drivers of a LUN before their device); what they made is freed after their destruct, also
when construction failed half-way.

All is called on the EMT, or by whoever holds the VM's lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from attrs import define

from vbox_pdm import config
from vbox_pdm.chains import Lun
from vbox_pdm.errors import ConfigError, PdmError
from vbox_pdm.helpers import Dmac, FpuErrors, Pic, Rtc, RuntimeErrorFlags
from vbox_pdm.instance import Instance, Phase
from vbox_pdm.layers import Layer
from vbox_pdm.life import DeviceNode, Notifier, construct_error
from vbox_vmm import hostfiles
from vbox_vmm.pdm import roles, saved
from vbox_vmm.pdm.device_helpers import DeviceHelpers
from vbox_vmm.pdm.lines import IntxPins, IsaLines
from vbox_vmm.pdm.owned import Owned, Plan
from vbox_vmm.pdm.pcibus import PciBus
from vbox_vmm.pdm.plans import plans
from vbox_vmm.pdm.queues import Queues
from vbox_vmm.pdm.roles import Roles
from vbox_vmm.pdm.services import PdmServices
from vbox_vmm.pdm.watchdog import WATCHDOG, Watch
from vbox_vmm.pdm.wires import Intr
from vbox_vmm.pdm.wiring import Wiring
from vbox_vmm.pdm.workers import Workers
from vbox_vmm.tm import Timer

log = logging.getLogger("vbox.PDM")

SLOW_SUSPEND, SLOW_POWER_OFF = 1.2, 0.9
"""Seconds from which on it is worth a line in the log."""
_POLL = 0.1
_LONGEST_SILENCE = 60.0


@define
class Taps:
    """What a bench listens to and stands in for; a VM leaves all of it alone."""

    isa_irq: Callable[[int, bool], None] | None = None
    intx: Callable[[int, int, bool], None] | None = None
    message: Callable[[int, int], None] | None = None
    runtime_error: Callable[[str, RuntimeErrorFlags, str, str], None] | None = None
    logger: Callable[[str], logging.Logger] | None = None
    """The logger of an instance, by title."""
    rtc: Rtc | None = None
    dmac: Dmac | None = None
    host_file: Callable[[str, int], bytes] | None = None
    watched: bool = True
    """Whether the watchdog looks for callbacks that do not return."""
    strict: bool = False
    """Whether errors of mem_setup and power_on come out."""


def no_controller() -> int:
    """INTA without an interrupt controller."""
    return -1


class Pdm:
    """The instances of one VM."""

    def __init__(self, services: PdmServices, taps: Taps | None = None) -> None:
        self.services = services
        self.taps = taps or Taps()
        self.nodes: list[DeviceNode] = []
        """The devices in order of construction."""
        self.failures = services.iom.failures
        self.roles = Roles()
        if self.taps.rtc is not None:
            self.roles.stand_in(roles.RTC, self.taps.rtc)
        if self.taps.dmac is not None:
            self.roles.stand_in(roles.DMAC, self.taps.dmac)
        self.pic_failed = self._role_failed(roles.PIC)
        self.isa = IsaLines(self.pic_failed, self.taps.isa_irq)
        self.intx = IntxPins(self._role_failed(roles.PCI_ROUTER), self.taps.intx)
        self.bus = PciBus(services.iom, self.intx, self._changed_while_loading, self.taps.message)
        self.intr = Intr(services.interrupt)
        self.queues = Queues(services.deliver)
        self.workers = Workers(services.post)
        self.wiring = Wiring(self)
        self.nmi_masked = False
        self.complete = False
        """Whether pdm_init_complete was called."""
        self.running = False
        self._records: dict[Instance, Owned] = {}
        self._titles: dict[int, str] = {}  # id of the object -> title, for the watchdog
        self._notifier = Notifier(self.call, self._wait)
        self._waited_since = 0.0
        self._next_line = 0.0
        self._hook = ""
        self.loading_instance: Instance | None = None
        """Whose pdm_load runs."""
        self._watch: Watch | None = None
        self._pic: Pic | None = None
        self._destructed = False

    # --- building

    def construct(self) -> None:
        """Build what the configuration says, and complete it.

        When anything fails all that was built is destroyed, and the error says which device."""
        try:
            with self.services.iom.batch():
                for plan in plans(self.services.cfgm, self.services.catalogue):
                    self.build(plan)
                self._check_roles()
                self.init_complete()
        except BaseException:
            self.destruct()
            raise

    def build(self, plan: Plan) -> Instance:
        """Make and construct one device; when that fails it is destroyed.

        Raises ConfigError, or what the constructor raised with `Failed to construct device '<name>'
        instance #<n>` before its text."""
        kind, number = plan.type, plan.number
        parsed = config.parse(kind.config, plan.config, f"{kind.name} instance #{number}")
        instance = Instance(kind, number, kind.device(), plan.distribution)
        owned = self.adopt(
            Owned(
                instance,
                instance.title,
                chains=dict(plan.chains),
                pci_device=plan.pci_device,
                pci_function=plan.pci_function,
            )
        )
        node = DeviceNode(instance)
        self.nodes.append(node)
        try:
            with self.services.iom.batch():
                instance.object.config = parsed
                instance.object.instance = number
                instance.object.helpers = DeviceHelpers(self, owned)
                instance.call("pdm_construct")
                self._check_luns(node, owned)
        except BaseException as error:
            instance.phase = Phase.FAILED
            with self.services.iom.batch():
                self.wiring.terminate(node)
            self.nodes.remove(node)
            if not isinstance(error, Exception):
                raise
            told = _renamed(construct_error(instance, error, owned.error_text))
            if told is error:
                raise
            raise told from error
        instance.phase = Phase.CONSTRUCTED
        return instance

    def _check_luns(self, node: DeviceNode, owned: Owned) -> None:
        if owned.chains:
            listed = ", ".join(map(str, sorted(node.luns))) or "none"
            raise ConfigError(
                "VERR_PDM_LUN_NOT_FOUND",
                f"{node.instance.title} has no LUN#{min(owned.chains)}",
                f"Its LUNs: {listed}",
            )

    def _check_roles(self) -> None:
        if self.bus.functions and self.roles.owner(roles.PCI_BUS) is None:
            first = self.bus.all()[0]
            self.roles.require(roles.PCI_BUS, first.name)

    def init_complete(self) -> None:
        """All are constructed; what pdm_init_complete raises comes out."""
        for owned in self.owned_records():
            owned.instance.call("pdm_init_complete")
            owned.instance.phase = Phase.READY
        self.complete = True

    def read_host_file(self, name: str, most: int) -> bytes:
        """See `DeviceHelpers.read_host_file`."""
        if self.taps.host_file is not None:
            return self.taps.host_file(name, most)
        return hostfiles.read(self.services.cfgm, name, most)

    def adopt(self, owned: Owned) -> Owned:
        """Keep the record of a new instance."""
        instance = owned.instance
        self._records[instance] = owned
        self._titles[id(instance.object)] = instance.title
        return owned

    def make_lun(
        self, owned: Owned, number: int, layer: Layer[Any, Any], description: str, above: object
    ) -> Lun:
        """`helpers.lun`."""
        return self.wiring.make_lun(owned, number, layer, description, above)

    def connect_pic(self, pic: Pic) -> None:
        """A device plays the interrupt controller."""
        self._connect_pic(pic)

    def _connect_pic(self, pic: Pic | None) -> None:
        self._pic = pic
        self.isa.connect(pic)
        self.services.acknowledge_interrupt = pic.acknowledge if pic is not None else no_controller

    # --- looking up

    def node(self, instance: Instance) -> DeviceNode:
        """The record of a device.  VERR_PDM_DEVICE_INSTANCE_NOT_FOUND."""
        for node in self.nodes:
            if node.instance is instance:
                return node
        raise PdmError("VERR_PDM_DEVICE_INSTANCE_NOT_FOUND", f"{instance.title} is not in this VM")

    def owned(self, instance: Instance) -> Owned:
        """What helpers made for an instance."""
        return self._records[instance]

    def owned_records(self) -> list[Owned]:
        """Of all instances: device by device, the drivers from the top down before their device (the
        order of notification); what is under construction comes last."""
        ordered: list[Owned] = []
        for node in self.nodes:
            ordered += [self._records[driver] for driver in node.drivers() if driver in self._records]
            if node.instance in self._records:
                ordered.append(self._records[node.instance])
        known = set(ordered)
        return ordered + [owned for owned in self._records.values() if owned not in known]

    def instances(self) -> list[Instance]:
        """The devices in order of construction."""
        return [node.instance for node in self.nodes]

    def info_items(self) -> dict[str, Callable[[str], str]]:
        """Name -> text, for people: "pdm", "pci", and each instance that has something to say."""
        items: dict[str, Callable[[str], str]] = {"pdm": self._info_pdm, "pci": self._info_pci}
        for owned in self.owned_records():
            if owned.instance.implements("pdm_info"):
                items[owned.instance.title] = _info_of(owned.instance)
        return items

    def _info_pdm(self, arguments: str) -> str:
        lines = []
        for node in self.nodes:
            lines.append(_described(node.instance))
            for number in sorted(node.luns):
                lun = node.luns[number]
                lines.append(f"  LUN#{number}: {lun.link.description} ({lun.link.layer.name})")
                lines += [f"    {_described(driver)}" for driver in lun.drivers]
        failed = sorted(self.failures.failed)
        return "\n".join([*lines, *(f"failed: {title}" for title in failed), ""])

    def _info_pci(self, arguments: str) -> str:
        lines = []
        for function in self.bus.all():
            who = function.identity
            lines.append(
                f"00:{function.device:02x}.{function.function} {who.vendor:04x}:{who.device:04x} "
                f"class {who.class_code:06x} {function.name} command "
                f"{function.config_read(4, 2):04x} line {'high' if function.driven else 'low'}"
            )
            for number, (size, ports, wide) in sorted(function.bar_sizes().items()):
                address = function.bar_address(number)
                where = "not decoded" if address is None else f"{address:#x}..{address + size - 1:#x}"
                kind = "I/O" if ports else "memory64" if wide else "memory"
                lines.append(f"  BAR {number}: {kind} {size:#x} {where}")
        return "\n".join([*lines, ""])

    # --- the CPU

    def acknowledge(self, *, whatever: bool = False) -> int:
        """INTA: the vector, or -1 when INTR is low (unless it is to be asked `whatever` INTR is) or there
        is no interrupt controller."""
        pic = self._pic
        if pic is None or not (self.intr.level or whatever):
            return -1
        try:
            return pic.acknowledge() & 0xFF
        except Exception as error:
            self.pic_failed("acknowledge", error)
            return -1

    def fpu_error(self) -> None:
        """FERR#; no effect when no device plays that role."""
        board: FpuErrors | None = self.roles.player(roles.FPU)
        if board is not None:
            try:
                board.fpu_error()
            except Exception as error:
                self._role_failed(roles.FPU)("fpu_error", error)

    def nmi(self) -> None:
        """One NMI edge, unless it is masked."""
        if self.bus.loading:
            self._changed_while_loading("NMI changed")
        elif not self.nmi_masked:
            self.services.nmi()

    # --- life

    def mem_setup(self, at_reset: bool) -> None:
        """After creation and after each reset."""
        self._notify("pdm_mem_setup", at_reset=at_reset)

    def power_on(self) -> None:
        """The guest starts next."""
        self._hook = "pdm_power_on"
        for owned in self.owned_records():
            self.power_on_one(owned.instance)
        self._run()

    def power_on_one(self, instance: Instance) -> None:
        """For chains that are attached at run time."""
        self.call(instance, "pdm_power_on", {})
        self._records[instance].powered = True
        instance.phase = Phase.RUNNING

    def _run(self) -> None:
        self.running = True
        self.workers.start()
        self.queues.unpark()
        if self._watch is None and self.taps.watched:
            self._watch = WATCHDOG.watch(threading.get_ident(), self._identify)

    def _stop(self) -> None:
        self.workers.halt()
        self.queues.park()
        self.running = False
        if self._watch is not None:
            WATCHDOG.unwatch(self._watch)
            self._watch = None

    def reset(self) -> None:
        """Hard reset: PCI functions, lines, A20, shadows and NMI mask first, then every instance.

        Returns when all are done."""
        with self.services.iom.batch():
            for function in self.bus.all():
                function.reset()
            self.isa.lower_all()
            self.services.pgm.reset()
            self.nmi_masked = False
            self._notify("pdm_reset")

    def soft_reset(self) -> None:
        """INIT."""
        self._notify("pdm_soft_reset")

    def suspend(self) -> None:
        """The virtual clocks stand still already.  Returns when all are done."""
        started = time.monotonic()
        self.queues.drain()
        self._notify("pdm_suspend")
        self._stop()
        self._set_phases(Phase.READY)
        _log_slow("Suspending", started, SLOW_SUSPEND)

    def resume(self) -> None:
        """The virtual clocks go on afterwards."""
        self._hook = "pdm_resume"
        for owned in self.owned_records():
            if owned.powered:
                self.call(owned.instance, "pdm_resume", {})
                owned.instance.phase = Phase.RUNNING
            else:  # attached while the VM was suspended
                self.power_on_one(owned.instance)
        self._run()

    def power_off(self) -> None:
        """The guest does not run again.  Returns when all are done; lines are low."""
        started = time.monotonic()
        self._notify("pdm_power_off")
        for function in self.bus.all():
            function.set_irq(False)
        self.isa.lower_all()
        self._stop()
        self._set_phases(Phase.OFF)
        _log_slow("Powering off", started, SLOW_POWER_OFF)

    def destruct(self) -> None:
        """Destroy all instances, device by device, drivers from the bottom up; no effect the second
        time."""
        if self._destructed:
            return
        self._destructed = True
        self._stop()
        with self.services.iom.batch():
            for node in self.nodes:
                self.wiring.terminate(node)
            self.nodes = []
            for instance in list(self._records):
                self.destroy(instance)
        self._connect_pic(None)
        self.intx.connect(None)

    def destroy(self, instance: Instance) -> None:
        """End one instance and free what its helpers made.  One that was never constructed is freed
        only."""
        if instance.phase not in (Phase.NEW, Phase.DESTROYED):
            try:
                instance.call("pdm_destruct")
            except Exception as error:
                self.failures.report(instance, "pdm_destruct", "pdm_destruct", error)
        instance.phase = Phase.DESTROYED
        owned = self._records.pop(instance, None)
        if owned is not None:
            self._free(owned)
        self._titles.pop(id(instance.object), None)
        self.failures.forget(instance.title)
        if instance.manager.is_registered(instance.object):
            instance.manager.unregister(instance.object)
        for name in ("helpers", "above", "below"):  # cycles: what a device holds must go with it
            getattr(instance.object, "__dict__", {}).pop(name, None)

    def _free(self, owned: Owned) -> None:
        services = self.services
        for worker in owned.workers:
            self.workers.drop(worker)
        for queue in owned.queues.values():
            self.queues.drop(queue)
        for timer in owned.timers.values():
            timer.destroy()
        for function in owned.functions:
            self.bus.remove(function)
        services.iom.release(owned.instance)
        for mapping in owned.mappings:
            mapping.unmap()
        for handle in owned.irqs:
            self.isa.drop(handle)
        for role in self.roles.release(owned.instance):
            if role == roles.PIC:
                self._connect_pic(None)
            elif role == roles.PCI_ROUTER:
                self.intx.connect(None)
        for memory in (*owned.roms, *(memory for _, memory in owned.rams)):
            services.pgm.free_memory(memory)
        for ram, _ in owned.rams:
            ram.view = memoryview(b"")
        owned.bars.clear()

    # --- saved state

    def save(self) -> dict[str, bytes]:
        """Unit -> bytes, of all instances and what helpers made for them."""
        return saved.save(self)

    def load(self, units: Mapping[str, bytes]) -> None:
        """The opposite.  StateError (VERR_SSM_*) leaves all as it was.  Clocks and guest RAM first."""
        saved.load(self, units)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Within, no controller, CPU or guest memory hears of lines and messages."""
        self._mute(True)
        try:
            yield
        finally:
            self._mute(False)

    def _mute(self, muted: bool) -> None:
        self.isa.mute(self._changed_while_loading if muted else None)
        self.intx.mute(self._changed_while_loading if muted else None)
        self.intr.mute(self._changed_while_loading if muted else None)
        self.bus.loading = muted

    def _changed_while_loading(self, what: str) -> None:
        error = PdmError("VERR_WRONG_ORDER", f"{what} while a state is loaded", "Loading raises no interrupt")
        self.failures.report(self.loading_instance, "pdm_load", "pdm_load", error)

    # --- calls into plugins

    def call(self, instance: Instance, hook: str, arguments: dict[str, Any]) -> None:
        """Call a hook of which the VM does not depend: what it raises is reported."""
        try:
            instance.call(hook, **arguments)
        except Exception as error:
            if self.taps.strict and hook in ("pdm_mem_setup", "pdm_power_on"):
                raise
            self.failures.report(instance, hook, hook, error)
            if hook in ("pdm_mem_setup", "pdm_power_on", "pdm_resume", "pdm_reset"):
                self.services.runtime_error(
                    RuntimeErrorFlags.SUSPEND, "DeviceFailed", f"{instance.title} failed in {hook}: {error}"
                )

    def defer(self, instance: Instance, done: Callable[[], bool]) -> None:
        """`set_async_notification`."""

        def guarded() -> bool:
            try:
                return bool(done())
            except Exception as error:
                self.failures.report(instance, self._hook, f"{self._hook}, asked again", error)
                return True

        self._notifier.defer(instance, guarded)

    def failure_of(self, instance: Instance) -> Callable[[str, BaseException], None]:
        """Whom to tell of failures of an instance: (where, error)."""

        def failed(where: str, error: BaseException) -> None:
            self.failures.report(instance, where, where, error)

        return failed

    def timer_failed(self, timer: Timer, error: Exception) -> None:
        """For TM: a callback raised."""
        owner = timer.owner
        where = f"timer {timer.name}"
        self.failures.report(owner.instance if isinstance(owner, Owned) else None, where, where, error)

    def _role_failed(self, role: str) -> Callable[[str, BaseException], None]:
        def failed(where: str, error: BaseException) -> None:
            self.failures.report(self.roles.owner(role), role, where, error)

        return failed

    def _set_phases(self, phase: Phase) -> None:
        for owned in self._records.values():
            owned.instance.phase = phase

    def _notify(self, hook: str, **arguments: Any) -> None:
        self._hook = hook
        self._waited_since = 0.0
        with self.services.iom.batch():
            self._notifier.notify(self.nodes, hook, **arguments)

    def _wait(self, titles: list[str]) -> None:
        """Some are pending: let work go on, and say so now and then (after 1, 2, 4 .. 60 seconds)."""
        now = time.monotonic()
        if not self._waited_since:
            self._waited_since, self._next_line = now, 1.0
        waited = now - self._waited_since
        if waited >= self._next_line:
            log.info("PDM: %s: still waiting after %.0f s for %s", self._hook, waited, ", ".join(titles))
            self._next_line = waited + min(self._next_line, _LONGEST_SILENCE)
        self.services.wait_requests(_POLL)

    def _identify(self, frame: FrameType) -> str | None:
        """For the watchdog, on its thread: whose callback a frame is."""
        code = frame.f_code
        if not code.co_argcount or code.co_varnames[0] != "self":
            return None
        return self._titles.get(id(frame.f_locals.get("self")))


def _renamed(error: PdmError) -> PdmError:
    if error.status == "VERR_VERSION_MISMATCH":
        return type(error)("VERR_PDM_DEVICE_VERSION_MISMATCH", error.message, error.remedy)
    return error


def _info_of(instance: Instance) -> Callable[[str], str]:
    return lambda arguments: str(instance.call("pdm_info", arguments=arguments) or "")


def _described(instance: Instance) -> str:
    where = f" of {instance.distribution}" if instance.distribution else ""
    return f"{instance.title}{where}: {instance.phase.value}"


def _log_slow(what: str, started: float, limit: float) -> None:
    seconds = time.monotonic() - started
    if seconds >= limit:
        log.info("PDM: %s took %.1f s", what, seconds)
