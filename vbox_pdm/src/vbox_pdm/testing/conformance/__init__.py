"""The conformance kit: whether a device or driver keeps the contract, found out without a guest.

    pytest --pdm-device doorbell                     # in the author's own repository
    pytest --pdm-file ./mydevice.py                  # a plugin that is a single file
    python -m vbox_pdm.testing.conformance doorbell  # without pytest; `vbox conformance` is the same

A state machine of hypothesis tries what guests, neighbours and the VM may do: accesses of every width
and alignment, configuration writes, resets, suspend and resume, save and load, clock steps, attach and
detach, tables in memory that point anywhere, neighbours that fail or take their time.  After each
step the properties of `violations.PROPERTIES` must hold.  What a device declares (register maps,
configuration keys, LUNs, its State) is what it is held to.

`check(type, PROFILES["quick"])` answers a `Report`.  What the kit cannot guess of a type is told by the
hook `vbox_conformance_setup`, which answers a `Setup`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vbox_pdm.testing.conformance.setup import PROFILES, FarEnd, Profile, Setup

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance.report import Report

__all__ = ["PROFILES", "FarEnd", "Profile", "Setup", "check"]


def check(kind: Any, profile: Profile = PROFILES["quick"], **more: Any) -> Report:
    """Check a DeviceType or DriverType; see `run.check`.  hypothesis is imported now, not before."""
    from vbox_pdm.testing.conformance.run import check as run

    return run(kind, profile, **more)
