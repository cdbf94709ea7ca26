"""Making a failure short: fewer moves, then smaller numbers, as long as the same property breaks."""

from __future__ import annotations

import time
from collections.abc import Mapping

from vbox_pdm.testing.conformance.rig import Subject
from vbox_pdm.testing.conformance.session import Move, replay, simpler
from vbox_pdm.testing.conformance.violations import Hang, Violation


def shrink(subject: Subject, error: Violation | Hang, seconds: float) -> Violation | Hang:
    """The shortest failure of the same property that was found within `seconds`."""
    config, repeat = error.replay
    end = time.monotonic() + seconds
    best = error
    trial = replay(subject, config, best.moves, repeat=repeat)
    if trial is None or trial.prop != error.prop:
        error.text += " (not every time: the same steps passed as well)"
        return error
    best = _fewer(subject, config, trial, repeat=repeat, end=end)
    best = _smaller(subject, config, best, repeat=repeat, end=end)
    return _fewer(subject, config, best, repeat=repeat, end=end)


def _try(
    subject: Subject, config: Mapping[str, object], moves: list[Move], best: Violation | Hang, repeat: bool
) -> Violation | Hang | None:
    found = replay(subject, config, moves, repeat=repeat)
    return found if found is not None and found.prop == best.prop else None


def _fewer(
    subject: Subject, config: Mapping[str, object], best: Violation | Hang, *, repeat: bool, end: float
) -> Violation | Hang:
    """Leave out chunks of halving size, from the end backwards."""
    size = max(1, len(best.moves) // 2)
    while size:
        at = len(best.moves) - size
        while at >= 0 and time.monotonic() < end:
            moves = best.moves[:at] + best.moves[at + size :]
            found = _try(subject, config, moves, best, repeat)
            if found is not None and len(found.moves) < len(best.moves):
                best = found
                at = min(at, len(best.moves)) - size
            else:
                at -= max(1, size // 2)
        size //= 2
    return best


def _smaller(
    subject: Subject, config: Mapping[str, object], best: Violation | Hang, *, repeat: bool, end: float
) -> Violation | Hang:
    at = 0
    while at < len(best.moves):
        smaller = None
        for move in simpler(best.moves[at]):
            if time.monotonic() > end:
                return best
            smaller = _try(subject, config, [*best.moves[:at], move, *best.moves[at + 1 :]], best, repeat)
            if smaller is not None:
                break
        if smaller is None:
            at += 1
        else:
            best = smaller
    return best
