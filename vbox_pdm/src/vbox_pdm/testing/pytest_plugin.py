"""The pytest plugin: fixture `bench` and option `--vbox-bench`.

def test_uart_after_reset_is_empty(bench):
    bench.add("serial")
    assert bench.port_read(0x3FD) == 0x60
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vbox_pdm.testing.bench import Bench


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vbox-bench NAME`."""
    parser.getgroup("vbox").addoption(
        "--vbox-bench",
        metavar="NAME",
        default=None,
        help="what hosts the devices of the fixture `bench`: bench (default), kernel, or another backend",
    )


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A Bench, destructed after the test."""
    with Bench(backend=request.config.getoption("--vbox-bench")) as made:
        yield made
