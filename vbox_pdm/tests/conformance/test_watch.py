"""What is watched while a plugin is called."""

from __future__ import annotations

import gc

from vbox_pdm.testing.conformance.watch import Watch


def test_step_does_not_collect_garbage_within() -> None:
    watch = Watch()
    within = []

    with watch.step("looking"):
        within.append(gc.isenabled())

    assert within == [False]
    assert gc.isenabled()
