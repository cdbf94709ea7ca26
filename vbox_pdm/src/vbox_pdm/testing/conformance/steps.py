"""The steps of a check: what a guest, a neighbour or the VM does to a device.

A step is data.  `do(rig)` carries it out and answers what can be compared with a twin, `text(rig)` says it in
the device's own register names, `code(rig)` says it in Python for the snippet that reproduces a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from vbox_pdm.chains import Chain
from vbox_pdm.errors import PdmError
from vbox_pdm.pci import BAR0, COMMAND
from vbox_pdm.testing.conformance import neighbours
from vbox_pdm.testing.conformance.traffic import Burst, CallOf, DriveAsk, MediaAsk, counting
from vbox_pdm.testing.conformance.violations import Violation

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance.rig import Rig


ABOVE = -1
"""Stands for a LUN where the neighbour above a driver is meant."""


class Step(Protocol):
    """What all steps have."""

    def do(self, rig: Rig) -> Any: ...
    def text(self, rig: Rig) -> str: ...
    def code(self, rig: Rig) -> str: ...


@frozen
class Access:
    """A load or store (`value`), an IN or OUT, at an offset of a region by its number."""

    region: int
    offset: int
    size: int
    value: int | None = None

    def do(self, rig: Rig) -> Any:
        ports, address = rig.place(self.region, self.offset)
        if address is None:
            return None
        if self.value is None:
            read = rig.bench.port_read if ports else rig.bench.mmio_read
            return read(address, self.size)
        write = rig.bench.port_write if ports else rig.bench.mmio_write
        return write(address, self.size, self.value)

    def text(self, rig: Rig) -> str:
        where = rig.name_of(self.region, self.offset, self.size, write=self.value is not None)
        if self.value is None:
            return f"read {self.size} at {where}"
        return (
            f"write {self.size} at {where}: {rig.describe(self.region, self.offset, self.size, self.value)}"
        )

    def code(self, rig: Rig) -> str:
        ports, address = rig.place(self.region, self.offset)
        if address is None:
            return ""
        kind = "port" if ports else "mmio"
        if self.value is None:
            return f"bench.{kind}_read({address:#x}, {self.size})"
        return f"bench.{kind}_write({address:#x}, {self.size}, {self.value:#x})"


@frozen
class Flip:
    """A read of a register, and a write of what was read with some bits turned over, as drivers do."""

    region: int
    offset: int
    size: int
    bits: int

    def do(self, rig: Rig) -> Any:
        value = Access(self.region, self.offset, self.size).do(rig)
        if value is not None:
            Access(self.region, self.offset, self.size, value ^ self.bits).do(rig)
        return value

    def text(self, rig: Rig) -> str:
        where = rig.name_of(self.region, self.offset, self.size, write=True)
        return f"turn over {rig.describe(self.region, self.offset, self.size, self.bits)} at {where}"

    def code(self, rig: Rig) -> str:
        ports, address = rig.place(self.region, self.offset)
        if address is None:
            return ""
        kind = "port" if ports else "mmio"
        read = f"bench.{kind}_read({address:#x}, {self.size})"
        return f"bench.{kind}_write({address:#x}, {self.size}, {read} ^ {self.bits:#x})"


@frozen
class StringAccess:
    """REP INS of `count` items, or REP OUTS of `data`."""

    region: int
    offset: int
    size: int
    count: int = 0
    data: bytes | None = None

    def do(self, rig: Rig) -> Any:
        _, address = rig.place(self.region, self.offset)
        if address is None:
            return None
        if self.data is None:
            return rig.bench.port_read_string(address, self.size, self.count)
        return rig.bench.port_write_string(address, self.size, self.data)

    def text(self, rig: Rig) -> str:
        where = rig.name_of(self.region, self.offset, self.size, write=self.data is not None)
        if self.data is None:
            return f"rep ins, {self.count} items of {self.size} at {where}"
        return f"rep outs, {len(self.data) // self.size} items of {self.size} at {where}"

    def code(self, rig: Rig) -> str:
        _, address = rig.place(self.region, self.offset)
        if address is None:
            return ""
        if self.data is None:
            return f"bench.port_read_string({address:#x}, {self.size}, {self.count})"
        data = repr(self.data)
        if len(self.data) > 8 and self.data == counting(self.data[0], len(self.data)):
            data = f"bytes(({self.data[0]} + at) % 256 for at in range({len(self.data)}))"
        return f"bench.port_write_string({address:#x}, {self.size}, {data})"


@frozen
class Configure:
    """An access to PCI configuration space of the device's function of that number."""

    function: int
    offset: int
    size: int
    value: int | None = None

    def do(self, rig: Rig) -> Any:
        function = rig.functions[self.function]
        at = function.device, function.function
        if self.value is None:
            return rig.bench.pci_read(*at, self.offset, self.size)
        return rig.bench.pci_write(*at, self.offset, self.size, self.value)

    def text(self, rig: Rig) -> str:
        what = "read" if self.value is None else "write"
        value = "" if self.value is None else f": {self.value:#x}"
        return f"{what} {self.size} at PCI configuration {_register(self.offset)}{value}"

    def code(self, rig: Rig) -> str:
        f = rig.functions[self.function]
        if self.value is None:
            return f"bench.pci_read({f.device}, {f.function}, {self.offset:#x}, {self.size})"
        return f"bench.pci_write({f.device}, {f.function}, {self.offset:#x}, {self.size}, {self.value:#x})"


_NAMES = {
    0: "VENDOR", 2: "DEVICE", 4: "COMMAND", 6: "STATUS", 8: "REVISION", 0xC: "CACHE_LINE", 0xD: "LATENCY",
    0xE: "HEADER_TYPE", 0x2C: "SUBSYSTEM", 0x30: "ROM", 0x34: "CAPABILITIES", 0x3C: "INTERRUPT_LINE",
    0x3D: "INTERRUPT_PIN", **{BAR0 + 4 * n: f"BAR{n}" for n in range(6)},
}  # fmt: skip


def _register(offset: int) -> str:
    return f"{_NAMES[offset]} ({offset:#x})" if offset in _NAMES else f"{offset:#x}"


@frozen
class Enable:
    """The firmware's part: BARs placed, I/O, memory and bus mastering on, all or some."""

    function: int
    command: int = 7

    def do(self, rig: Rig) -> Any:
        function = rig.functions[self.function]
        rig.bench.pci_enable(function)
        for offset, size, value in self._more(rig):
            rig.bench.pci_write(function.device, function.function, offset, size, value)
        return rig.bench.pci_write(function.device, function.function, COMMAND, 2, self.command)

    def _more(self, rig: Rig) -> Sequence[tuple[int, int, int]]:
        return rig.subject.setup.firmware if self.function == 0 and self.command == 7 else ()

    def text(self, rig: Rig) -> str:
        return f"place the BARs of function {self.function}, PCI COMMAND = {self.command:#x}"

    def code(self, rig: Rig) -> str:
        f = rig.functions[self.function]
        writes = [*self._more(rig), (COMMAND, 2, self.command)]
        return "\n".join(
            [f"bench.pci_enable(bench.pci_function({f.device}, {f.function}))"]
            + [f"bench.pci_write({f.device}, {f.function}, {at:#x}, {n}, {v:#x})" for at, n, v in writes]
        )


@frozen
class Memory:
    """The guest stores `data` into RAM."""

    address: int
    data: bytes

    def do(self, rig: Rig) -> Any:
        return rig.bench.memory_write(self.address, self.data)

    def text(self, rig: Rig) -> str:
        return f"store {self.data.hex(' ', 4)} in memory at {self.address:#x}"

    def code(self, rig: Rig) -> str:
        return f"bench.memory_write({self.address:#x}, bytes.fromhex({self.data.hex()!r}))"


@frozen
class Advance:
    """Time passes; None: until the next timer fires."""

    ns: int | None

    def do(self, rig: Rig) -> Any:
        ns = self.ns
        if ns is None:
            delay = rig.host.deadline()
            ns = min(delay, 2 * 10**9) if delay is not None else 1
        return rig.bench.advance(ns)

    def text(self, rig: Rig) -> str:
        return "go to the next timer" if self.ns is None else f"{self.ns} ns pass"

    def code(self, rig: Rig) -> str:
        return (
            "bench.advance(bench.backend.deadline() or 1)" if self.ns is None else f"bench.advance({self.ns})"
        )


@frozen
class Life:
    """reset, soft_reset, suspend or resume."""

    what: str

    def do(self, rig: Rig) -> Any:
        if self.what == "suspend":
            rig.release()
            rig.bench.suspend()
            return rig.check_suspended()
        if self.what == "reset":
            rig.bench.reset()
            return rig.calm()  # what was held comes back to a machine that begins anew
        rig.calm()
        return getattr(rig.bench, self.what)()

    def text(self, rig: Rig) -> str:
        return self.what.replace("_", " ")

    def code(self, rig: Rig) -> str:
        return f"bench.{self.what}()"


@frozen
class Save:
    """The VM is suspended, saved (and with `load` loads what it saved), and goes on."""

    load: bool = False

    def do(self, rig: Rig) -> Any:
        rig.calm()
        saved = rig.bench.save()
        if self.load:
            rig.bench.load(saved)

    def text(self, rig: Rig) -> str:
        return "save and load" if self.load else "save"

    def code(self, rig: Rig) -> str:
        return "bench.load(bench.save())" if self.load else "bench.save()"


@frozen
class Plug:
    """Detach what hangs below a LUN, or attach the kit's neighbour again."""

    lun: int
    attach: bool

    def do(self, rig: Rig) -> Any:
        if self.attach:
            return rig.bench.attach(rig.instance, self.lun, Chain(end=rig.neighbours[self.lun]))
        return rig.bench.detach(rig.instance, self.lun)

    def text(self, rig: Rig) -> str:
        return f"{'attach to' if self.attach else 'detach from'} LUN {self.lun}"

    def code(self, rig: Rig) -> str:
        if self.attach:
            return f"bench.attach(device, {self.lun}, lun{self.lun})"
        return f"bench.detach(device, {self.lun})"


@frozen
class Mood:
    """A neighbour behaves differently from now on."""

    lun: int
    name: str

    def do(self, rig: Rig) -> Any:
        rig.forget_content()
        return neighbours.set_mood(self._who(rig), self.name)

    def _who(self, rig: Rig) -> Any:
        return rig.upper if self.lun == ABOVE else rig.neighbours[self.lun]

    def text(self, rig: Rig) -> str:
        where = "above" if self.lun == ABOVE else f"below {self.lun}"
        return f"the neighbour {where} {self.name}"

    def code(self, rig: Rig) -> str:
        return f"set_mood({'above' if self.lun == ABOVE else f'lun{self.lun}'}, {self.name!r})"


@frozen
class Calm:
    """Neighbours carry out what they held back."""

    def do(self, rig: Rig) -> Any:
        rig.calm()

    def text(self, rig: Rig) -> str:
        return "neighbours carry out what they held back"

    def code(self, rig: Rig) -> str:
        return "".join(f"calm(lun{lun})\n" for lun in rig.neighbours).strip()


@frozen
class Up:
    """What hangs below a LUN (below a driver: 0) calls up."""

    lun: int
    call: CallOf

    def do(self, rig: Rig) -> Any:
        neighbour = rig.neighbours[self.lun]
        end = neighbour.above
        if end is None or not end.connected:
            return None
        made = self.call
        if made.method == "char_received" and rig.subject.is_driver:  # who may overrun is the device alone
            made = CallOf(made.method, (made.args[0][: max(0, end.char_room())],))
        call = getattr(end, made.method)
        answer = neighbour.traffic(lambda: call(*made.args))
        rig.went_in(made, answer)
        return rig.noted(self.call.method, answer)

    def text(self, rig: Rig) -> str:
        return f"from below LUN {self.lun}: {self.call.method}({', '.join(map(repr, self.call.args))})"

    def code(self, rig: Rig) -> str:
        end = f"lun{self.lun}.above"
        args = ", ".join(map(repr, self.call.args))
        if self.call.method == "char_received" and rig.subject.is_driver:
            args += f"[: max(0, {end}.char_room())]"
        return f"lun{self.lun}.traffic(lambda: {end}.{self.call.method}({args}))"


@frozen
class Down:
    """What stands above a driver calls down, or asks with a request."""

    call: CallOf

    def do(self, rig: Rig) -> Any:
        assert rig.upper is not None
        below = rig.upper.below
        method, args = self.call.method, self.call.args
        if args and isinstance(args[0], Burst):
            self._burst(rig, below, args[0])
            return list(rig.media.done), list(rig.drive.done)
        if args and isinstance(args[0], MediaAsk):
            rig.upper.traffic(lambda: rig.media.submit(below, args[0]))
            rig.check_passed_on(args[0].op.value)
            return list(rig.media.done)
        if args and isinstance(args[0], DriveAsk):
            rig.upper.traffic(lambda: rig.drive.submit(below, args[0]))
            return list(rig.drive.done)
        if method == "drive_reset":
            rig.drive.reset()
        if method == "media_eject":
            rig.forget_content()
        answer = rig.upper.traffic(lambda: getattr(below, method)(*args))
        rig.went_in(self.call, answer)
        return rig.noted(method, answer)

    def _burst(self, rig: Rig, below: Any, burst: Burst) -> None:
        neighbour = rig.neighbours.get(0)
        moods = () if neighbour is None else neighbours.moods(neighbour)
        if burst.mood in moods:
            self._mood(rig, neighbour, burst.mood)
        for ask in burst.asks:
            oracle = rig.media if isinstance(ask, MediaAsk) else rig.drive
            rig.upper.traffic(lambda ask=ask, oracle=oracle: oracle.submit(below, ask))
            if burst.settled:
                rig.calm()
        if burst.mood in moods:
            self._mood(rig, neighbour, moods[0])

    def _mood(self, rig: Rig, neighbour: Any, name: str) -> None:
        identity = getattr(neighbour, "identity", "")
        neighbours.set_mood(neighbour, name)
        if identity != getattr(neighbour, "identity", ""):
            rig.forget_content()

    def text(self, rig: Rig) -> str:
        return f"from above: {self.call.method}({', '.join(map(repr, self.call.args))})"

    def code(self, rig: Rig) -> str:
        args = self.call.args
        if args and isinstance(args[0], Burst):
            lines = [_submit(ask) + ("; calm(lun0)" if rig.neighbours else "") for ask in args[0].asks]
            if rig.neighbours and args[0].mood:
                lines = [f"set_mood(lun0, {args[0].mood!r})", *lines, "set_mood(lun0, 'works')"]
            return "\n".join(lines)
        if args and isinstance(args[0], (MediaAsk, DriveAsk)):
            return _submit(args[0])
        shown = ", ".join(str(arg) if hasattr(arg, "name") else repr(arg) for arg in args)
        return f"above.traffic(lambda: above.below.{self.call.method}({shown}))"


def _submit(ask: MediaAsk | DriveAsk) -> str:
    if isinstance(ask, DriveAsk):
        return f"drive.submit(above.below, {ask!r})"
    return f"media.submit(above.below, MediaAsk({ask.op}, {ask.offset}, {ask.lengths}, {ask.seed}))"


@frozen
class Action:
    """A front end calls a method of the object."""

    method: str
    args: tuple[Any, ...]

    def do(self, rig: Rig) -> Any:
        try:
            answer = getattr(rig.instance.object, self.method)(*self.args)
        except PdmError as error:
            rig.refusals += 1
            answer = error.status
        rig.bench.advance(0)
        return rig.noted(self.method, answer)

    def text(self, rig: Rig) -> str:
        return f"a front end calls {self.method}({', '.join(map(repr, self.args))})"

    def code(self, rig: Rig) -> str:
        return f"device.{self.method}({', '.join(map(repr, self.args))}); bench.advance(0)"


@frozen
class Line:
    """Another device drives an ISA line, or a pin (1..4) of its PCI slot."""

    line: int
    level: bool
    slot: bool = False

    def do(self, rig: Rig) -> Any:
        assert rig.stand is not None
        rig.stand.drive(self.line, self.level, slot=self.slot)
        return rig.bench.advance(0)

    def text(self, rig: Rig) -> str:
        name = f"INT{'ABCD'[self.line]}# of another slot" if self.slot else f"ISA line {self.line}"
        return f"{name} goes {'high' if self.level else 'low'}"

    def code(self, rig: Rig) -> str:
        return f"stand.drive({self.line}, {self.level}, slot={self.slot}); bench.advance(0)"


@frozen
class Request:
    """Another device drives DREQ of its channel, to move `chunk` bytes at a time."""

    channel: int
    level: bool
    chunk: int

    def do(self, rig: Rig) -> Any:
        assert rig.stand is not None
        rig.stand.chunk = self.chunk
        rig.stand.channels[self.channel].request(self.level)
        return rig.bench.advance(0)

    def text(self, rig: Rig) -> str:
        return f"DREQ {self.channel} goes {'high' if self.level else 'low'}, {self.chunk} bytes at a time"

    def code(self, rig: Rig) -> str:
        request = f"stand.channels[{self.channel}].request({self.level})"
        return f"stand.chunk = {self.chunk}; {request}; bench.advance(0)"


@frozen
class Cmos:
    """Another device reads a byte of CMOS, or sets it."""

    index: int
    value: int | None = None

    def do(self, rig: Rig) -> Any:
        assert rig.stand is not None
        if self.value is None:
            return rig.stand.helpers.cmos_read(self.index)
        return rig.stand.helpers.cmos_write(self.index, self.value)

    def text(self, rig: Rig) -> str:
        value = "" if self.value is None else f": {self.value:#x}"
        return f"another device {'reads' if self.value is None else 'sets'} CMOS {self.index:#x}{value}"

    def code(self, rig: Rig) -> str:
        if self.value is None:
            return f"stand.helpers.cmos_read({self.index:#x})"
        return f"stand.helpers.cmos_write({self.index:#x}, {self.value:#x})"


@frozen
class Info:
    """Somebody looks at what the device tells people about itself.  A twin may tell them something else:
    what it counts is not part of the machine."""

    def do(self, rig: Rig) -> Any:
        return type(rig.bench.info(rig.instance))

    def text(self, rig: Rig) -> str:
        return "somebody looks at pdm_info"

    def code(self, rig: Rig) -> str:
        return "bench.info(device)"


@frozen
class Prepare:
    """What a guest's driver does before anything interesting is possible (`Setup.prepare`)."""

    def do(self, rig: Rig) -> Any:
        for name, *args in rig.subject.setup.prepare:
            getattr(rig.bench, name)(*args)

    def text(self, rig: Rig) -> str:
        return "the guest's driver begins"

    def code(self, rig: Rig) -> str:
        calls = rig.subject.setup.prepare
        return "\n".join(f"bench.{name}({', '.join(map(repr, args))})" for name, *args in calls)


@frozen
class Exercise:
    """What the author says must work after anything (`Setup.exercises`), with neighbours that work."""

    name: str

    def do(self, rig: Rig) -> Any:
        rig.forget_content()
        for neighbour in rig.neighbours.values():
            for mood in neighbours.moods(neighbour)[:1]:
                neighbours.set_mood(neighbour, mood)
        wrong = rig.subject.setup.exercises[self.name](rig.instance.object, rig.bench)
        if wrong:
            raise Violation("own", f"{self.name}: {wrong}")

    def text(self, rig: Rig) -> str:
        return self.name

    def code(self, rig: Rig) -> str:
        return f"# the exercise of the Setup: {self.name}"


@frozen
class Acknowledge:
    """INTA."""

    def do(self, rig: Rig) -> Any:
        return rig.host.acknowledge()

    def text(self, rig: Rig) -> str:
        return "the CPU acknowledges an interrupt"

    def code(self, rig: Rig) -> str:
        return "bench.acknowledge()"
