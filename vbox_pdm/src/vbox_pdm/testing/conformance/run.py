"""Checking one type: the single checks, then rounds of the state machine until the time is used."""

from __future__ import annotations

import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase
from hypothesis.stateful import run_state_machine_as_test

from vbox_pdm.config import keys
from vbox_pdm.device import DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import PdmError
from vbox_pdm.testing.conformance import once
from vbox_pdm.testing.conformance.guide import Guide
from vbox_pdm.testing.conformance.hosttime import forbidden
from vbox_pdm.testing.conformance.machine import Found, machine_for
from vbox_pdm.testing.conformance.report import Failure, Report, coverage
from vbox_pdm.testing.conformance.rig import Rig, Subject
from vbox_pdm.testing.conformance.setup import SLOWEST, Profile, Setup
from vbox_pdm.testing.conformance.shrink import shrink
from vbox_pdm.testing.conformance.snippets import snippet
from vbox_pdm.testing.conformance.violations import Hang, Violation

_ROUND = 3
"""Examples of one round; each round has another configuration."""


def check(
    kind: DeviceType | DriverType,
    profile: Profile,
    *,
    seed: int = 0,
    plugin: Any = None,
    config: Mapping[str, object] | None = None,
    corpus: Path | None = None,
) -> Report:
    """Check a type.  `plugin` is its `catalogue.Plugin`, whose `vbox_conformance_setup` is asked;
    `config` are keys for all instances; `corpus` is a folder that keeps what was interesting."""
    distribution = getattr(plugin, "distribution", "")
    what = "driver" if isinstance(kind, DriverType) else "device"
    report = Report(kind.name, what, distribution, profile.name, seed)
    start, late = time.monotonic(), _late(profile)
    with tempfile.TemporaryDirectory(prefix="vbox-conformance-") as folder:
        try:
            setup = _setup(kind.name, plugin, Path(folder), config or {})
        except Exception as error:
            text = f"vbox_conformance_setup raised {error!r}"
            report.failures.append(Failure("constructs", text, traceback=_trace(error)))
            return report
        file = Path(plugin.distribution) if getattr(plugin, "from_file", False) else None
        package = (kind.driver if isinstance(kind, DriverType) else kind.device).__module__.partition(".")[0]
        subject = Subject(kind, setup, distribution, file, Path(folder), guide=Guide(package))
        with forbidden(kind.device) if isinstance(kind, DeviceType) else nullcontext():
            _single_checks(subject, report)
            if report.passed:
                _rounds(subject, profile, report, late, corpus, config or ())
    report.seconds = round(time.monotonic() - start, 3)
    return report


def _setup(name: str, plugin: Any, folder: Path, config: Mapping[str, object]) -> Setup:
    module = getattr(plugin, "module", None)
    hook = getattr(module, "vbox_conformance_setup", None)
    found = hook(name=name, folder=folder) if hook is not None else None
    setup: Setup = found if found is not None else Setup()
    return attrs.evolve(setup, config={**setup.config, **config})


def _single_checks(subject: Subject, report: Report) -> None:
    for name, function in once.checks().items():
        try:
            function(subject)
        except (Violation, Hang, Exception) as error:
            report.failures.append(_failure(subject, error, f"{name}: "))
            if name.startswith("construct,"):
                return
        report.checks.append(name)


def _late(profile: Profile) -> Callable[[], bool]:
    """Says whether the time of the profile, from now on, is used."""
    start, worked = time.monotonic(), time.process_time()

    def late() -> bool:
        waited = time.monotonic() - start
        if not profile.cpu:
            return waited > profile.seconds
        return time.process_time() - worked > profile.seconds or waited > SLOWEST * profile.seconds

    return late


def _rounds(
    subject: Subject,
    profile: Profile,
    report: Report,
    late: Callable[[], bool],
    corpus: Path | None,
    fixed: Iterable[str],
) -> None:
    database = _database(corpus, report)
    free = _free(subject, fixed)
    configs = _configs(subject, free, fixed)
    number = 0
    while not late():
        config = _config(free, configs, report.seed, number)
        try:
            machine = machine_for(subject, config, late)
        except PdmError:
            if config in configs:  # a value that needs more (`key_values` looked at the error)
                configs.remove(config)
            if not configs:
                return
            number += 1
            continue
        except (Violation, Hang) as error:
            report.failures.append(_failure(subject, error))
            return
        counted = _counting(machine, report)
        hypothesis.seed(report.seed * 1_000_003 + number)(counted)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run_state_machine_as_test(counted, settings=_settings(profile, database))
        except Found as found:
            report.failures.append(_failure(subject, shrink(subject, found.error, profile.shrink)))
            break
        number += 1
    report.coverage = coverage(_regions(subject), subject.notes)


def _settings(profile: Profile, database: ExampleDatabase | None) -> settings:
    phases = [Phase.generate]  # `shrink` does the rest, by moves instead of by choices
    if database is not None:
        phases.insert(0, Phase.reuse)
    return settings(
        max_examples=_ROUND, stateful_step_count=profile.steps, deadline=None, database=database,
        suppress_health_check=list(HealthCheck), phases=phases, print_blob=False,
        report_multiple_bugs=False, verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip


def _database(corpus: Path | None, report: Report) -> ExampleDatabase | None:
    if corpus is None:
        return None
    try:
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / ".writable").write_bytes(b"")
    except OSError as error:
        report.notes.append(f"the corpus {corpus} cannot be used ({error.strerror}); going on without")
        return None
    return _Tolerant(corpus, report)


class _Tolerant(DirectoryBasedExampleDatabase):
    """A corpus with files that nobody can read is used as far as it can be."""

    def __init__(self, path: Path, report: Report) -> None:
        super().__init__(path)
        self._report = report

    def fetch(self, key: bytes) -> Any:
        try:
            yield from super().fetch(key)
        except Exception as error:
            note = f"the corpus is damaged ({error!r}); going on with what is good"
            if note not in self._report.notes:
                self._report.notes.append(note)


def _configs(
    subject: Subject, free: Mapping[str, list[object]], fixed: Iterable[str]
) -> list[Mapping[str, object]]:
    """The default, those of the Setup, and each key at other values, alone."""
    alone = [{name: value} for name, values in free.items() for value in values[:3]]
    return [{}, *(each for each in subject.setup.configs if not each.keys() & set(fixed)), *alone]


def _free(subject: Subject, fixed: Iterable[str]) -> dict[str, list[object]]:
    """The keys that are not `fixed`, with the values that they have besides the default."""
    found: dict[str, list[object]] = {}
    for info in keys(subject.type.config):
        values = list(subject.setup.keys.get(info.name, ())) or list(once.inside(info))
        default = subject.setup.config.get(info.name, info.default)
        others = [value for value in values if value != default]
        if others and info.name not in fixed:
            found[info.name] = others
    return found


def _config(
    free: Mapping[str, list[object]], configs: Sequence[Mapping[str, object]], seed: int, number: int
) -> Mapping[str, object]:
    """That of a round: the default, a key alone, the default, several keys together, and so on."""
    if len(configs) == 1 or number % 2 == 0:
        return configs[0]
    if number % 4 == 1:
        return configs[1 + number // 4 % (len(configs) - 1)]
    chance = random.Random(f"{seed} {number}")
    return {name: chance.choice(values) for name, values in free.items() if chance.random() < 0.5}


def _counting(machine: Any, report: Report) -> Any:
    class Counted(machine):  # type: ignore[misc]
        def teardown(self) -> None:
            if self.session is not None:
                report.examples += 1
                report.steps += len(self.session.rig.log)
            super().teardown()

    Counted.__name__ = Counted.__qualname__ = machine.__name__
    return Counted


def _regions(subject: Subject) -> Any:
    try:
        rig = Rig(subject)
    except PdmError:
        return []
    try:
        return list(rig.regions)
    finally:
        rig.abandon()


def _failure(subject: Subject, error: BaseException, where: str = "") -> Failure:
    log = error.log if isinstance(error, (Violation, Hang)) else []
    config = error.config if isinstance(error, (Violation, Hang)) else {}
    steps = [text for text, _ in log]
    code = snippet(subject, config, log) if log else ""
    if isinstance(error, (Violation, Hang)):
        return Failure(error.prop, where + error.text, steps, code, _trace(error.__cause__))
    if isinstance(error, PdmError):
        return Failure("constructs", where + str(error), steps, code, _trace(error.__cause__))
    return Failure("no-raise", f"{where}{error!r}", steps, code, _trace(error))


def _trace(error: BaseException | None) -> str:
    if error is None:
        return ""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines[-6:])
