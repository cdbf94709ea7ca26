"""Checks that need no random steps: configuration, construction, power-on values, PCI rules."""

from __future__ import annotations

import contextlib
import enum
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vbox_pdm.config import KeyInfo, keys
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import ConfigError, PdmError
from vbox_pdm.layers import Keyboard, Mouse
from vbox_pdm.media import Media, MediaOp
from vbox_pdm.testing.conformance import internals, neighbours
from vbox_pdm.testing.conformance.conservation import Ledger
from vbox_pdm.testing.conformance.registers_check import (
    check_pci,
    check_reset_value_of_effects,
    check_reset_values,
)
from vbox_pdm.testing.conformance.rig import Rig, Subject, probe
from vbox_pdm.testing.conformance.steps import ABOVE, Action, Advance, Down, Enable, Life, Mood
from vbox_pdm.testing.conformance.traffic import CallOf, MediaAsk
from vbox_pdm.testing.conformance.twins import across, check_reset, shot_difference
from vbox_pdm.testing.conformance.violations import Hang, Violation

_TEXTS = ("", " ", "x", "-1", "1-", "a=b;c", "\u20ac", os.fsdecode(b"\xff"), "x" * 5000)
"""Texts for keys of which nothing is known: nothing, half of something, what a shell hands over when a
file's name is no UTF-8, too much."""


def checks() -> dict[str, Callable[[Subject], None]]:
    """Name and function, in the order in which they make sense: without the first there is no other."""
    return {
        "construct, power on, destruct": constructs,
        "unknown keys": unknown_keys,
        "values of keys": key_values,
        "texts of keys": key_texts,
        "configurations of the setup": configurations,
        "a construct that fails": failing_construct,
        "an end without a beginning": never_begun,
        "a suspend behind requests": suspend_behind_requests,
        "power-on values": power_on_values,
        "reset of a new device": new_reset,
        "PCI rules": pci_rules,
        "a source that must wait": waiting_source,
    }


def constructs(subject: Subject) -> None:
    """With the configuration of the Setup; also finds the LUNs."""
    try:
        rig = probe(subject)
    except (Violation, Hang):
        raise
    except Exception as error:
        if isinstance(error.__cause__, Violation):  # wrapped by the host
            raise error.__cause__ from None
        shown = str(error) if isinstance(error, PdmError) else repr(error)
        raise Violation("constructs", f"{subject.name} cannot be made: {shown}") from error
    try:
        rig.perform(Advance(1_000_000))
        rig.close()
    except BaseException:
        rig.abandon()
        raise


def unknown_keys(subject: Subject) -> None:
    """Refused by name, whatever they resemble."""
    names = ["no_such_key", *(name.upper() for name in list_keys(subject)[:1])]
    known = set(list_keys(subject))
    for name in names:
        if name in known:
            continue
        try:
            Rig(subject, {name: 1}).abandon()
        except ConfigError as error:
            if name not in str(error):
                raise Violation(
                    "config-unknown", f"the error for '{name}' does not name it: {error}"
                ) from error
            continue
        raise Violation("config-unknown", f"key '{name}' is accepted")


def list_keys(subject: Subject) -> list[str]:
    """The names of its keys."""
    return [info.name for info in keys(subject.type.config)]


def key_values(subject: Subject) -> None:
    """The ends of each range and what lies between and outside."""
    for info in keys(subject.type.config):
        if info.type in (int, float) and info.span is None and info.choices is None:
            raise Violation("config-range", f"key '{info.name}' is a number and says no range (span=)")
        given = tuple(subject.setup.keys.get(info.name, ()))
        for value in inside(info):
            must = info.span is not None and not subject.is_driver  # a driver may find the host otherwise
            _try_value(subject, {info.name: value}, must=must)
        for value in given:
            _try_value(subject, {info.name: value}, must=False)
        for value in outside(info):
            try:
                Rig(subject, {info.name: value}).abandon()
            except ConfigError:
                _refused_cleanly(subject, f"{info.name}={value!r}")
                continue
            raise Violation("config-range", f"{info.name}={value!r} is out of range and accepted")


def key_texts(subject: Subject) -> None:
    """Keys that take any text, and of which the Setup says nothing; in a folder where it does no harm."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for info in keys(subject.type.config):
            if info.name in subject.setup.keys or info.choices is not None or "str" not in info.type_name:
                continue
            for text in _TEXTS:
                _try_value(subject, {info.name: text}, must=False)


def configurations(subject: Subject) -> None:
    """Keys that belong together, and those that miss others."""
    for config in subject.setup.configs:
        _try_value(subject, config, must=True)
    for config in subject.setup.refuses:
        if _try_value(subject, config, must=False):
            raise Violation("config-range", f"{_shown(config)} is accepted")


def _try_value(subject: Subject, config: Mapping[str, object], *, must: bool) -> bool:
    """Whether it is accepted.  `must`: nothing but another key may forbid it, and then the error is a
    ConfigError."""
    what = _shown(config)
    before = _files(subject.folder)
    try:
        rig = Rig(subject, config)
    except PdmError as error:
        cause = error.__cause__
        foreign = cause is not None and not isinstance(cause, PdmError)
        if error.status == "VERR_GENERAL_FAILURE" or foreign:
            raise Violation("config-range", f"{what} is in range and raises {cause or error!r}") from error
        if must and not isinstance(error, ConfigError) and not isinstance(cause, ConfigError):
            raise Violation("config-range", f"{what} is in range and is refused: {error}") from error
        _refused_cleanly(subject, what)
        changed = before.items() ^ _files(subject.folder, touch=False).items()
        if changed:
            names = ", ".join(sorted({path.name for path, _ in changed}))
            raise Violation("construct-fails", f"{what} is refused, and has changed {names}") from error
        return False
    try:
        rig.perform(Advance(20_000_000))
        rig.close()
    except BaseException:
        rig.abandon()
        raise
    return True


def _shown(config: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r:.80}" for name, value in config.items())


def _files(folder: Path | None, *, touch: bool = True) -> dict[Path, tuple[object, ...]]:
    """What the files of the Setup are; `touch`: they get an old date, so that any change shows."""
    found: dict[Path, tuple[object, ...]] = {}
    for path in folder.rglob("*") if folder is not None else ():
        if path.is_symlink():
            found[path] = (path.readlink(),)
        elif path.is_file():
            if touch:
                os.utime(path, (0, 0))
            status = path.stat()
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


def _refused_cleanly(subject: Subject, what: str) -> None:
    for failure in subject.last_bench.failures if subject.last_bench is not None else ():
        raise Violation(
            "construct-fails", f"when {what} is refused, {failure.where} raises {failure.error!r}"
        ) from failure.error


def inside(info: KeyInfo) -> Iterator[Any]:
    """Values in the range of a key."""
    if info.choices is not None:
        yield from info.choices
    elif info.span is not None:
        low, high = info.span
        yield from dict.fromkeys((low, high, (low + high) // 2 if isinstance(low, int) else low))
    elif info.type is bool:
        yield from (False, True)
    elif isinstance(info.default, (int, float, bool)) or info.default is None:
        yield info.default


def outside(info: KeyInfo) -> Iterator[Any]:
    """Values out of it, and of no type that fits."""
    if info.span is not None:
        low, high = info.span
        yield from (low - 1, high + 1)
    if info.choices is not None and not isinstance(info.choices[0], (bool, enum.Enum)):
        yield "no such choice"
    if info.type is int:
        yield "a word"


def failing_construct(subject: Subject) -> None:
    """Each helper in turn fails: the error comes out, destruct copes with what is not there."""
    for number in range(1, 200):
        try:
            rig = Rig(subject, fail_at=number)
        except PdmError as error:
            assert subject.last_bench is not None
            for failure in subject.last_bench.failures:
                text = f"when creation {number} fails, {failure.where} raises {failure.error!r}"
                raise Violation("construct-fails", text) from failure.error
            if error.status == "VERR_GENERAL_FAILURE":
                raise Violation("construct-fails", f"the error became {error}") from error
            continue
        last = rig.host.creations < number
        rig.close()
        if last:
            return


def never_begun(subject: Subject) -> None:
    """Of a machine that another device kept from power on: whoever asks a medium then hears of the end."""
    if not isinstance(subject.type, DriverType) or subject.type.serves is not Media:
        return
    configs: list[dict[str, object]] = [{}]
    for info in keys(subject.type.config):
        given = subject.setup.keys.get(info.name) or inside(info)
        configs += [{info.name: value} for value in given if value != info.default]
    for config in configs:
        try:
            rig = Rig(subject, config, begun=False)
        except PdmError:
            continue  # `key_values` looked at it
        try:
            for op in MediaOp:
                step = Down(CallOf("media_submit", (MediaAsk(op, 0, (512,), 1),)))
                rig.log.append((step.text(rig), step.code(rig)))
                rig.media.submit(rig.upper.below, step.call.args[0])
            rig.bench.destruct()
        except Violation as error:
            error.log, error.config = rig.log, rig.config
            raise
        finally:
            rig.abandon()
        if rig.media.pending:
            raise Violation("requests", f"a request is not completed at the end, before power on: {config}")


def suspend_behind_requests(subject: Subject) -> None:
    """Of a medium that was given some right before: it must not be over while one of them is not."""
    if not isinstance(subject.type, DriverType) or subject.type.serves is not Media:
        return
    for op in MediaOp:
        rig = Rig(subject)
        try:
            for number in range(_BURST):
                rig.perform(Down(CallOf("media_submit", (MediaAsk(op, 0, (0x10000,), number),))))
            rig.perform(Life("suspend"))
        except Violation as error:
            with contextlib.suppress(Violation, PdmError):
                rig.bench.resume()
                rig.calm()
            if not rig.media.pending:  # what never ends is another property's
                error.log, error.config = rig.log, {}
                raise
        finally:
            rig.abandon()


_BURST = 8


def power_on_values(subject: Subject) -> None:
    """What the registers read in a new device; each of those with an effect in one of its own."""
    rig = _enabled(subject)
    try:
        check_reset_values(rig, "after power on")
    finally:
        rig.abandon()
    more, number = True, 0
    while more:
        rig = _enabled(subject)
        try:
            more = check_reset_value_of_effects(rig, "after power on", number)
        finally:
            rig.abandon()
        number += 1


def _enabled(subject: Subject) -> Rig:
    rig = Rig(subject)
    for number in range(len(rig.functions)):
        rig.perform(Enable(number))
    return rig


def new_reset(subject: Subject) -> None:
    """Reset of a device that nobody touched: nothing changes."""
    rig = Rig(subject)
    try:
        before, remembered = rig.shot(), rig.remembers()
        configs = [function.save().config for function in rig.functions]
        with rig.watch.step("reset"):
            rig.bench.reset()
        rig.check("reset")
        if not subject.is_driver:
            skip = across(before.state)
            changed = shot_difference(before, rig.shot(), skip)
            kept = {name.rpartition(".")[2].lstrip("_") for name in skip}
            changed = changed or internals.difference(remembered, rig.remembers(), kept)
            if [function.save().config for function in rig.functions] != configs:
                changed = changed or "PCI configuration"
            if changed:
                raise Violation("reset-state", f"a reset changes a device that is new: {changed}")
        check_reset(rig)
        rig.close()
    except BaseException:
        rig.abandon()
        raise


def pci_rules(subject: Subject) -> None:
    """BARs and capabilities."""
    if isinstance(subject.type, DriverType):
        return
    rig = Rig(subject)
    try:
        check_pci(rig)
    finally:
        rig.abandon()


def waiting_source(subject: Subject) -> None:
    """What front ends give to a source of keys or motion arrives, whether it is taken at once or not."""
    kind = subject.type
    actions = subject.setup.actions
    if not isinstance(kind, DriverType) or kind.wants is not None or not actions:
        return
    if kind.serves not in (Keyboard, Mouse):
        return
    for seed in range(_TURNS):
        chance, ledger = random.Random(seed), Ledger(kind.serves)
        done: list[Action] = []
        with contextlib.closing(_Source(subject, ledger.came_out)) as source:
            if source.rig.has_workers:
                return  # keys of the host come between those that are given
            names = neighbours.moods(source.rig.upper)
            for turn in range(_GIVEN):
                if turn % 20 == 0:
                    source.rig.perform(Mood(ABOVE, chance.choice(names[1:] if turn % 40 == 0 else names)))
                action = Action(*chance.choice(actions))
                if not source.give(action):
                    done.append(action)
            source.rig.perform(Mood(ABOVE, names[0]))
        with contextlib.closing(_Source(subject, ledger.went_in)) as source:
            for action in done:
                source.give(action)
        try:
            ledger.check(settled=True)
        except Violation as error:
            raise Violation("carried", f"while the neighbour has no room: {error.text}") from None


_TURNS, _GIVEN = 4, 120


class _Source:
    """A rig that front ends give something to, and what came out of it."""

    def __init__(self, subject: Subject, told: Callable[..., None]) -> None:
        self.rig = Rig(subject)
        self.rig.upper.told = told

    def give(self, action: Action) -> bool:
        """Whether it was refused."""
        refusals = self.rig.refusals
        self.rig.perform(action)
        self.rig.check_own(self.rig.log[-1][0])
        return self.rig.refusals > refusals

    def close(self) -> None:
        self.rig.close()
