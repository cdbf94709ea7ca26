"""Units of a saved state, as every host keeps them: one for what an instance says of itself, one for
what helpers made for it."""

from __future__ import annotations

from attrs import frozen

from vbox_pdm.device import DeviceType
from vbox_pdm.errors import PdmError, StateError
from vbox_pdm.instance import Instance
from vbox_pdm.pci import PciState
from vbox_pdm.state import State

HELPERS = ":helpers"
"""Behind the name of an instance's unit."""


@frozen
class TimerUnit(State, version=1):
    """A timer.  `expires` is None when it is not armed; on REAL it counts from the time of saving.
    `rank` is its place among the armed timers of the machine, for those that expire together."""

    name: str
    expires: int | None
    rank: int


@frozen
class HelpersUnit(State, version=1):
    """What helpers made for an instance, in order of creation.  `ram` is packed as the host packs it."""

    irqs: tuple[bool, ...]
    pci: tuple[PciState, ...]
    ram: tuple[bytes, ...]
    timers: tuple[TimerUnit, ...]


def has_helpers_unit(instance: Instance, timers: int) -> bool:
    """Every device has one; a driver, which another may replace, only when it has timers."""
    return isinstance(instance.type, DeviceType) or timers > 0


def state_of(instance: Instance) -> State | None:
    """What pdm_save answers.  Raises StateError when that is not what its annotation announces, and
    whatever pdm_save raises."""
    wanted = instance.state_class()
    state = instance.call("pdm_save") if wanted is not None else None
    if state is None:
        return None
    if wanted is None or not isinstance(state, wanted):
        raise StateError(
            "VERR_SSM_UNEXPECTED_DATA",
            f"pdm_save of {instance.title} returned a {type(state).__name__}, which is not what its "
            "annotation says",
        )
    return state


def give_state(instance: Instance, state: State) -> None:
    """Call pdm_load; what it raises becomes an error that names the instance."""
    try:
        instance.call("pdm_load", state=state)
    except PdmError as error:
        raise type(error)(error.status, f"{instance.title}: {error.message}", error.remedy) from error
    except Exception as error:
        raise StateError(
            "VERR_SSM_UNEXPECTED_DATA", f"{instance.title} cannot load its state: {error!r}"
        ) from error
