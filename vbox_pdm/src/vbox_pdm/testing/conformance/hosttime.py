"""While a type is checked, its plugin's modules find stand-ins for clocks and chance of the host.

A stand-in raises Violation "no-host-time".  Only names in the modules of the plugin are replaced, and put
back afterwards; a driver may look at the host's clock, since the host is what it is for.
"""

from __future__ import annotations

import datetime
import os
import random
import secrets
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vbox_pdm.testing.conformance.violations import Violation

_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "localtime", "gmtime", "ctime", "sleep")
_CHANCE = [name for name in dir(random) if callable(getattr(random, name)) and name[0].islower()]
_MODULES: dict[types.ModuleType, tuple[str, ...]] = {
    time: tuple(name + more for name in _CLOCKS for more in ("", "_ns") if hasattr(time, name + more)),
    random: ("SystemRandom", *_CHANCE),
    secrets: ("token_bytes", "token_hex", "randbelow", "randbits", "choice"),
    uuid: ("uuid1", "uuid4"),
    os: ("urandom", "getrandom", "times"),
}


@contextmanager
def forbidden(kind: type[Any]) -> Iterator[None]:
    """Stand-ins in all modules of the package of `kind`, until the end."""
    package = kind.__module__.partition(".")[0]
    if package in ("vbox_pdm", "builtins"):
        yield
        return
    replaced: list[tuple[types.ModuleType, str, Any]] = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != package or not isinstance(module, types.ModuleType):
            continue
        for attribute, value in list(vars(module).items()):
            stand_in = _stand_in(value)
            if stand_in is not None:
                replaced.append((module, attribute, value))
                setattr(module, attribute, stand_in)
    try:
        yield
    finally:
        for module, attribute, value in replaced:
            setattr(module, attribute, value)


def _stand_in(value: Any) -> Any:
    if isinstance(value, types.ModuleType):
        if value is datetime:
            return _module(datetime, {"datetime": _Datetime, "date": _Date})
        if value in _MODULES:
            return _module(value, {n: _refusing(f"{value.__name__}.{n}") for n in _MODULES[value]})
        return None
    if value is datetime.datetime:
        return _Datetime
    if value is datetime.date:
        return _Date
    for module, names in _MODULES.items():
        for name in names:
            if value is getattr(module, name, None) and callable(value):
                return _refusing(f"{module.__name__}.{name}")
    return None


def _module(module: types.ModuleType, changed: dict[str, Any]) -> types.ModuleType:
    made = types.ModuleType(module.__name__)
    made.__dict__.update(vars(module))
    made.__dict__.update(changed)
    return made


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Violation("no-host-time", f"{name} was called; helpers.now, utc_now and random are the way")

    return refuse


class _Date(datetime.date):
    today = _refusing("date.today")


class _Datetime(datetime.datetime):
    now = _refusing("datetime.now")
    utcnow = _refusing("datetime.utcnow")
    today = _refusing("datetime.today")
