"""The pytest plugin: fixture `bench`, and options that choose a backend or run the conformance kit.

def test_uart_after_reset_is_empty(bench):
    bench.add("serial")
    assert bench.port_read(0x3FD) == 0x60

`pytest --pdm-device serial` adds a test that holds the type `serial` to the contract; so does
`--pdm-file ./mine.py` for each type of a single file.  See `vbox_pdm.testing.conformance`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vbox_pdm.catalogue import Catalogue, Plugin
from vbox_pdm.device import DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import PdmError
from vbox_pdm.testing.bench import Bench
from vbox_pdm.testing.conformance import PROFILES, Profile, check
from vbox_pdm.testing.conformance.command import find, parse_config, profile_of, types_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vbox-bench` and `--pdm-*`."""
    group = parser.getgroup("vbox")
    group.addoption(
        "--vbox-bench",
        metavar="NAME",
        default=None,
        help="what hosts the devices of benches: bench (default), kernel, or another backend",
    )
    group.addoption(
        "--pdm-device",
        metavar="NAME",
        action="append",
        default=[],
        help="check that the device or driver type NAME keeps the contract (may be repeated)",
    )
    group.addoption(
        "--pdm-file",
        metavar="PATH",
        default=None,
        help="a plugin that is a single file; without --pdm-device all its types are checked",
    )
    group.addoption(
        "--pdm-profile",
        choices=sorted(PROFILES),
        default="quick",
        help="how long each type is checked: quick (10 seconds), thorough (5 minutes), long (an hour)",
    )
    group.addoption(
        "--pdm-budget", metavar="SECONDS", type=float, default=None, help="another time than the profile's"
    )
    group.addoption("--pdm-seed", metavar="N", type=int, default=0, help="what the check tries first")
    group.addoption("--pdm-report", metavar="DIR", default=None, help="write NAME.json and NAME.html there")
    group.addoption(
        "--pdm-config",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a configuration key of all instances (may be repeated)",
    )
    group.addoption(
        "--pdm-corpus", metavar="DIR", default=None, help="keep what was interesting, and begin with it"
    )


def pytest_configure(config: pytest.Config) -> None:
    """For tests that make a Bench of their own, too."""
    name = config.getoption("--vbox-bench")
    if name:
        os.environ["VBOX_BENCH"] = name


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """A test for each type that was asked for."""
    names, file = list(config.getoption("--pdm-device")), config.getoption("--pdm-file")
    if not names and file is None:
        return
    catalogue = Catalogue()
    try:
        found = types_of(catalogue.add_file(Path(file))) if file is not None else []
        profile = profile_of(config.getoption("--pdm-profile"), config.getoption("--pdm-budget"))
        keys = parse_config(config.getoption("--pdm-config"))
        for name in names or found:
            kind, plugin = find(catalogue, name)
            items.append(
                ConformanceItem.from_parent(
                    session, name=f"conformance[{name}]", kind=kind, plugin=plugin, profile=profile, keys=keys
                )
            )
    except PdmError as error:
        raise pytest.UsageError(str(error)) from None


class ConformanceItem(pytest.Item):
    """A type that is checked."""

    def __init__(
        self,
        *,
        kind: DeviceType | DriverType,
        plugin: Plugin,
        profile: Profile,
        keys: Mapping[str, object],
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.kind = kind
        self.plugin = plugin
        self.profile = profile
        self.keys = keys

    def runtest(self) -> None:
        """Run the kit; fails with its report."""
        corpus = self.config.getoption("--pdm-corpus")
        report = check(
            self.kind,
            self.profile,
            seed=self.config.getoption("--pdm-seed"),
            plugin=self.plugin,
            config=self.keys,
            corpus=Path(corpus) if corpus is not None else None,
        )
        folder = self.config.getoption("--pdm-report")
        if folder is not None:
            report.write(Path(folder))
        if not report.passed:
            raise NotConformant(str(report))
        self.add_report_section("call", "conformance", str(report))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report, without pytest's traceback of the kit."""
        if isinstance(excinfo.value, NotConformant):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """How pytest names it."""
        return Path(), None, f"conformance of {self.kind.name}"


class NotConformant(AssertionError):
    """A type does not keep the contract."""


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A Bench, destructed after the test."""
    with Bench() as made:
        yield made
