"""The pytest plugin: fixture `bench` and option `--vbox-bench`.

def test_uart_after_reset_is_empty(bench):
    bench.add("serial")
    assert bench.port_read(0x3FD) == 0x60
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vbox_pdm.testing.bench import Bench


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vbox-bench NAME`."""
    parser.getgroup("vbox").addoption(
        "--vbox-bench",
        metavar="NAME",
        default=None,
        help="what hosts the devices of benches: bench (default), kernel, or another backend",
    )


def pytest_configure(config: pytest.Config) -> None:
    """For tests that make a Bench of their own, too."""
    name = config.getoption("--vbox-bench")
    if name:
        os.environ["VBOX_BENCH"] = name


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A Bench, destructed after the test."""
    with Bench() as made:
        yield made
