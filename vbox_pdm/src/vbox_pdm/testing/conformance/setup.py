"""What an author may tell the kit about a type, and how long a check takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import field, frozen


@frozen
class FarEnd:
    """Where the characters of a driver go, and where they come from, as far as the host can see it.

    `arrived` answers, by the configuration, all that is there now of what was sent down (None: nobody can
    tell); it is asked before an instance is made and when it is gone.  `sends` answers, by configuration and
    what was sent down, all that comes up in the end (None: nobody can tell)."""

    arrived: Callable[[Mapping[str, Any]], bytes | None] = lambda config: None
    sends: Callable[[Mapping[str, Any], bytes], bytes | None] = lambda config, sent: None


@frozen
class Setup:
    """What the kit cannot guess of a type; `vbox_conformance_setup` in its plugin returns it.

    `config` are the keys of the instances that are checked.  `keys` are values to try for keys whose
    schema says no range (a path, a name); of a key that is named here, these are the only ones.
    `configs` are further configurations that work, of several keys together; `refuses` are some that must
    be refused: a text that is none, keys given in part, a file of a size that cannot be.
    `files` is what `helpers.read_host_file` finds by name; other names find 64 KiB of 0xF4.
    `neighbours` makes what hangs below a LUN (below a driver: 0) instead of the kit's own.
    `companions` are devices that must be there first, as a name or (name, configuration).  `firmware`
    is what firmware writes to the configuration space of the first PCI function besides BARs and
    COMMAND, as (offset, size, value).  `prepare` are calls of the bench with their arguments: what a
    guest's driver does before anything interesting is possible, such as
    ("port_write", 0x3C4, 2, 0x0F02).

    `actions` are methods that front ends call on the object, with arguments to try; a PdmError is a
    good answer.  `invariants` are properties of the author's own, by a name that says what they mean:
    functions of the object and the bench, asked after each step, that answer None or what is wrong.
    `exercises` must work whatever happened before: functions of the same kind that drive the device by
    the bench as a guest's driver does, from its initialisation on, and answer what did not come out.
    The kit's neighbours work meanwhile: drives answer at once, with bytes that count up.
    `far_end` is the other end of a driver of characters: what it accepted must be there, or an error told;
    there is one such end, so that two runs are not compared.
    `live`: what it does depends on the host (a socket, a terminal), so that two runs are not compared.
    `ram` is in bytes, whole MiB.
    """

    config: Mapping[str, object] = field(factory=dict)
    keys: Mapping[str, Sequence[object]] = field(factory=dict)
    configs: Sequence[Mapping[str, object]] = ()
    refuses: Sequence[Mapping[str, object]] = ()
    files: Mapping[str, bytes] = field(factory=dict)
    neighbours: Mapping[int, Callable[[], Any]] = field(factory=dict)
    companions: Sequence[str | tuple[str, Mapping[str, object]]] = ()
    firmware: Sequence[tuple[int, int, int]] = ()
    prepare: Sequence[tuple[Any, ...]] = ()
    actions: Sequence[tuple[str, tuple[Any, ...]]] = ()
    invariants: Mapping[str, Callable[[Any, Any], str | None]] = field(factory=dict)
    exercises: Mapping[str, Callable[[Any, Any], str | None]] = field(factory=dict)
    far_end: FarEnd | None = None
    live: bool = False
    ram: int = 1 << 20


@frozen
class Profile:
    """How much is tried: for about `seconds`, in examples of `steps` steps; at most `shrink` seconds
    go into making a failure short.  `cpu`: seconds of CPU time, so that it is the same on a busy machine."""

    name: str
    seconds: float
    steps: int
    shrink: float
    cpu: bool = False


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", 10.0, 30, 10.0),
        Profile("thorough", 300.0, 60, 60.0),
        Profile("long", 3600.0, 100, 300.0),
    )
}
"""quick is for every run of a test suite, thorough for a release, long for a night."""

SLOWEST = 4
"""How many times as long as its CPU time a check may take."""

ACCESS_CPU = 1.0
"""Seconds of CPU time after which one access, timer step or notification is taken for endless."""
ACCESS_WALL = 10.0
"""The same in host time, for what sleeps or waits."""
