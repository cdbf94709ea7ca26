"""REM, the recompiled execution manager: guest code on Unicorn with a native module beside it.

This module only announces the engine.  Unicorn and the native module are loaded when an engine is
created or asked whether it is usable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vbox_pdm import hookimpl
from vbox_pdm.engine import CpuModel, Engine, EngineHost, EngineType

if TYPE_CHECKING:
    from collections.abc import Callable


def _create(host: EngineHost, cpu: CpuModel) -> Engine:
    if reason := _usable():
        raise RuntimeError(reason)
    from .engine import Rem
    from .probe import fast_stores

    return Rem.create(host, cpu, fast_stores())


def _usable() -> str | None:
    from .probe import usable

    return usable()


@hookimpl
def vbox_register_engines(register: Callable[[EngineType], None]) -> None:
    register(
        EngineType(
            "rem",
            create=_create,
            usable=_usable,
            summary="dynamic recompilation with Unicorn 2.1.4; needs no hardware support",
            preference=10,
        )
    )
