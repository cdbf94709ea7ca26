"""REM with the native module."""

from __future__ import annotations

from . import _native
from .engine import Rem


class NativeRem(Rem, _native.Core):
    """One vCPU, executed with native code around Unicorn."""

    attends = True


load = _native.load
