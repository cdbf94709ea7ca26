"""The doorbell on the bench: nothing but vbox-pdm[testing] is needed."""

from __future__ import annotations

from vbox_pdm.testing import Bench


def test_doorbell_rung_raises_the_line_until_read() -> None:
    with Bench() as bench:
        bench.add("doorbell", irq=7)

        bench.port_write(0x510, 1, 0x42)

        assert bench.irq(7)
        assert bench.port_read(0x510, 1) == 0x42
        assert not bench.irq(7)


def test_doorbell_rung_twice_counts() -> None:
    with Bench() as bench:
        bench.add("doorbell")

        bench.port_write(0x510, 1, 1)
        bench.port_write(0x510, 1, 2)

        assert bench.port_read(0x511, 1) == 2
