"""For every property that the kit checks: a type that breaks it is reported with that property and no
other, and its twin without the fault passes."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faulty_drivers
import faulty_pci
import faulty_ports
import faulty_process
import faulty_setup
import pytest
from faulty import CASES, CORRECT, PROFILE, SHORT, Case, counted, report_on

import vbox_pdm.config
from vbox_pdm import ConfigError, DeviceType, DriverType
from vbox_pdm.testing.conformance import Profile, check, watch
from vbox_pdm.testing.conformance.violations import PROPERTIES

FAMILIES = (faulty_drivers, faulty_pci, faulty_ports, faulty_process, faulty_setup)
BY_ANOTHER_HOST = {"config-unknown"}
"""What no device can break, since keys are looked at before it is made."""
GADGET = next(kind for kind in CORRECT if kind.name == "gadget")


@pytest.fixture(autouse=True)
def process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the faulty ones change of it is put back."""
    environment, path, folder = dict(os.environ), list(sys.path), os.getcwd()
    dice, mask = random.getstate(), os.umask(0o22)
    os.umask(mask)
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    os.chdir(folder)
    random.setstate(dice)
    os.umask(mask)


@pytest.fixture(scope="module", autouse=True)
def end_of_threads() -> Iterator[None]:
    """Threads that were left behind end with this module."""
    yield
    faulty_process.ENOUGH.set()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kit_faulty_type_breaks_its_property(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.prop == "no-hang":  # it does hang: no need to be patient
        monkeypatch.setattr(watch, "ACCESS_CPU", 0.2)
        monkeypatch.setattr(watch, "ACCESS_WALL", 1.0)

    report = report_on(case.type)

    assert {failure.property for failure in report.failures} == {case.prop}, str(report)
    assert case.says in report.failures[0].text


@pytest.mark.parametrize("kind", CORRECT, ids=lambda kind: kind.name)
def test_kit_correct_type_passes(kind: DeviceType | DriverType) -> None:
    with counted():
        report = report_on(kind, SHORT)

    assert report.passed, str(report)
    assert report.examples > 0


def test_kit_every_property_has_a_faulty_type() -> None:
    broken = {case.prop for case in CASES} | BY_ANOTHER_HOST

    assert broken == set(PROPERTIES)


def test_kit_every_family_has_a_correct_type() -> None:
    found = {(kind.device if isinstance(kind, DeviceType) else kind.driver).__module__ for kind in CORRECT}

    assert found == {family.__name__ for family in FAMILIES}


def test_kit_impossible_region_is_the_only_failure() -> None:
    cases = [case for case in CASES if "region" in case.says or "VERR_IOM" in case.says]

    reports = [report_on(case.type) for case in cases]

    assert len(reports) == 3
    for case, report in zip(cases, reports, strict=True):
        assert len(report.failures) == 1
        assert f"'{case.type.name}' instance #0" in report.failures[0].text
        assert report.examples == 0


def test_kit_host_that_accepts_any_key_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = vbox_pdm.config.parse

    def lenient(config_class: type[Any], values: Mapping[str, object], where: str) -> Any:
        known = {info.name for info in vbox_pdm.config.keys(config_class)}
        return parse(config_class, {name: value for name, value in values.items() if name in known}, where)

    monkeypatch.setattr(vbox_pdm.config, "parse", lenient)

    report = report_on(GADGET)

    assert [failure.property for failure in report.failures] == ["config-unknown"]
    assert "'no_such_key' is accepted" in report.failures[0].text


def test_kit_host_that_does_not_name_the_key_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = vbox_pdm.config.parse

    def vague(config_class: type[Any], values: Mapping[str, object], where: str) -> Any:
        try:
            return parse(config_class, values, where)
        except ConfigError as error:
            raise ConfigError(error.status, "Something is wrong with the configuration") from None

    monkeypatch.setattr(vbox_pdm.config, "parse", vague)

    report = report_on(GADGET)

    assert "config-unknown" in {failure.property for failure in report.failures}
    assert "does not name it" in report.failures[0].text


def test_kit_setup_that_raises_is_reported() -> None:
    def setup(name: str, folder: Path) -> None:
        raise LookupError(f"nothing is known of {name}")

    plugin = SimpleNamespace(distribution="tests", module=SimpleNamespace(vbox_conformance_setup=setup))

    report = check(GADGET, PROFILE, plugin=plugin)

    assert [failure.property for failure in report.failures] == ["constructs"]
    assert "nothing is known of gadget" in report.failures[0].text


def test_kit_same_seed_finds_the_same() -> None:
    case = next(case for case in CASES if case.prop == "line-is-state")
    unshrunk = Profile("test", seconds=PROFILE.seconds, steps=25, shrink=0)

    first, second, other = (report_on(case.type, unshrunk, seed=seed) for seed in (3, 3, 4))

    assert first.failures == second.failures
    assert (first.examples, first.steps) == (second.examples, second.steps)
    assert first.failures[0].steps != other.failures[0].steps
