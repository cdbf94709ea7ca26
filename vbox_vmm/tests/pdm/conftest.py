"""What the tests of PDM, IOM and PGM share: an engine that only remembers, and a VM's worth of
surroundings without threads."""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vbox_pdm import DeviceClass, DeviceType
from vbox_pdm.catalogue import Catalogue
from vbox_pdm.engine import Exit
from vbox_pdm.helpers import ResetSource, RuntimeErrorFlags
from vbox_vmm.cfgm import Node
from vbox_vmm.iom import Iom
from vbox_vmm.pdm.manager import Pdm, Taps
from vbox_vmm.pgm import Pgm
from vbox_vmm.tm import TimeManager

sys.path.insert(0, str(Path(__file__).parent))

PAGE = 4096


class FakeEngine:
    """Keeps what it is told, page by page, and counts how often."""

    def __init__(self) -> None:
        self.pages: dict[int, tuple[int, int | None]] = {}
        self.ports: Sequence[Exit] = ()
        self.mmio: Sequence[Exit] = ()
        self.calls: list[tuple[Any, ...]] = []
        self.gate: list[bool] = []
        self.invalidated: list[tuple[int, int]] = []
        self.dirty: set[int] = set()

    def map_ram(self, address: int, size: int, host: int, write_host: int | None) -> None:
        assert size > 0
        assert address % PAGE == size % PAGE == host % PAGE == 0
        self.calls.append(("map", address, size))
        for at in range(0, size, PAGE):
            self.pages[address + at] = (host + at, None if write_host is None else write_host + at)

    def unmap(self, address: int, size: int) -> None:
        assert size > 0
        self.calls.append(("unmap", address, size))
        for at in range(0, size, PAGE):
            self.pages.pop(address + at, None)

    def set_ports(self, rows: Sequence[Exit]) -> None:
        self.calls.append(("ports", len(rows)))
        self.ports = rows
        _check_rows(rows)

    def set_mmio(self, rows: Sequence[Exit]) -> None:
        self.calls.append(("mmio", len(rows)))
        self.mmio = rows
        _check_rows(rows)

    def invalidate(self, address: int, size: int) -> None:
        self.invalidated.append((address, size))

    def dirty_pages(self, address: int, size: int) -> bytes:
        found = bytes(int(address + at in self.dirty) for at in range(0, size, PAGE))
        self.dirty -= set(range(address, address + size, PAGE))
        return found

    def a20(self, enabled: bool) -> None:
        self.gate.append(enabled)

    def count(self, kind: str) -> int:
        return sum(1 for call in self.calls if call[0] == kind)


def _check_rows(rows: Sequence[Exit]) -> None:
    end = 0
    for row in rows:
        assert row.size > 0
        assert row.first >= end
        end = row.first + row.size


class Surroundings:
    """`PdmServices` whose EMT is the test's thread and whose clock stands until it is moved."""

    def __init__(self, taps: Taps | None = None, ram: int = 8 << 20) -> None:
        self.catalogue = Catalogue([])
        self.cfgm = Node()
        self.random = random.Random(1)
        self.host = 1_000_000
        self.requests: deque[Callable[[], None]] = deque()
        self.posted = threading.Event()
        self.intr: list[bool] = []
        self.nmis = 0
        self.resets: list[tuple[ResetSource, bool]] = []
        self.exit_codes: list[int] = []
        self.runtime_errors: list[tuple[RuntimeErrorFlags, str, str]] = []
        self.pgm = Pgm(ram)
        self.tm = TimeManager(host_clock=lambda: self.host, utc_clock=lambda: 5 * 10**18)
        self.iom = Iom(self)
        self.engine = FakeEngine()
        self.pdm = Pdm(self, taps)
        self.tm.on_timer_failure = self.pdm.timer_failed

    def with_engine(self) -> FakeEngine:
        self.pgm.set_engine(self.engine)  # type: ignore[arg-type]
        self.iom.set_engine(self.engine)  # type: ignore[arg-type]
        return self.engine

    def register(self, *types: Any) -> None:
        """Make device and driver types known, as a loaded plugin does."""
        plugin = _Plugin()
        for item in types:
            table = self.catalogue._devices if hasattr(item, "device") else self.catalogue._drivers
            table[item.name] = (item, plugin)

    def configure(self, path: str, value: int | str | bytes) -> None:
        """`Devices/serial/0/Config/irq` = value; a path that ends in '/' makes a node."""
        if path.endswith("/"):
            self.cfgm.ensure_node(path)
            return
        node, _, name = path.rpartition("/")
        self.cfgm.ensure_node(node).insert(name, value)

    def build(self, *names: str) -> list[Any]:
        """Configure instances 0 of these devices, construct all; their objects."""
        for name in names:
            self.cfgm.ensure_node(f"Devices/{name}/0")
        self.pdm.construct()
        return [instance.object for instance in self.pdm.instances()]

    def start(self) -> None:
        self.pdm.mem_setup(at_reset=False)
        self.pdm.power_on()
        self.tm.resume()

    def serve(self) -> None:
        while self.requests:
            self.requests.popleft()()

    def close(self) -> None:
        self.pdm.destruct()
        self.iom.close()
        self.pgm.close()

    # --- PdmServices

    def post(self, request: Callable[[], None]) -> None:
        self.requests.append(request)
        self.posted.set()

    deliver = post

    def kick(self) -> None:
        self.posted.set()

    def wait_requests(self, seconds: float | None) -> None:
        if not self.requests:
            self.posted.wait(seconds)
        self.posted.clear()
        self.serve()

    def interrupt(self, level: bool) -> None:
        self.intr.append(level)

    def ignore_fpu_errors(self) -> None: ...

    def nmi(self) -> None:
        self.nmis += 1

    def request_reset(self, source: ResetSource, soft: bool) -> None:
        self.resets.append((source, soft))

    def request_power_off(self, code: int) -> None:
        self.exit_codes.append(code)

    def runtime_error(self, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        self.runtime_errors.append((flags, error_id, text))

    def current_cpu(self) -> int:
        return 0

    def is_emt(self) -> bool:
        return True

    def assert_emt(self) -> None: ...


class _Plugin:
    name = "test"
    distribution = "test-plugin"


@pytest.fixture
def vm() -> Iterator[Surroundings]:
    made = Surroundings()
    yield made
    made.close()


@pytest.fixture
def make_vm() -> Iterator[Callable[..., Surroundings]]:
    made: list[Surroundings] = []

    def make(*args: Any, **more: Any) -> Surroundings:
        made.append(Surroundings(*args, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def thing_vm(vm: Surroundings, log: list[str]) -> Surroundings:
    from pdm_things import types

    vm.register(*types(log))
    return vm


@pytest.fixture
def pc(vm: Surroundings) -> Surroundings:
    from pdm_things import Bridge, Everything

    vm.register(
        DeviceType("bridge", Bridge, device_class=DeviceClass.BUS_PCI),
        DeviceType("nic", Everything, device_class=DeviceClass.NETWORK),
    )
    return vm
