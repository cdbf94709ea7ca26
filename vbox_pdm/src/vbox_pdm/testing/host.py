"""The bench's own backend: a host of devices in one thread, with clocks that a test steps.

It implements `backend.BenchBackend` over the same shared parts of the contract as the kernel:
region tables, wires, chains, notifications, DMA handles, workers.  See `bench.Bench` for what a test
uses.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vbox_pdm import config as config_schema
from vbox_pdm.catalogue import Catalogue
from vbox_pdm.chains import Chain, ChainDriver, Lun, build_chain, remove_chain
from vbox_pdm.device import DeviceType
from vbox_pdm.dmaviews import DmaHandle, Piece
from vbox_pdm.engine import Exit
from vbox_pdm.errors import ConfigError, PdmError
from vbox_pdm.instance import Instance, Phase
from vbox_pdm.layers import Layer
from vbox_pdm.life import DeviceNode, Notifier, construct_error, termination_order
from vbox_pdm.links import Link
from vbox_pdm.pci import PciFunction
from vbox_pdm.regions import Region
from vbox_pdm.tables import wrap_region
from vbox_pdm.testing import saved as saved_states
from vbox_pdm.testing.backend import BenchTaps, Failure
from vbox_pdm.testing.board import Board
from vbox_pdm.testing.bus import Bus
from vbox_pdm.testing.clock import BenchClocks, BenchTimer
from vbox_pdm.testing.memory import Memory
from vbox_pdm.testing.queues import BenchQueue, Inbox
from vbox_pdm.testing.services import HostDeviceHelpers, HostDriverHelpers, Owned
from vbox_pdm.timers import Clock

_ASYNC_PATIENCE = 20.0
"""Seconds of host time after which a notification that nobody completes is an error."""
_STATES = ("created", "running", "suspended", "off", "closed")


class BenchHost:
    """The machine behind a `Bench`; see `BenchBackend` for its public methods."""

    device_helpers = HostDeviceHelpers
    driver_helpers = HostDriverHelpers

    def __init__(self, taps: BenchTaps, *, catalogue: Catalogue, ram: int, seed: int, utc: int) -> None:
        self.taps = taps
        self.catalogue = catalogue
        self.memory = Memory(ram)
        self.random = random.Random(seed)
        self.utc = utc
        self.inbox = Inbox(self._consume, lambda queue, error: self.fail(queue.title, "queue", error))
        self.clocks = BenchClocks(
            self._fire, self.drain, lambda timer, error: self.fail(self._owner_of(timer), "timer", error)
        )
        self.notifier = Notifier(self._call, self._wait_async)
        self.bus = Bus(self.memory, self.fail)
        self.board = Board(taps, self.bus, self.fail)
        self.nodes: list[DeviceNode] = []
        self.owned: dict[Instance, Owned] = {}
        self._wrapped: dict[Region, Region] = {}
        self._chains: dict[int, Chain] = {}
        self._driver_numbers: dict[str, int] = {}
        self._state = "created"
        self._strict_call = False
        self._async_since = 0.0

    # --- building

    def add(
        self,
        device: DeviceType,
        number: int | None,
        config: Mapping[str, object],
        chains: Mapping[int, Chain],
        *,
        distribution: str = "",
        pci_device: int | None = None,
        pci_function: int | None = None,
    ) -> Instance:
        """Make and construct a device."""
        self._expect("add a device", "created")
        number = self._device_number(device, number)
        parsed = config_schema.parse(device.config, config, f"{device.name} instance #{number}")
        instance = Instance(device, number, device.device(), distribution)
        owned = Owned(instance, instance.title, pci_device=pci_device, pci_function=pci_function)
        self.owned[instance] = owned
        self.nodes.append(DeviceNode(instance))
        self._chains = dict(chains)
        try:
            instance.object.config = parsed
            instance.object.instance = number
            instance.object.helpers = self.device_helpers(self, owned)
            instance.call("pdm_construct")
            if self._chains:
                left = min(self._chains)
                raise ConfigError(
                    "VERR_PDM_LUN_NOT_FOUND",
                    f"{instance.title} has no LUN {left}",
                    f"Its LUNs: {', '.join(map(str, sorted(self.node(instance).luns))) or 'none'}",
                )
        except Exception as error:
            instance.phase = Phase.FAILED
            self._terminate(self.node(instance))
            raise construct_error(instance, error) from error
        instance.phase = Phase.CONSTRUCTED
        return instance

    def make_lun(
        self, owner: Instance, number: int, layer: Layer[Any, Any], description: str, above: object
    ) -> Lun:
        """`helpers.lun`."""
        node = self.node(owner)
        if number in node.luns:
            raise PdmError("VERR_PDM_DRIVER_ALREADY_ATTACHED", f"{owner.title} has LUN {number} already")
        lun = Lun(owner, number, Link(layer, description))
        chain = self._chains.pop(number, Chain())
        node.luns[number] = lun
        self._build(lun, chain)
        lun.link.set_upper(above)
        self._link_created(owner, number, lun.link)
        return lun

    def _build(self, lun: Lun, chain: Chain) -> None:
        build_chain(
            lun,
            chain,
            lambda item: self._make_driver(lun, item),
            self._construct_driver,
            self._destroy,
            self._link_created,
        )

    def _make_driver(self, lun: Lun, item: ChainDriver) -> Instance:
        kind = item.type
        number = self._driver_numbers.get(kind.name, 0)
        alive = sum(1 for instance in self.owned if instance.type is kind)
        if kind.max_instances is not None and alive >= kind.max_instances:
            raise PdmError(
                "VERR_PDM_TOO_MANY_DRIVER_INSTANCES",
                f"Driver '{kind.name}' allows {kind.max_instances} instances",
                "Remove one of them",
            )
        self._driver_numbers[kind.name] = number + 1
        parsed = config_schema.parse(kind.config, item.config, f"{kind.name} instance #{number}")
        instance = Instance(kind, number, kind.driver(), item.distribution)
        owned = Owned(instance, f"{lun.owner.title}/LUN#{lun.number}/{instance.title}")
        self.owned[instance] = owned
        instance.object.config = parsed
        instance.object.instance = number
        instance.object.helpers = self.driver_helpers(self, owned)
        return instance

    def _construct_driver(self, instance: Instance) -> None:
        try:
            instance.call("pdm_construct")
        except Exception as error:
            instance.phase = Phase.FAILED
            raise construct_error(instance, error, self.owned[instance].error_text) from error
        instance.phase = Phase.CONSTRUCTED

    def _device_number(self, device: DeviceType, number: int | None) -> int:
        taken = {node.instance.number for node in self.nodes if node.instance.name == device.name}
        if device.max_instances is not None and len(taken) >= device.max_instances:
            raise PdmError(
                "VERR_PDM_TOO_MANY_DEVICE_INSTANCES",
                f"Device '{device.name}' allows {device.max_instances} instances",
                "Remove one of them",
            )
        if number is None:
            return next(at for at in range(len(taken) + 1) if at not in taken)
        if number < 0 or number in taken:
            raise PdmError(
                "VERR_INVALID_PARAMETER",
                f"Instance number {number} of device '{device.name}' is taken or negative",
            )
        return number

    # --- life

    def power_on(self) -> None:
        """The machine starts."""
        self._expect("power on", "created")
        self._strict_call = True
        self._state = "off"  # where it stays when somebody raises
        try:
            self._notify("pdm_init_complete")
            self._set_phases(Phase.READY)
            self._notify("pdm_mem_setup", at_reset=False)
            self._notify("pdm_power_on")
        finally:
            self._strict_call = False
        self._run()

    def reset(self) -> None:
        """Hard reset."""
        self._expect("reset", "running", "suspended")
        self.board.reset()
        self.bus.a20 = True
        self.memory.modes.clear()
        self._notify("pdm_reset")
        self._notify("pdm_mem_setup", at_reset=True)
        self.settle()

    def soft_reset(self) -> None:
        """INIT."""
        self._expect("soft reset", "running", "suspended")
        self._notify("pdm_soft_reset")
        self.settle()

    def suspend(self) -> None:
        """Pause."""
        self._expect("suspend", "running")
        self.drain()
        self.clocks.ticking = False
        self._notify("pdm_suspend")
        self._halt_workers(self.owned.values())
        self._set_phases(Phase.READY)
        self._state = "suspended"

    def resume(self) -> None:
        """Go on."""
        self._expect("resume", "suspended")
        self._notify("pdm_resume")
        self._run()

    def power_off(self) -> None:
        """The end of the guest."""
        self._expect("power off", "created", "running", "suspended")
        self.clocks.ticking = False
        self._notify("pdm_power_off")
        self.board.lower_all()
        self._halt_workers(self.owned.values())
        self._set_phases(Phase.OFF)
        self._state = "off"

    def close(self) -> None:
        """The end of the instances."""
        if self._state == "closed":
            return
        self.clocks.ticking = False
        self._state = "closed"
        self._halt_workers(self.owned.values())
        for node in list(self.nodes):
            self._terminate(node)

    def attach(self, device: Instance, lun: int, chain: Chain) -> None:
        """Plug at run time."""
        self._expect("attach", "created", "running", "suspended")
        where = self._lun(device, lun)
        if where.attached:
            raise PdmError(
                "VERR_PDM_DRIVER_ALREADY_ATTACHED",
                f"LUN#{lun} of {device.title} has something attached",
                "Detach it first",
            )
        before = set(self.owned)
        self._build(where, chain)
        if not where.attached:
            return
        try:
            self._catch_up([instance for instance in where.drivers if instance not in before])
        except Exception:
            remove_chain(where, self._destroy)
            raise
        self._link_created(device, lun, where.link)
        self._call(device, "pdm_attach", {"lun": lun})
        self.settle()

    def detach(self, device: Instance, lun: int) -> None:
        """Unplug at run time."""
        self._expect("detach", "created", "running", "suspended")
        where = self._lun(device, lun)
        if not where.attached:
            raise PdmError("VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN", f"LUN#{lun} of {device.title} is empty")
        self._call(device, "pdm_detach", {"lun": lun})
        self.drain()
        if self._state in ("running", "suspended"):
            for driver in where.drivers:
                self._call(driver, "pdm_power_off", {})
                self._halt_workers([self.owned[driver]])
        remove_chain(where, self._destroy)
        self._link_created(device, lun, where.link)
        self.settle()

    def _catch_up(self, drivers: list[Instance]) -> None:
        """New drivers of a machine that is on already."""
        if self._state == "created":
            return
        self._strict_call = True
        try:
            for driver in drivers:
                self._call(driver, "pdm_init_complete", {})
                driver.phase = Phase.READY
            if self._state == "running":
                for driver in drivers:
                    self._call(driver, "pdm_power_on", {})
                    driver.phase = Phase.RUNNING
                    for worker in self.owned[driver].workers:
                        worker.start()
        finally:
            self._strict_call = False

    def _run(self) -> None:
        self._set_phases(Phase.RUNNING)
        for owned in list(self.owned.values()):
            for worker in owned.workers:
                worker.start()
        self.clocks.ticking = True
        self._state = "running"
        self.settle()

    def _set_phases(self, phase: Phase) -> None:
        for instance in self.owned:
            instance.phase = phase

    def _expect(self, what: str, *states: str) -> None:
        if self._state not in states:
            raise PdmError(
                "VERR_VM_INVALID_VM_STATE",
                f"Cannot {what}: the machine is {self._state}",
                f"Possible while it is {' or '.join(states)}",
            )

    # --- calls into plugins

    def _notify(self, hook: str, **arguments: Any) -> None:
        self._async_since = 0.0
        self.notifier.notify(self.nodes, hook, **arguments)

    def fail(self, title: str, where: str, error: BaseException) -> None:
        """What a plugin raised."""
        self.taps.failed(Failure(title, where, error))

    def _call(self, instance: Instance, hook: str, arguments: dict[str, Any]) -> None:
        try:
            instance.call(hook, **arguments)
        except Exception as error:
            if self._strict_call:
                raise
            self.fail(instance.title, hook, error)

    def _consume(self, queue: BenchQueue, item: Any) -> None:
        try:
            queue.consumer(item)
        except Exception as error:
            self.fail(queue.title, f"queue {queue.name}", error)

    def _fire(self, timer: BenchTimer) -> None:
        try:
            timer.callback()
        except Exception as error:
            self.fail(self._owner_of(timer), f"timer {timer.name}", error)

    def _owner_of(self, timer: BenchTimer) -> str:
        for instance, owned in self.owned.items():
            if timer in owned.timers.values():
                return instance.title
        return "bench"

    def from_thread(self, title: str, where: str) -> Callable[[BaseException], None]:
        """For workers: report an error by way of the inbox."""
        queue = BenchQueue(self.inbox, title, where, lambda error: self.fail(title, where, error), 1024)

        def failed(error: BaseException) -> None:
            queue.put(error)

        return failed

    def _wait_async(self, titles: list[str]) -> None:
        if not self._async_since:
            self._async_since = time.monotonic()
        if self.inbox.drain():
            self._async_since = 0.0
            return
        self.inbox.wait(0.05)
        if time.monotonic() - self._async_since > _ASYNC_PATIENCE:
            raise PdmError(
                "VERR_TIMEOUT",
                f"{', '.join(titles)} did not complete within {_ASYNC_PATIENCE:.0f} seconds",
                "Its `done` must come to answer True",
            )

    def _halt_workers(self, owned: Any) -> None:
        for record in list(owned):
            for worker in record.workers:
                if not worker.halt():
                    error = PdmError("VERR_TIMEOUT", f"Worker '{worker.name}' does not return when woken")
                    self.fail(record.instance.title, f"worker {worker.name}", error)

    def _link_created(self, owner: Instance, lun: int, link: Link[Any, Any]) -> None:
        self.catalogue.manager.hook.pdm_link_created(instance=owner, lun=lun, link=link)

    def wrapped(self, instance: Instance, region: Region) -> Region:
        """A region after the `pdm_wrap_region` hooks; asked once for each region."""
        if region not in self._wrapped:
            self._wrapped[region] = wrap_region(self.catalogue.manager, instance, region)
        return self._wrapped[region]

    # --- the end of instances

    def _terminate(self, node: DeviceNode) -> None:
        for _, lun in termination_order([node]):
            if lun is not None:
                remove_chain(lun, self._destroy)
                lun.link.set_upper(None)
            else:
                self._destroy(node.instance)
        self.nodes.remove(node)

    def _destroy(self, instance: Instance) -> None:
        if instance.phase is not Phase.DESTROYED:
            try:
                instance.call("pdm_destruct")
            except Exception as error:
                self.fail(instance.title, "pdm_destruct", error)
            instance.phase = Phase.DESTROYED
        owned = self.owned.pop(instance, None)
        if owned is not None:
            self._free(owned)

    def _free(self, owned: Owned) -> None:
        for worker in owned.workers:
            worker.stop()
        for queue in owned.queues.values():
            self.inbox.close(queue)
        for timer in owned.timers.values():
            self.clocks.drop(timer)
        for function in owned.functions:
            self.board.drop_function(function)
        for mapping in owned.mappings:
            mapping.unmap()
        for handle in owned.irqs:
            self.board.isa.drop(handle)
        self.board.withdraw(owned.instance)

    # --- inspection

    def instances(self) -> Sequence[Instance]:
        """Devices in order of construction."""
        return [node.instance for node in self.nodes]

    def node(self, instance: Instance) -> DeviceNode:
        """The record of a device."""
        for node in self.nodes:
            if node.instance is instance:
                return node
        raise PdmError("VERR_PDM_DEVICE_INSTANCE_NOT_FOUND", f"{instance.title} is not on this bench")

    def drivers(self, device: Instance, lun: int) -> Sequence[Instance]:
        """The chain below a LUN."""
        return list(self._lun(device, lun).drivers)

    def link(self, owner: Instance, lun: int = 0) -> Link[Any, Any]:
        """The link below."""
        for node in self.nodes:
            if node.instance is owner:
                return self._lun(owner, lun).link
            for place in node.luns.values():
                below = place.link_below(owner)
                if below is not None:
                    return below
        raise PdmError("VERR_PDM_LUN_NOT_FOUND", f"{owner.title} has nothing below it")

    def _lun(self, device: Instance, lun: int) -> Lun:
        found = self.node(device).luns.get(lun)
        if found is None:
            raise PdmError("VERR_PDM_LUN_NOT_FOUND", f"{device.title} has no LUN {lun}")
        return found

    # --- accesses, wires: the bus and the board

    def port_read(self, port: int, size: int) -> int:
        """IN."""
        return self._settled(self.bus.port_read(port, size))

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.bus.port_write(port, size, value)
        self.settle()

    def port_row(self, port: int, size: int) -> Exit | None:
        """Who may serve a string."""
        return self.bus.port_row(port, size)

    def mmio_read(self, address: int, size: int) -> int:
        """A load."""
        return self._settled(self.bus.load(address, size))

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store."""
        self.bus.store(address, size, value)
        self.settle()

    def acknowledge(self) -> int:
        """INTA."""
        return self._settled(self.board.acknowledge())

    def fpu_error(self) -> None:
        """FERR#."""
        self.board.fpu_error()
        self.settle()

    def isa_level(self, line: int) -> bool:
        """An ISA line."""
        return self.board.isa.level(line)

    def intx_level(self, device: int, pin: int) -> bool:
        """A pin of a slot."""
        return self.board.intx.level((device, pin))

    def interrupt_level(self) -> bool:
        """INTR."""
        return self.board.interrupt

    @property
    def a20(self) -> bool:
        """Whether address bit 20 passes."""
        return self.bus.a20

    def _settled(self, value: int) -> int:
        self.settle()
        return value

    def memory_read(self, address: int, length: int) -> bytes:
        """Memory."""
        return self.memory.read(address, length)

    def memory_write(self, address: int, data: bytes) -> None:
        """Memory."""
        self.memory.write(address, data)

    def pci_functions(self) -> Sequence[PciFunction]:
        """By address."""
        return [self.board.functions[at] for at in sorted(self.board.functions)]

    # --- for helpers

    def dma(self, address: int, length: int, write: bool, allowed: bool = True) -> DmaHandle:
        """A transfer; scratch when it is not allowed."""
        if address < 0 or length < 0:
            raise PdmError("VERR_INVALID_PARAMETER", f"A transfer of {length} bytes at {address:#x}")
        if allowed:
            pieces = self.memory.pieces(address, length, write=write)
            return DmaHandle(pieces, write=write, written=self.taps.dma_written)
        nowhere = [(address, length, None)] if length else []
        return DmaHandle(nowhere, write=write, written=self.taps.dma_written)

    def dma_list(self, pieces: Sequence[tuple[int, int]], write: bool, allowed: bool = True) -> DmaHandle:
        """The same of several pieces."""
        found: list[Piece] = []
        for address, length in pieces:
            if address < 0 or length < 0:
                raise PdmError("VERR_INVALID_PARAMETER", f"A transfer of {length} bytes at {address:#x}")
            if allowed:
                found += self.memory.pieces(address, length, write=write)
            elif length:
                found.append((address, length, None))
        return DmaHandle(found, write=write, written=self.taps.dma_written)

    def logger(self, title: str) -> logging.Logger:
        """A logger of this bench alone; lines go to the tap and to the logger `vbox`."""
        logger = logging.Logger(f"vbox.{title}", logging.INFO)
        logger.parent = logging.getLogger("vbox")
        logger.addHandler(_LogTap(self.taps, title))
        return logger

    # --- time

    def clock(self, clock: Clock) -> int:
        """The time."""
        return self.clocks.now(clock)

    def advance(self, ns: int) -> None:
        """Time passes."""
        if ns < 0:
            raise PdmError("VERR_INVALID_PARAMETER", f"Time does not go back by {-ns} ns")
        self.clocks.advance(ns)

    def deadline(self) -> int | None:
        """The first timer."""
        return self.clocks.deadline()

    def settle(self) -> None:
        """All that is due now."""
        if self._state != "closed":
            self.clocks.advance(0)

    def drain(self) -> bool:
        """Queued items to their consumers; held while suspended or off."""
        if self._state not in ("created", "running"):
            return False
        return self.inbox.drain()

    def wait(self, seconds: float) -> bool:
        """For a queued item."""
        return self.inbox.wait(seconds)

    # --- saved state

    def save(self) -> dict[str, bytes]:
        """All units."""
        self._expect("save", "created", "suspended", "off")
        return saved_states.save(self)

    def load(self, saved: Mapping[str, bytes]) -> None:
        """Take over all units."""
        self._expect("load", "created", "suspended")
        saved_states.load(self, saved)


class _LogTap(logging.Handler):
    def __init__(self, taps: BenchTaps, title: str) -> None:
        super().__init__()
        self._taps = taps
        self._title = title

    def emit(self, record: logging.LogRecord) -> None:
        self._taps.log_line(self._title, record.levelno, record.getMessage())
