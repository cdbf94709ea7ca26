"""REM without a compiler."""

from __future__ import annotations

from ..engine import Rem
from .core import Core, load


class PortableRem(Rem, Core):
    """One vCPU, executed with thunks around Unicorn."""


__all__ = ["PortableRem", "load"]
