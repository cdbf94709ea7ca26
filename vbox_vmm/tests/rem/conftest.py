"""Every test of REM's behaviour runs on both of its engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rem_guest import Guest

from vbox_vmm.rem.probe import NATIVE, PORTABLE, usable


@pytest.fixture(scope="session", params=[NATIVE, PORTABLE])
def engine(request: pytest.FixtureRequest) -> str:
    """An engine's name; skips what cannot run here."""
    name = str(request.param)
    if reason := usable(name):
        pytest.skip(reason)
    return name


@pytest.fixture
def guest(engine: str) -> Iterator[Guest]:
    guest = Guest(engine=engine)
    yield guest
    guest.close()
