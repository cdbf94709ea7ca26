"""REM, the recompiled execution manager: guest code on Unicorn with code of our own beside it.

It comes twice: `rem` has a native module, `rem-portable` does the same without one and needs no compiler.

This module only announces the engines.  Unicorn and what goes with it are loaded when an engine is created or
asked whether it is usable.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vbox_pdm import hookimpl
from vbox_pdm.engine import CpuModel, Engine, EngineHost, EngineType

if TYPE_CHECKING:
    from collections.abc import Callable


def _create(name: str, host: EngineHost, cpu: CpuModel) -> Engine:
    from .probe import engine_class, fast_stores, usable

    if reason := usable(name):
        raise RuntimeError(reason)
    return engine_class(name).create(host, cpu, fast_stores(name))


def _usable(name: str) -> str | None:
    from .probe import usable

    return usable(name)


@hookimpl
def vbox_register_engines(register: Callable[[EngineType], None]) -> None:
    for name, summary, preference in (
        ("rem", "dynamic recompilation with Unicorn 2.1.4; needs no hardware support", 10),
        ("rem-portable", "the same without a native module, where there was no compiler; slower", 5),
    ):
        register(
            EngineType(
                name,
                create=partial(_create, name),
                usable=partial(_usable, name),
                summary=summary,
                preference=preference,
            )
        )
