"""The doorbell on the bench: nothing but vbox-pdm[testing] is needed."""

from __future__ import annotations

from vbox_pdm.testing import Bench


def test_doorbell_rung_raises_the_line_until_read(bench: Bench) -> None:
    bench.add("doorbell", irq=7)

    bench.port_write(0x510, 1, 0x42)

    assert bench.irq(7)
    assert bench.port_read(0x510) == 0x42
    assert not bench.irq(7)


def test_doorbell_rung_twice_counts(bench: Bench) -> None:
    bench.add("doorbell")

    bench.port_write(0x510, 1, 1)
    bench.port_write(0x510, 1, 2)

    assert bench.port_read(0x511) == 2


def test_doorbell_reset_forgets(bench: Bench) -> None:
    bench.add("doorbell", irq=7)
    bench.port_write(0x510, 1, 0x42)

    bench.reset()

    assert not bench.irq(7)
    assert bench.port_read(0x510, 2) == 0


def test_doorbell_state_of_a_ringing_one_is_taken_over_by_another() -> None:
    with Bench() as first, Bench() as second:
        for each in (first, second):
            each.add("doorbell", irq=7)
        first.port_write(0x510, 1, 0x42)

        second.load(first.save())

        assert second.irq(7)
        assert second.port_read(0x510, 2) == 0x0142
