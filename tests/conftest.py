"""Fixtures of the tests of whole machines: the guests, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import guests
import pytest
from guests import GuestFiles
from machines import Guest, Shared, found


@pytest.fixture(scope="session")
def debian() -> GuestFiles:
    """Debian's amd64 kernel and an initrd, with a shell on the first serial line."""
    return found(guests.debian)


@pytest.fixture(scope="session")
def debian_kernel(debian: GuestFiles) -> Path:
    """Debian's amd64 kernel."""
    return debian.kernel


@pytest.fixture(scope="session")
def debian_initrd(debian: GuestFiles) -> Path:
    """An initrd for it."""
    assert debian.initrd is not None
    return debian.initrd


@pytest.fixture(scope="session")
def tiny() -> GuestFiles:
    """The tiny guest."""
    return found(guests.tiny)


@pytest.fixture(scope="module")
def shared_debian(debian: GuestFiles) -> Iterator[Shared]:
    """Debian for the tests of a module: booting it takes a while."""
    with Shared(debian) as shared:
        yield shared


@pytest.fixture(scope="module")
def shared_tiny(tiny: GuestFiles) -> Iterator[Shared]:
    """The tiny guest for the tests of a module."""
    with Shared(tiny) as shared:
        yield shared


@pytest.fixture
def running_debian(shared_debian: Shared, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """Debian at its prompt, where the test must leave it, or ended."""
    yield from _borrow(shared_debian, request)


@pytest.fixture
def running_tiny(shared_tiny: Shared, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The tiny guest at its prompt, where the test must leave it, or ended."""
    yield from _borrow(shared_tiny, request)


def _borrow(shared: Shared, request: pytest.FixtureRequest) -> Iterator[Guest]:
    failures = request.session.testsfailed
    yield shared.guest()
    if request.session.testsfailed > failures:
        shared.close()  # nobody knows where it stands
