from __future__ import annotations

from collections.abc import Iterator

import pytest
from rem_guest import Guest

from vbox_vmm.rem.probe import usable

if reason := usable():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()
