"""The bench: a machine without a CPU, on which a test drives a device as a guest would."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.chains import Chain
from vbox_pdm.device import Device, DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance
from vbox_pdm.links import Link
from vbox_pdm.pci import BAR0, COMMAND, PciFunction
from vbox_pdm.testing import describe
from vbox_pdm.testing.backend import BackendFactory, BenchBackend, Failure
from vbox_pdm.testing.dmac import FakeDmac
from vbox_pdm.testing.fakes import Fake, fake_above
from vbox_pdm.testing.host import BenchHost
from vbox_pdm.testing.taps import Taps, TapViews
from vbox_pdm.timers import Clock

UTC_START = 946_684_800 * 10**9
"""The wall clock at the start of a bench, unless told otherwise: 2000-01-01 00:00 UTC, in ns."""
SECOND = 10**9
_IO_WINDOW, _MEMORY_WINDOW = 0xC000, 0xE000_0000


class Bench(TapViews):
    """A machine without a CPU: devices, drivers, memory, clocks, and taps on all that leaves them.

    `ram` is in bytes (whole MiB); all randomness comes from `seed`; `backend` is the name of what
    hosts the devices ("bench", or one of the entry-point group `vbox.bench`; None takes the
    environment variable VBOX_BENCH, else "bench") or a BackendFactory; `strict` raises in the test
    what a plugin raised in a handler (the guest's view of it is the same either way); `utc` is the
    wall clock at the start in ns since 1970; `files` are the host's files by the name that a device
    gives to `helpers.read_host_file`; `catalogue` is where names are looked up (None: what is installed).

    A `device` argument is the object that `add` returned, its title ("serial#0"), or its Instance.
    Errors of the bench are PdmErrors.
    """

    def __init__(
        self,
        ram: int = 16 << 20,
        seed: int = 0,
        backend: str | BackendFactory | None = None,
        *,
        strict: bool = True,
        utc: int = UTC_START,
        files: Mapping[str, bytes] | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        if backend is None:
            backend = os.environ.get("VBOX_BENCH") or "bench"
        factory = describe.backend_factory(backend, BenchHost) if isinstance(backend, str) else backend
        self.strict = strict
        self.catalogue = catalogue or Catalogue(describe.plugin_entry_points())
        self._names = describe.Names(self.catalogue)
        self._dmac = FakeDmac(lambda: self.backend)
        self._taps = Taps(lambda: self.now, self._dmac, {} if files is None else files)
        self.backend: BenchBackend = factory(
            self._taps, catalogue=self.catalogue, ram=ram, seed=seed, utc=utc
        )
        self._state = "created"
        self._instances: dict[int, Instance] = {}
        self._reported = 0
        self.windows = {True: _IO_WINDOW, False: _MEMORY_WINDOW}
        """Where `pci_enable` places the next BAR: of I/O (True) and of memory."""

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.destruct()
        except Exception:
            if error is None:
                raise

    # --- plugins and types

    def plugin(self, plugin: str | os.PathLike[str] | ModuleType | object) -> None:
        """Use a plugin that is not installed: the path of a file, a module, or an object with
        VM-wide hooks (`pdm_wrap_region`, `pdm_link_created`, marked @hookimpl)."""
        if isinstance(plugin, (str, os.PathLike)):
            self.catalogue.add_file(Path(plugin))
            return
        for hook in ("vbox_register_devices", "vbox_register_drivers"):
            function = getattr(plugin, hook, None)
            if function is not None:
                function(self._names.register)
        self.catalogue.manager.register(plugin)

    def register(self, item: DeviceType | DriverType) -> None:
        """Make a type known by its name."""
        self._names.register(item)

    # --- building

    def add(
        self,
        device: str | DeviceType | type[Device[Any]],
        number: int | None = None,
        *,
        config: Mapping[str, object] | None = None,
        pci_device: int | None = None,
        pci_function: int | None = None,
        **values: Any,
    ) -> Any:
        """Construct a device and return its object.

        `device` is a name (registered, or of an installed plugin), a DeviceType or a Device class.
        Keywords are its configuration (`config` takes keys whose names are taken here), and `lunN`
        what hangs below LUN N: a fake, the name of a driver or its DriverType, (driver, {key:
        value}), a list of these from the top down (the last may be a fake), a tree as
        {"Driver": ..., "Config": {...}, "AttachedDriver": {...}}, or a Chain.

        Devices that play a role for others (interrupt controller, DMA controller) come first.
        Errors: ConfigError for a wrong key; what construct raised, with the title in its text."""
        found, distribution = self._names.device(device)
        settings, luns = describe.split_values(values)
        settings |= config or {}
        chains = {n: self._names.chain(d, f"LUN#{n} of {found.name}") for n, d in luns.items()}
        return self._add(found, number, settings, chains, distribution, pci_device, pci_function)

    def _add(
        self,
        found: DeviceType,
        number: int | None,
        settings: Mapping[str, object],
        chains: Mapping[int, Chain],
        distribution: str,
        pci_device: int | None = None,
        pci_function: int | None = None,
    ) -> Any:
        describe.each_fake(chains, self._adopt)
        instance = self.backend.add(
            found,
            number,
            settings,
            chains,
            distribution=distribution,
            pci_device=pci_device,
            pci_function=pci_function,
        )
        self._instances[id(instance.object)] = instance
        self._check()
        return instance.object

    def add_driver(
        self,
        driver: str | DriverType | Any,
        *,
        above: Any = None,
        below: Any = None,
        config: Mapping[str, object] | None = None,
        **values: Any,
    ) -> Any:
        """Construct a driver without a device and return its object.

        `below` is whatever `add` takes below a LUN.  `above` (see `fake_above`; None makes one)
        receives what goes up and gets `below`, the end to talk down through."""
        kind = driver if isinstance(driver, DriverType) else self._names.driver(driver)[0]
        upper = fake_above(kind.serves) if above is None else above
        self._adopt(upper)
        under = self._names.chain(below, f"driver {kind.name}")
        top = self._names.chain([(kind, {**values, **(config or {})})], kind.name)
        chain = Chain(top.drivers + under.drivers, under.end)

        def construct(device: Any) -> None:
            upper.below = device.helpers.lun(0, kind.serves, f"above {kind.name}", above=upper)

        stand: type[Device[Any]] = type("Stand", (Device,), {"pdm_construct": construct})
        owner = self._add(DeviceType("bench stand", stand), None, {}, {0: chain}, "test")
        return self.drivers(owner)[0]

    def _adopt(self, neighbour: Any) -> None:
        if isinstance(neighbour, Fake):
            neighbour.around = self._traffic

    def _traffic(self, call: Callable[[], Any]) -> Any:
        self._ensure_on()
        result = None
        try:
            result = call()
        except Exception as error:
            self._taps.failed(Failure("a neighbour's call", "traffic", error))
        self._finish()
        return result

    # --- life

    @property
    def state(self) -> str:
        """created, running, suspended, off or closed."""
        return self._state

    def power_on(self) -> None:
        """init_complete and mem_setup for all, then power_on.  Implied by the first access."""
        if self._state == "created":
            self._state = "off"  # where it stays when somebody raises
        self.backend.power_on()
        self._state = "running"
        self._finish()

    def reset(self) -> None:
        """Hard reset: PCI functions, lines, A20; then all instances, and mem_setup again."""
        self._ensure_on()
        self.backend.reset()
        self._finish()

    def soft_reset(self) -> None:
        """CPU INIT, as devices see it."""
        self._ensure_on()
        self.backend.soft_reset()
        self._finish()

    def suspend(self) -> None:
        """Pause: virtual clocks stand still, queues wait."""
        self._ensure_on()
        self.backend.suspend()
        self._state = "suspended"
        self._check()

    def resume(self) -> None:
        """The end of `suspend`."""
        self.backend.resume()
        self._state = "running"
        self._finish()

    def power_off(self) -> None:
        """The guest's end; instances stay until `destruct`."""
        self.backend.power_off()
        self._state = "off"
        self._check()

    def destruct(self) -> None:
        """Power off, if need be, and destruct all; no effect the second time.  Leaving the context
        does it."""
        if self._state == "closed":
            return
        try:
            if self._state in ("running", "suspended"):
                self.backend.power_off()
        finally:
            self._state = "closed"
            self.backend.close()
        self._check()

    def attach(self, device: Any, lun: int, driver: Any) -> None:
        """Plug `driver` (all that `add` takes below a LUN) at run time."""
        owner = self.instance(device)
        chain = self._names.chain(driver, f"LUN#{lun} of {owner.title}")
        describe.each_fake({lun: chain}, self._adopt)
        self._ensure_on()
        self.backend.attach(owner, lun, chain)
        self._finish()

    def detach(self, device: Any, lun: int) -> None:
        """Unplug what hangs below LUN `lun` at run time."""
        self._ensure_on()
        self.backend.detach(self.instance(device), lun)
        self._finish()

    def save(self) -> dict[str, bytes]:
        """The saved state, by unit: "serial#0" is what that device saved, names with a ':' are the
        host's.  A running bench is suspended meanwhile."""
        self._ensure_on()
        saved: dict[str, bytes] = self._while_suspended(self.backend.save)
        return saved

    def load(self, saved: Mapping[str, bytes]) -> None:
        """Take over a state saved by a bench with the same devices, any number of times.  StateError
        leaves all as it was."""
        self._ensure_on()
        self._while_suspended(lambda: self.backend.load(saved))

    def _while_suspended(self, action: Callable[[], Any]) -> Any:
        running = self._state == "running"
        if running:
            self.suspend()
        try:
            result = action()
        finally:
            if running:
                self.backend.resume()
                self._state = "running"
        self._finish()
        return result

    def info(self, device: Any, arguments: str = "") -> str | None:
        """What the device tells people about itself; None when it does not."""
        text: str | None = self.instance(device).call("pdm_info", arguments=arguments)
        return text

    # --- inspection

    def instance(self, device: Any) -> Instance:
        """The Instance of a device or driver: by its object, its title, or itself."""
        if isinstance(device, Instance):
            return device
        known = self._instances.get(id(device))
        if known is not None and known.object is device:
            return known
        for instance in self.backend.instances():
            if device == instance.title:
                return instance
        raise PdmError(
            "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND",
            f"{device!r} is not on this bench",
            f"There are: {', '.join(i.title for i in self.backend.instances()) or 'none'}",
        )

    def drivers(self, device: Any, lun: int = 0) -> list[Any]:
        """The objects of the drivers below a LUN, top to bottom."""
        found = self.backend.drivers(self.instance(device), lun)
        self._instances.update((id(driver.object), driver) for driver in found)
        return [driver.object for driver in found]

    def link(self, owner: Any, lun: int = 0) -> Link[Any, Any]:
        """The link below a device's LUN, or below a driver: `.observe(...)` sees its traffic."""
        return self.backend.link(self.instance(owner), lun)

    # --- accesses, as a CPU makes them

    def port_read(self, port: int, size: int = 1) -> int:
        """IN: 1, 2 or 4 bytes; all ones where nobody answers."""
        self._ensure_on()
        value = self.backend.port_read(port, _size(size, 4))
        self._finish()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT: 1, 2 or 4 bytes; `value` is cut to its size."""
        self._ensure_on()
        self.backend.port_write(port, _size(size, 4), value)
        self._finish()

    def port_read_string(self, port: int, size: int, count: int) -> bytes:
        """REP INS: `count` items of 1, 2 or 4 bytes, by the region's string handler where it takes part,
        as an engine does it."""
        self._ensure_on()
        data = bytearray()
        while len(data) < count * size:
            row = self.backend.port_row(port, _size(size, 4))
            left = count - len(data) // size
            part = b""
            if row is not None and row.read_string is not None and left > 1:
                part = row.read_string(port - row.first + row.start, size, left)
                if not isinstance(part, bytes) or len(part) % size or len(part) > left * size:
                    raise PdmError("VERR_INVALID_PARAMETER", f"A string handler answered {part!r}")
            data += part or self.backend.port_read(port, size).to_bytes(size, "little")
        self._finish()
        return bytes(data)

    def port_write_string(self, port: int, size: int, data: bytes) -> None:
        """REP OUTS of whole items of 1, 2 or 4 bytes."""
        self._ensure_on()
        at = 0
        while at < len(data):
            row = self.backend.port_row(port, _size(size, 4))
            taken = 0
            if row is not None and row.write_string is not None and len(data) - at > size:
                taken = row.write_string(port - row.first + row.start, size, data[at:])
                if taken % size or not 0 <= taken <= len(data) - at:
                    raise PdmError("VERR_INVALID_PARAMETER", f"A string handler answered {taken!r}")
            if not taken:
                self.backend.port_write(port, size, int.from_bytes(data[at : at + size], "little"))
                taken = size
            at += taken
        self._finish()

    def mmio_read(self, address: int, size: int = 4) -> int:
        """A load of 1, 2, 4 or 8 bytes at a guest-physical address."""
        self._ensure_on()
        value = self.backend.mmio_read(address, _size(size, 8))
        self._finish()
        return value

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store of 1, 2, 4 or 8 bytes."""
        self._ensure_on()
        self.backend.mmio_write(address, _size(size, 8), value)
        self._finish()

    def memory_read(self, address: int, length: int) -> bytes:
        """Guest-physical memory, without side effects and at any time; 0xFF where there is none."""
        return self.backend.memory_read(address, length)

    def memory_write(self, address: int, data: bytes) -> None:
        """Guest RAM or device RAM, at any time; dropped where there is none."""
        self.backend.memory_write(address, data)

    # --- PCI, without a bridge

    def pci_functions(self) -> list[PciFunction]:
        """All functions, by address."""
        return list(self.backend.pci_functions())

    def pci_function(self, device: Any, function: int | None = None) -> PciFunction:
        """The function at a slot (`function` None is 0), or one of a device (None is its first)."""
        if isinstance(device, PciFunction):
            return device
        if isinstance(device, int):
            wanted = 0 if function is None else function
            found = [f for f in self.pci_functions() if (f.device, f.function) == (device, wanted)]
        else:
            title = self.instance(device).title
            found = [f for f in self.pci_functions() if f.name == title and function in (None, f.function)]
        if not found:
            raise PdmError("VERR_PDM_NOT_PCI_DEVICE", f"{device!r} has no PCI function {function or ''}")
        return found[0]

    def pci_read(self, device: Any, function: int = 0, offset: int = 0, size: int = 4) -> int:
        """Configuration space of slot `device`; all ones where no function is."""
        self._ensure_on()
        target = self._pci_at(device, function)
        _pci_range(offset, size)
        value = (1 << (8 * size)) - 1 if target is None else target.config_read(offset, size)
        self._finish()
        return value

    def pci_write(self, device: Any, function: int, offset: int, size: int, value: int) -> None:
        """Write configuration space; dropped where no function is."""
        self._ensure_on()
        target = self._pci_at(device, function)
        _pci_range(offset, size)
        if target is not None:
            target.config_write(offset, size, value & ((1 << (8 * size)) - 1))
        self._finish()

    def _pci_at(self, device: Any, function: int) -> PciFunction | None:
        if not isinstance(device, int):
            return self.pci_function(device, function)
        return next((f for f in self.pci_functions() if (f.device, f.function) == (device, function)), None)

    def pci_enable(
        self, function: Any, at: int | Mapping[int, int] | None = None, *, rom: bool = False
    ) -> dict[int, int]:
        """Do what firmware does: size the BARs, place them, set I/O, memory and master enable.

        `function` is a PciFunction or whatever `pci_function` takes; `at` says where the first BAR,
        or each, goes; the rest is placed behind what was placed before.  `rom` enables the
        expansion ROM as well.  Returns BAR number -> address (6 is the ROM)."""
        target = self.pci_function(function)
        self._ensure_on()
        placed: dict[int, int] = {}
        wanted = dict(at) if isinstance(at, Mapping) else {}
        for number, (size, io, wide) in sorted(target.bar_sizes().items()):
            if number == 6 and not rom:
                continue
            if isinstance(at, int) and not placed:
                wanted[number] = at
            address = wanted.get(number)
            if address is None:
                address = -(-self.windows[io] // size) * size
                self.windows[io] = address + size
            register = 0x30 if number == 6 else BAR0 + 4 * number
            target.config_write(register, 4, (address & 0xFFFFFFFF) | (number == 6))
            if wide:
                target.config_write(register + 4, 4, address >> 32)
            placed[number] = address
        command = target.config_read(COMMAND, 2)
        target.config_write(COMMAND, 2, command | 7)
        self._finish()
        return placed

    # --- time

    @property
    def now(self) -> int:
        """ns of the virtual clock since power on; it stands still while suspended."""
        return self.backend.clock(Clock.VIRTUAL_SYNC)

    def clock(self, clock: Clock) -> int:
        """The time of any clock."""
        return self.backend.clock(clock)

    def advance(self, ns: int) -> None:
        """Let `ns` pass: due timers run in order, each at its time; queues are drained."""
        self._ensure_on()
        end = self.backend.clock(Clock.REAL) + ns
        while self._dmac.channels:  # the stand-in transfers between timers
            delay = self.backend.deadline()
            if delay is None or delay <= 0 or self.backend.clock(Clock.REAL) + delay >= end:
                break
            self.backend.advance(delay)
            self._dmac.run()
        self.backend.advance(end - self.backend.clock(Clock.REAL))
        self._finish()

    def run_until_idle(self, limit: int = 10 * SECOND) -> bool:
        """Advance from timer to timer until none is armed and no queue holds anything; False when
        that would take more than `limit` ns (then `limit` has passed)."""
        self._ensure_on()
        end = self.backend.clock(Clock.REAL) + limit
        while True:
            self.backend.drain()
            delay = self.backend.deadline()
            if delay is None:
                self._finish()
                if self.backend.deadline() is None:
                    return True
                continue
            left = end - self.backend.clock(Clock.REAL)
            if delay > left:
                self.advance(left)
                return False
            self.advance(delay)

    def wait(self, condition: Callable[[], object], timeout: float = 5.0) -> bool:
        """Wait in host time (seconds) for workers: hand on what they queue until `condition()` is
        true; False after `timeout`."""
        self._ensure_on()
        end = time.monotonic() + timeout
        while True:
            self.backend.drain()
            self._finish()
            if condition():
                return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.backend.wait(min(left, 0.05))

    # --- wires and roles (recordings: `TapViews`)

    def pci_irq(self, device: Any, pin: int | None = None) -> bool:
        """The level of pin 1..4 (INTA#..INTD#) of a slot, or of a device's function (pin None is
        its own)."""
        if isinstance(device, int):
            return self.backend.intx_level(device, (pin or 1) - 1)
        function = self.pci_function(device)
        return self.backend.intx_level(function.device, (pin or function.identity.pin or 1) - 1)

    def acknowledge(self) -> int:
        """INTA: the vector that the interrupt controller gives.  VERR_PDM_NO_PIC_INSTANCE."""
        self._ensure_on()
        vector = self.backend.acknowledge()
        self._finish()
        if vector < 0:
            raise PdmError(
                "VERR_PDM_NO_PIC_INSTANCE", "No device plays the interrupt controller", "Add one first"
            )
        return vector

    def fpu_error(self) -> None:
        """FERR#: the CPU met an error of its FPU.  No effect unless a device plays that role."""
        self._ensure_on()
        self.backend.fpu_error()
        self._finish()

    def dma_program(self, channel: int, address: int, count: int, mode: int) -> None:
        """Program a channel of the stand-in for the ISA DMA controller (used where no device plays
        it): a block of `count` bytes at `address`; `mode` is an 8237 mode register (4 writes memory,
        8 reads it, 0x10 starts over, 0x20 downwards)."""
        if channel not in self._dmac.channels:
            raise PdmError(
                "VERR_PDM_NO_DMAC_INSTANCE", f"No device took DMA channel {channel} of the stand-in"
            )
        self._dmac.channels[channel].program(address, count, mode)
        self._ensure_on()
        self._finish()

    def dma_position(self, channel: int) -> int:
        """How many bytes of the programmed block were moved."""
        return self._dmac.channels[channel].position

    # --- machinery

    def _ensure_on(self) -> None:
        if self._state == "created":
            self.power_on()

    def _finish(self) -> None:
        """After whatever a test did: all that is due, then what went wrong."""
        if self._state == "running":
            self._dmac.run()
            self.backend.advance(0)
        self._check()

    def _check(self) -> None:
        new = self._taps.failures[self._reported :]
        self._reported = len(self._taps.failures)
        if new and self.strict:
            first = new[0]
            first.error.add_note(f"raised by {first.title} in {first.where}")
            raise first.error


def _size(size: int, most: int) -> int:
    if size not in (1, 2, 4, 8) or size > most:
        raise PdmError(
            "VERR_INVALID_PARAMETER", f"No access here has {size} bytes", "Use 1, 2, 4 (or 8 for MMIO)"
        )
    return size


def _pci_range(offset: int, size: int) -> None:
    if size not in (1, 2, 4) or offset < 0 or offset + size > 256:
        raise PdmError("VERR_INVALID_PARAMETER", f"No configuration access has {size} bytes at {offset:#x}")
