"""Devices and drivers of every kind for the tests of PDM."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from vbox_pdm import (
    CharStream,
    Clock,
    Device,
    DeviceClass,
    DeviceType,
    Driver,
    DriverType,
    Mmio,
    Msi,
    PciIdentity,
    Ports,
    Ram,
    Rom,
    State,
    key,
)

HOOKS = [
    "pdm_init_complete", "pdm_mem_setup", "pdm_power_on", "pdm_reset", "pdm_soft_reset", "pdm_suspend",
    "pdm_resume", "pdm_power_off", "pdm_destruct", "pdm_attach", "pdm_detach",
]  # fmt: skip


@frozen
class Config:
    port: int = key(0x100, span=(0, 0xFFFF), help="first port")
    fail: str = key("", help="where to fail")


@frozen
class ThingState(State, version=1):
    value: int


class Recorder:
    """Writes down which hook of whom is called."""

    log: list[str]
    helpers: Any
    config: Any
    instance: int
    kind = ""

    def note(self, hook: str) -> None:
        self.log.append(f"{self.kind}{self.instance}.{hook}")
        if self.config.fail == hook:
            raise ValueError(f"{hook} fails")


def _noting(hook: str) -> Any:
    names = {"pdm_mem_setup": "at_reset", "pdm_attach": "lun", "pdm_detach": "lun"}
    if hook in names:
        source = f"def {hook}(self, {names[hook]}): self.note({hook[4:]!r})"
    else:
        source = f"def {hook}(self): self.note({hook[4:]!r})"
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope[hook]


for _hook in HOOKS:
    setattr(Recorder, _hook, _noting(_hook))


class Thing(Recorder, Device[Config]):
    """A device with one of everything."""

    kind = "thing"
    luns = 1

    def pdm_construct(self) -> None:
        self.note("construct")
        helpers = self.helpers
        self.value = 0
        self.got: list[Any] = []
        self.irq = helpers.isa_irq(5)
        self.timer = helpers.timer("tick", Clock.VIRTUAL, self.tick)
        self.queue = helpers.queue("input", self.got.append)
        self.ends = [helpers.lun(n, CharStream, f"stream {n}") for n in range(self.luns)]
        self.mapping = helpers.map_ports(
            self.config.port + 16 * self.instance, Ports("regs", 4, self.read, self.write)
        )
        if self.config.fail == "late":
            raise ValueError("late")

    def tick(self) -> None:
        self.value += 1
        if self.config.fail == "tick":
            raise ValueError("tick")

    def read(self, offset: int, size: int) -> int:
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.value = value

    def char_received(self, data: bytes) -> None:
        self.got.append(data)

    def pdm_save(self) -> ThingState:
        return ThingState(self.value)

    def pdm_load(self, state: ThingState) -> None:
        if state.value == 666:
            raise ValueError("not that one")
        self.value = state.value

    def pdm_info(self, arguments: str) -> str:
        return f"value {self.value} {arguments}"


class Filter(Recorder, Driver[Config]):
    kind = "filter"

    def pdm_construct(self) -> None:
        self.note("construct")
        self.timer = self.helpers.timer("t", Clock.VIRTUAL, lambda: None)

    def char_send(self, data: bytes) -> int:
        return int(self.below.char_send(data))

    def char_received(self, data: bytes) -> None:
        self.above.char_received(data)


class Bottom(Recorder, Driver[Config]):
    kind = "bottom"

    def pdm_construct(self) -> None:
        self.note("construct")
        self.sent: list[bytes] = []

    def char_send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)


def types(log: list[str], **more: Any) -> list[Any]:
    thing = type("Thing", (Thing,), {"log": log})
    return [
        DeviceType("thing", thing, Config, device_class=DeviceClass.SERIAL, **more),
        DeviceType("early", type("Early", (Thing,), {"log": log, "kind": "early", "luns": 0}), Config,
                   device_class=DeviceClass.ARCH),
        DriverType("filter", type("Filter", (Filter,), {"log": log}), Config,
                   serves=CharStream, wants=CharStream),
        DriverType("bottom", type("Bottom", (Bottom,), {"log": log}), Config,
                   serves=CharStream, max_instances=2),
    ]  # fmt: skip


def chain(vm: Any, *names: str, where: str = "Devices/thing/0/LUN#0") -> None:
    for name in names:
        vm.configure(f"{where}/Driver", name)
        where += "/AttachedDriver"


class Everything(Device[Any]):
    """What the thing above has not."""

    def pdm_construct(self) -> None:
        helpers = self.helpers
        self.vram = helpers.ram(Ram("vram", 0x4000))
        helpers.map_ram(0xA0000, self.vram)
        self.rom = helpers.map_rom(0xF0000, Rom("bios", b"\xea" + bytes(0xFFFF)))
        self.pci = helpers.pci(PciIdentity(0x8086, 0x100E, class_code=0x020000), capabilities=[Msi(1)])
        self.pci.bar(0, Mmio("regs", 0x100, self.read, self.write))
        self.pci.bar(1, Ports("io", 8, self.read))
        self.pci.bar(2, self.vram)
        self.pci.rom(Rom("option", b"\x55\xaa" + bytes(100)))
        self.wrote: list[Any] = []

    def read(self, offset: int, size: int) -> int:
        return 0x42

    def write(self, offset: int, size: int, value: int) -> None:
        self.wrote.append((offset, size, value))


class Bridge(Device[Any]):
    """Host bridge, router, interrupt controller, clock and DMA controller in one."""

    def pdm_construct(self) -> None:
        self.bus = self.helpers.provide_pci_bus()
        self.intr = self.helpers.provide_pic(self)
        self.helpers.provide_pci_router(self)
        self.helpers.provide_rtc(self)
        self.helpers.provide_dmac(self)
        self.irqs: list[Any] = []
        self.routes: list[Any] = []
        self.cmos = bytearray(128)

    def set_irq(self, line: int, level: bool) -> None:
        self.irqs.append((line, level))
        self.intr.interrupt(level)

    def pulse_irq(self, line: int) -> None: ...

    def acknowledge(self) -> int:
        return 0x20

    def route(self, device: int, pin: int, level: bool) -> None:
        self.routes.append((device, pin, level))

    def cmos_read(self, index: int) -> int:
        return self.cmos[index]

    def cmos_write(self, index: int, value: int) -> None:
        self.cmos[index] = value

    def attach(self, channel: int, transfer: Any) -> Any:
        return ("channel", channel)
