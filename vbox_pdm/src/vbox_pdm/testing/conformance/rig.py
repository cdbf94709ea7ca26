"""A bench with one instance that is checked, its neighbours, and all that can be compared of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.device import DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance
from vbox_pdm.layers import Layer
from vbox_pdm.pci import PciFunction
from vbox_pdm.regions import Mmio, Ports
from vbox_pdm.state import State, encode
from vbox_pdm.testing.bench import Bench
from vbox_pdm.testing.conformance import neighbours
from vbox_pdm.testing.conformance.conservation import FOLLOWED, Ledger, Line
from vbox_pdm.testing.conformance.guide import Guide
from vbox_pdm.testing.conformance.internals import internals
from vbox_pdm.testing.conformance.oracles import DriveOracle, MediaOracle
from vbox_pdm.testing.conformance.setup import ACCESS_WALL, Setup
from vbox_pdm.testing.conformance.stand import STAND, Stand
from vbox_pdm.testing.conformance.steps import Access, Step
from vbox_pdm.testing.conformance.traffic import CallOf
from vbox_pdm.testing.conformance.violations import Violation
from vbox_pdm.testing.conformance.watch import Watch
from vbox_pdm.testing.conformance.watched_host import Notes, Watched, WatchedHost
from vbox_pdm.timers import Clock
from vbox_pdm.units import state_of

UTC = 1_000_000_000 * 10**9
_FILE = b"\xf4" * 65536
"""What a file of the host has that nobody described: HLT."""

_PASSED = ("media_lock", "media_eject", "media_changed")
"""What concerns the other side of any filter on media, whatever it does with requests."""
_KNOWN = 20_000
"""How many states are remembered."""


@define(eq=False)
class Subject:
    """A type that is checked.  `file` is the plugin's, when it is a single one; `folder` has the files of
    its Setup."""

    type: DeviceType | DriverType
    setup: Setup
    distribution: str = ""
    file: Path | None = None
    folder: Path | None = None
    catalogue: Catalogue = field(factory=Catalogue)
    notes: Notes = field(factory=Notes)
    guide: Guide = field(factory=lambda: Guide(""))
    luns: dict[int, Layer[Any, Any]] = field(factory=dict)
    """The layers of its LUNs; below a driver: 0."""
    roles: frozenset[str] = frozenset()
    """What it plays for other devices, so that there must be one (`Stand`)."""
    last_bench: Bench | None = None
    """That of the rig that was made last, or that could not be made."""
    levels: dict[Any, tuple[Any, tuple[str, ...]]] = field(factory=dict)
    """Of each state that was seen: what the lines were, and the steps that led there."""

    @property
    def name(self) -> str:
        """The type's."""
        return self.type.name

    @property
    def is_driver(self) -> bool:
        """Whether it is a driver."""
        return isinstance(self.type, DriverType)

    @property
    def is_filter(self) -> bool:
        """Whether it serves and wants one layer."""
        return isinstance(self.type, DriverType) and self.type.wants is self.type.serves


class _Files(dict[str, bytes]):
    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, _FILE)


@frozen
class Shot:
    """What an instance is at one time, without side effects.  `timers` are the ns that are left; `encoded` is
    the state as bytes."""

    state: State | None
    encoded: bytes
    timers: tuple[tuple[str, int | None], ...]
    lines: tuple[bool, ...]
    pci: tuple[Any, ...]
    machine: tuple[Any, ...]
    """A20, INTR, whether NMI is masked, and where reads and writes of each shadowed page go."""


class Rig:
    """Made, and powered on when it has `begun`.  `twin_of`: with the neighbours of another rig; `later`:
    at its time of day."""

    def __init__(
        self,
        subject: Subject,
        config: Mapping[str, object] | None = None,
        *,
        twin_of: Rig | None = None,
        later: bool = False,
        fail_at: int | None = None,
        begun: bool = True,
    ) -> None:
        self.subject = subject
        self.config = {**subject.setup.config, **(config or {})}
        self.watch = Watch()
        self.trace: list[Any] = []
        self.log: list[tuple[str, str]] = []
        """Text and code of each step, as they were when it was carried out."""
        self.neighbours: dict[int, Any] = {}
        self.upper: Any = None
        self.media = MediaOracle()
        self.drive = DriveOracle()
        self.ledger: Ledger | None = None
        self.line: Line | None = None
        if subject.setup.far_end is not None:
            self.line = Line(subject.setup.far_end, self.config)
        self.refusals = 0
        """How many calls of front ends ended with an error."""
        self._failures = 0
        self._marks: tuple[int, ...] = ()
        self._nmis = 0
        self._bases: dict[int, int] = {}
        self._kept: tuple[State, bytes] | None = None
        utc = UTC + twin_of.host.clock(Clock.REAL) if twin_of is not None and later else UTC
        self.bench = Bench(
            subject.setup.ram,
            7,
            self._make_host,
            strict=False,
            utc=utc,
            files=_Files(subject.setup.files),
            catalogue=subject.catalogue,
        )
        self.host: WatchedHost = self.bench.backend  # type: ignore[assignment]
        self.host.fail_at = fail_at
        subject.last_bench = self.bench
        try:
            with self.watch.step("pdm_construct"):
                self._build(twin_of)
            self._follow(twin_of)
            self.restart_ledger()
            if begun:
                with self.watch.step("power on"):
                    self.bench.power_on()
            self.functions: list[PciFunction] = list(self.host.owned[self.instance].functions)
            self.regions = self._all_regions()
            self.check("power on")
        except BaseException:
            self.abandon()
            raise

    def _make_host(self, taps: Any, **more: Any) -> WatchedHost:
        return WatchedHost(taps, subject=self.subject.type, notes=self.subject.notes, **more)

    def _build(self, model: Rig | None) -> None:
        subject, bench = self.subject, self.bench
        self.stand: Stand | None = None
        for companion in subject.setup.companions:
            name, values = (companion, {}) if isinstance(companion, str) else companion
            bench.add(name, config=values)
        kind = subject.type
        self.neighbours = {n: self._neighbour(n, layer) for n, layer in subject.luns.items()}
        if model is not None:
            for number, neighbour in self.neighbours.items():
                neighbours.become(neighbour, model.neighbours[number])
        attached = {n: fake for n, fake in self.neighbours.items() if model is None or model.plugged(n)}
        if isinstance(kind, DriverType):
            self.upper = neighbours.above(kind.serves, self.trace)
            self.media.refused = self.drive.refused = self._refused
            self.drive.stores = lambda: not isinstance(self.neighbours.get(0), neighbours.AtaDrive)
            self.media.swapped = lambda: isinstance(self.neighbours.get(0), neighbours.Disk)
            if self.line is not None:
                self.upper.told = self.line.came_out
            made = bench.add_driver(kind, above=self.upper, below=attached.get(0), config=dict(self.config))
        else:
            luns = {f"lun{number}": fake for number, fake in attached.items()}
            made = bench.add(kind, config=dict(self.config), **luns)
        self.instance: Instance = bench.instance(made)
        if subject.roles:
            self.stand = bench.add(STAND)
            if "dmac" in subject.roles:
                self.stand.take_channels()

    def _all_regions(self) -> list[Watched]:
        """Also those that no BAR decodes yet: in every rig each has the same number."""
        for function in self.functions:
            for number in sorted(function.bar_sizes()):
                region = function.bar_region(number)
                if isinstance(region, (Ports, Mmio)):
                    self.host.wrapped(self.instance, region)
        return self.host.regions

    def _neighbour(self, number: int, layer: Any) -> Any:
        own = self.subject.setup.neighbours.get(number)
        if own is not None:
            return neighbours.recorded(own(), layer.below, self.trace)
        made = neighbours.below(layer, self.trace)
        if isinstance(made, neighbours.Disk):
            made.strict = not self.subject.is_filter
        elif isinstance(made, neighbours.Stream):
            made.relents = not self.subject.is_driver
        return made

    def _follow(self, model: Rig | None) -> None:
        """Neighbours as those of `model` are."""
        if model is None:
            return
        for number, neighbour in self.neighbours.items():
            neighbours.become(neighbour, model.neighbours[number])
        if self.upper is not None:
            neighbours.become(self.upper, model.upper)
        self.media.known, self.media.identity = dict(model.media.known), model.media.identity
        self.media.done = list(model.media.done)
        self.drive.known, self.drive.done = dict(model.drive.known), list(model.drive.done)
        self.drive.modes, self.drive.buffer = model.drive.modes, model.drive.buffer
        if self.stand is not None and model.stand is not None:
            self.stand.chunk = model.stand.chunk
        self._bases = dict(model._bases)
        self.bench.windows.update(model.bench.windows)

    # --- carrying out

    def perform(self, step: Step) -> tuple[Any, ...]:
        """Carry out a step and answer what a twin must show as well.  Violation, Hang."""
        text = step.text(self)
        self.log.append((text, step.code(self)))
        self._mark()
        try:
            with self.watch.step(text), self.subject.guide.watching():
                result = step.do(self)
                self._relent(step)
        except PdmError as error:
            raise Violation("no-raise", f"{text} failed: {error}") from error
        self.check(text)
        if self.functions:
            self._note_bases()
        return self._seen(result)

    def _note_bases(self) -> None:
        """Where regions are, for when they are not: by steps alone, so that a repetition knows the same."""
        for region, watched in enumerate(self.regions):
            base = self.host.base(watched)
            if base is not None:
                self._bases[region] = base

    def _relent(self, step: Step) -> None:
        """Streams that take their time accept what they refused."""
        if self.subject.is_driver:
            return
        for neighbour in self.neighbours.values():
            if isinstance(neighbour, neighbours.Stream) and self.bench.state != "running":
                neighbour.rest = b""
            elif isinstance(neighbour, neighbours.Stream) and neighbour.above is not None:
                neighbour.relent(alone=isinstance(step, Access) and step.size == 1)

    def check(self, what: str) -> None:
        """Violation for whatever went wrong since the last time."""
        failures = self.bench.failures[self._failures :]
        self._failures = len(self.bench.failures)
        notes = self.subject.notes
        found = [("fits", text) for text in notes.misfits]
        found += [("bus-master", text) for text in notes.forbidden]
        notes.misfits.clear()  # all of it: the notes outlive this rig
        notes.forbidden.clear()
        for prop, text in found:
            raise Violation(prop, f"{what}: {text}")
        for failure in failures:
            if isinstance(failure.error, Violation):
                raise failure.error
            endless = getattr(failure.error, "status", "") == "VERR_TM_TIMER_UNSTABLE_STATE"
            raise Violation(
                "no-hang" if endless else "no-raise",
                f"{what}: {failure.where} of {failure.title} raised {failure.error!r}",
            ) from failure.error
        if not self.subject.is_driver and self.watch.threads():
            raise Violation("no-threads", f"{what}: thread {self.watch.threads()[0]} was started")

    def release(self) -> None:
        """Neighbours carry out what they held back."""
        for neighbour in self.neighbours.values():
            neighbours.calm(neighbour)

    def check_suspended(self) -> None:
        """A suspend waits for what is under way, or the saved state would lack it."""
        if self.media.pending or self.drive.pending:
            raise Violation("suspended", "a suspend is over, and a request that nothing holds back is not")

    def calm(self) -> None:
        """The same, and workers what they were given."""
        self.release()
        if not self.has_workers or self.bench.state != "running":
            return
        if not self._comes(lambda: not self.media.pending + self.drive.pending):
            raise Violation("requests", "a request is not completed although nothing holds it back")

    def _comes(self, condition: Callable[[], object]) -> bool:
        """Whether workers make it true in a time that is long for them."""
        end = time.monotonic() + 1.5 * ACCESS_WALL
        while not self.bench.wait(condition, ACCESS_WALL / 2):
            # A worker that has no CPU, or whose host's disk is busy, has lost nothing.
            if not self.watch.at_work() or time.monotonic() > end:
                return False
        return True

    @property
    def has_workers(self) -> bool:
        """Whether it does things on threads of its own, at times that nobody can repeat."""
        return bool(self.host.owned[self.instance].workers)

    @property
    def comparable(self) -> bool:
        """Whether another rig must show the same, and can stand beside it."""
        setup = self.subject.setup
        return not setup.live and setup.far_end is None and not self.has_workers

    def _refused(self) -> int:
        """How many requests the kit's neighbour below has ended with an error."""
        return int(getattr(self.neighbours.get(0), "refused", 0))

    def restart_ledger(self) -> None:
        """From here on a transparent filter is followed."""
        kind = self.subject.type
        follows = isinstance(kind, DriverType) and self.subject.is_filter and kind.transparent
        if follows and isinstance(kind, DriverType) and kind.serves.name in FOLLOWED:
            self.ledger = Ledger(kind.serves)
            self.upper.told = self.neighbours[0].told = self.ledger.came_out

    def went_in(self, call: CallOf, answer: Any) -> None:
        """A neighbour called the instance."""
        if self.ledger is not None:
            self.ledger.went_in(call.method, call.args, answer)
            self.ledger.check(settled=False)
        if self.line is not None:
            room = any(entry[0] == "char_sendable" for entry in self.trace[self._marks[0] :])
            self.line.went_in(call.method, call.args, answer, told=room)
        if call.method in _PASSED and self.subject.is_filter and self.plugged(0):
            told = [entry[0] for entry in self.trace[self._marks[0] :]]
            if call.method not in told:
                raise Violation("transparent", f"{call.method}{call.args} was not passed on")

    def check_passed_on(self, op: str) -> None:
        """A request to a medium ended well: a transparent filter asked the medium below for as much."""
        kind = self.subject.type
        if not isinstance(kind, DriverType) or not self.subject.is_filter or not kind.transparent:
            return
        asked = [entry[1][1] for entry in self.trace[self._marks[0] :] if entry[0] == "media_submit"]
        ended = self.media.done[-1:] == [(op, None)] and not self.media.pending
        if ended and self.plugged(0) and op not in asked:
            raise Violation("transparent", f"a request to {op} ended well, the medium below saw none")

    def check_ledger(self) -> None:
        """Give a filter room and time, then see whether anything is missing."""
        if self.ledger is not None and self.plugged(0):
            for side in (self.neighbours[0], self.upper):
                if neighbours.moods(side):
                    neighbours.set_mood(side, neighbours.moods(side)[0])
            self.bench.run_until_idle()
            self.ledger.check(settled=True)

    def check_line(self) -> None:
        """Give what is above a driver room, and its other end time, then see whether anything is missing."""
        line = self.line
        if line is None:
            return
        neighbours.set_mood(self.upper, neighbours.moods(self.upper)[0])
        self._comes(lambda: line.complete or self.bench.runtime_errors)
        self.check("the end of what comes up")
        if not self.bench.runtime_errors:  # one may come as late as the characters
            line.check_coming(settled=True)

    def check_own(self, what: str) -> None:
        """The author's own properties."""
        for name, invariant in self.subject.setup.invariants.items():
            wrong = invariant(self.instance.object, self.bench)
            if wrong:
                raise Violation("own", f"{what}: {name}: {wrong}")

    def forget_content(self) -> None:
        """What media hold is not known any more."""
        self.media.forget_all()
        self.drive.known.clear()

    def noted(self, method: str, answer: Any) -> Any:
        """An answer of the instance that a twin must give as well."""
        return method, neighbours.summary(answer)

    def plugged(self, lun: int) -> bool:
        """Whether the kit's neighbour hangs there."""
        return getattr(self.neighbours[lun], "above", None) is not None

    # --- looking

    def _views(self) -> tuple[list[Any], ...]:
        bench = self.bench
        return (
            self.trace, bench.irq_edges, bench.pci_irq_edges, bench.messages, bench.intr_edges,
            bench.resets, bench.runtime_errors, bench.dma_written,
        )  # fmt: skip

    def _mark(self) -> None:
        self._marks = tuple(len(view) for view in self._views())
        self._nmis = self.bench.nmis
        self.bench.forget_exit_code()

    def _seen(self, result: Any) -> tuple[Any, ...]:
        new = tuple(tuple(view[at:]) for view, at in zip(self._views(), self._marks, strict=True))
        bench = self.bench
        return (result, *new, bench.nmis - self._nmis, bench.exit_code, bench.a20)

    @property
    def has_real_timers(self) -> bool:
        """Whether it has timers that go on while the machine is suspended."""
        timers = self.host.owned[self.instance].timers.values()
        return any(timer.clock is Clock.REAL for timer in timers)

    def shot(self, *, virtual_only: bool = False) -> Shot:
        """The instance now; `virtual_only`: without the timers on the clock REAL."""
        owned = self.host.owned[self.instance]
        timers = []
        for name, timer in sorted(owned.timers.items()):
            if virtual_only and timer.clock is Clock.REAL:
                continue
            expires = timer.expires
            timers.append((name, None if expires is None else expires - self.host.clock(timer.clock)))
        lines = tuple(h.level for h in owned.irqs) + tuple(f.irq_level for f in owned.functions)
        pci = tuple(function.save() for function in owned.functions)
        host = self.host
        modes = tuple(sorted((page, mode.value) for page, mode in host.memory.modes.items() if mode.value))
        machine = (host.bus.a20, host.board.interrupt, host.board.nmi_masked, modes)
        return Shot(*self._state(), tuple(timers), lines, pci, machine)

    def _state(self) -> tuple[State | None, bytes]:
        try:
            state = state_of(self.instance)
            return state, b"" if state is None else encode(state)
        except Exception as error:
            raise Violation("no-raise", f"saving failed: {error}") from error

    def remembers(self) -> dict[str, Any]:
        """All attributes of the instance, as plain data."""
        return internals(self.instance.object)

    def keep_state(self) -> None:
        """Remember a state object, to see at the next time whether it is still what it was."""
        self.check_alias()
        state, encoded = self._state()
        if state is not None:
            self._kept = state, encoded

    def check_alias(self) -> None:
        """Violation when the state that was kept has changed since."""
        if self._kept is not None and encode(self._kept[0]) != self._kept[1]:
            raise Violation("alias", "a state that was saved before is not what it was any more")
        self._kept = None

    def check_lines(self) -> None:
        """Violation when this state was seen with other levels of the interrupt lines."""
        shot = self.shot()
        self.subject.guide.saw(shot.state)
        if shot.state is None:
            return
        again = state_of(self.instance)
        # Compared as objects first, since that is faster; a NaN is only as bytes what it was.
        if again is None or (again != shot.state and encode(again) != shot.encoded):
            raise Violation("save-quiet", f"{self.log[-1][0]}: saving twice gives another state")
        if not shot.lines:
            return
        known = self.subject.levels
        configs = tuple(p.config[:6] + p.config[8:] + p.msix_table for p in shot.pci)
        key = (shot.encoded, shot.timers, configs, str(self.config))
        if key not in known and len(known) < _KNOWN:
            known[key] = shot.lines, tuple(text for text, _ in self.log)
        before, way = known.get(key, (shot.lines, ()))
        if before != shot.lines:
            raise Violation(
                "line-is-state",
                f"{self.log[-1][0]}: the interrupt lines are {_levels(shot.lines)}; in the same state they "
                f"were {_levels(before)} after: {'; '.join(way[-6:])}",
            )

    # --- regions

    def place(self, region: int, offset: int) -> tuple[bool, int | None]:
        """Whether it is a port, and its address; where the region was last when it is not mapped."""
        watched = self.regions[region]
        base = self.host.base(watched)
        if base is None:
            base = self._bases.get(region)
        return watched.ports, None if base is None else base + offset

    def name_of(self, region: int, offset: int, size: int, *, write: bool) -> str:
        """`uart.LCR (+0x3)`."""
        watched = self.regions[region]
        table = watched.region.registers
        if table is None:
            return f"{watched.label}+{offset:#x}"
        return f"{watched.label}.{table.name_at(offset, write)} (+{offset:#x})"

    def describe(self, region: int, offset: int, size: int, value: int) -> str:
        """A value, with the fields of the register when there is one."""
        table = self.regions[region].region.registers
        for register in table.at(offset, True) if table is not None else ():
            if register.size == size and (register.fields or value in register.values):
                return f"{value:#x} ({register.describe(value)})"
        return f"{value:#x}"

    # --- the end

    def close(self, *, last: bool = True) -> None:
        """Power off and destruct.  Violation when that goes wrong.  `last`: no other rig is there, so that
        what is left of threads is this one's."""
        bench = self.bench
        with self.watch.step("the end of all requests"):
            self.calm()
            self.check_alias()
            if bench.state == "running":
                self.check_ledger()
                self.check_line()
        if bench.state in ("running", "suspended"):
            with self.watch.step("power off"):
                bench.power_off()
                self.calm()  # a driver may have passed on what it delayed
            self.check("power off")
            real = [t for t in self.host.owned[self.instance].timers.values() if t.clock is Clock.REAL]
            if any(timer.active for timer in real):
                raise Violation("suspended", "a timer on the clock REAL is armed after power off")
            held = [line for line in range(16) if bench.irq(line)]
            if held or any(function.irq_level for function in self.functions):
                raise Violation("lines-low", f"after power off interrupt lines {held or 'of PCI'} are held")
        with self.watch.step("pdm_destruct"), self.watch.left_to_chance():
            bench.destruct()
        for failure in bench.failures[self._failures :]:
            if isinstance(failure.error, Violation):
                raise failure.error
            raise Violation("destruct", f"{failure.where} raised {failure.error!r}") from failure.error
        if self.host.held():
            raise Violation("dma-released", f"{self.host.held()} transfers are not released at the end")
        if self.media.pending or self.drive.pending:
            raise Violation("requests", "a request is not completed at the end")
        if self.line is not None:
            self.line.check_arrived(told=bool(bench.runtime_errors))
        self.watch.finish(threads=last)

    def abandon(self) -> None:
        """Destruct whatever it does; for a rig that failed."""
        try:
            with self.watch.step("the end"):
                self.bench.destruct()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise


def _levels(lines: tuple[bool, ...]) -> str:
    return "/".join("high" if level else "low" for level in lines)


def probe(subject: Subject) -> Rig:
    """A first rig: finds out which LUNs there are, and is made again with neighbours in them."""
    kind = subject.type
    if isinstance(kind, DriverType):
        subject.luns = {} if kind.wants is None else {0: kind.wants}
        return Rig(subject)
    subject.luns = {}
    rig = Rig(subject)
    luns = rig.host.node(rig.instance).luns
    subject.luns = {number: lun.link.layer for number, lun in sorted(luns.items())}
    subject.roles = rig.host.roles(rig.instance)
    rig.close()
    return Rig(subject)
