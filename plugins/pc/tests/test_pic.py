"""The interrupt controllers: the datasheet's cases by name, and everything against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm.testing import Bench
from vbox_plugin_pc import pic

MASTER, SLAVE, ELCR = 0x20, 0xA0, 0x4D0


class Machine:
    """A bench with the pair, driven as a guest and as wires would."""

    def __init__(self, initialised: bool = True) -> None:
        self.bench = Bench(ram=1 << 20)
        self.bench.plugin(pic)
        self.pair = self.bench.add("i8259")
        self.bench.power_on()
        if initialised:
            self.initialise()

    def initialise(self, icw1: int = 0x11, icw4: int = 0x01) -> None:
        for port, base, icw3 in ((MASTER, 0x20, 0x04), (SLAVE, 0x28, 0x02)):
            self.out(port, icw1)
            for value in (base, icw3, icw4):
                self.out(port + 1, value)

    def out(self, port: int, value: int) -> None:
        self.bench.port_write(port, 1, value)

    def read(self, port: int) -> int:
        return self.bench.port_read(port, 1)

    def irr(self, port: int) -> int:
        self.out(port, 0x0A)
        return self.read(port)

    def isr(self, port: int) -> int:
        self.out(port, 0x0B)
        return self.read(port)

    def line(self, line: int, level: bool) -> None:
        self.pair.set_irq(line, level)

    def ack(self) -> int:
        return self.bench.acknowledge()

    @property
    def intr(self) -> bool:
        return self.bench.intr


class Quick(Machine):
    """The same without the bench's work around each access."""

    def out(self, port: int, value: int) -> None:
        if port >= ELCR:
            self.pair.write_elcr(port - ELCR, 1, value)
        else:
            (self.pair.slave if port >= SLAVE else self.pair.master).write(port & 1, 1, value)

    def read(self, port: int) -> int:
        if port >= ELCR:
            return self.pair.read_elcr(port - ELCR, 1)
        return (self.pair.slave if port >= SLAVE else self.pair.master).read(port & 1, 1)

    def ack(self) -> int:
        return self.pair.acknowledge()


@pytest.fixture
def m() -> Machine:
    return Machine()


def test_pic_edge_line_raises_intr_and_gives_its_vector(m: Machine) -> None:
    m.line(4, True)
    assert m.intr
    assert m.irr(MASTER) == 0x10
    assert m.ack() == 0x24
    assert not m.intr
    assert (m.irr(MASTER), m.isr(MASTER)) == (0, 0x10)


def test_pic_edge_line_held_high_after_eoi_interrupts_no_more(m: Machine) -> None:
    m.line(4, True)
    m.ack()
    m.out(MASTER, 0x20)
    assert not m.intr
    m.line(4, False)
    m.line(4, True)
    assert m.intr


def test_pic_level_line_held_high_after_eoi_interrupts_again(m: Machine) -> None:
    m.out(ELCR, 0x20)
    m.line(5, True)
    assert m.ack() == 0x25
    m.out(MASTER, 0x20)
    assert m.intr
    assert m.ack() == 0x25


def test_pic_edge_withdrawn_before_inta_gives_spurious_irq7_without_isr(m: Machine) -> None:
    m.line(3, True)
    m.line(3, False)
    assert not m.intr
    assert m.ack() == 0x27
    assert m.isr(MASTER) == 0


def test_pic_slave_request_withdrawn_gives_spurious_irq15_with_master_isr(m: Machine) -> None:
    m.line(10, True)
    m.line(10, False)
    assert m.intr  # the slave's INT stays until INTA
    assert m.ack() == 0x2F
    assert (m.isr(MASTER), m.isr(SLAVE)) == (0x04, 0)
    m.out(MASTER, 0x20)
    assert m.isr(MASTER) == 0


def test_pic_pulse_stays_pending_until_acknowledged(m: Machine) -> None:
    m.out(MASTER + 1, 0xFF)
    m.pair.pulse_irq(6)
    assert not m.intr
    m.out(MASTER + 1, 0)
    assert m.ack() == 0x26


def test_pic_pulse_of_a_high_line_is_nothing(m: Machine) -> None:
    m.line(6, True)
    m.ack()
    m.out(MASTER, 0x20)
    m.pair.pulse_irq(6)
    assert not m.intr


def test_pic_slave_line_sets_both_isrs_and_needs_both_eois(m: Machine) -> None:
    m.line(8, True)
    assert m.ack() == 0x28
    assert (m.isr(MASTER), m.isr(SLAVE)) == (0x04, 0x01)
    m.line(9, True)
    assert not m.intr  # IR2 is in service in the master as well
    m.out(SLAVE, 0x20)
    m.out(MASTER, 0x20)
    assert m.ack() == 0x29


def test_pic_slave_line_interrupts_again_although_it_rose_while_in_service(m: Machine) -> None:
    m.line(12, True)
    m.ack()
    m.line(8, True)
    m.out(MASTER, 0x20)  # the master's part is over: the higher slave level may come
    assert m.ack() == 0x28


def test_pic_fully_nested_master_hears_higher_slave_level(m: Machine) -> None:
    m.initialise(icw4=0x11)
    m.line(12, True)
    m.ack()
    m.line(8, True)
    assert m.intr
    assert m.ack() == 0x28
    m.line(3, True)
    assert not m.intr  # lower than IR2, which is in service


def test_pic_higher_line_nests_and_lower_waits(m: Machine) -> None:
    m.line(4, True)
    m.ack()
    m.line(6, True)
    assert not m.intr
    m.line(1, True)
    assert m.ack() == 0x21
    m.out(MASTER, 0x20)
    assert m.isr(MASTER) == 0x10
    m.out(MASTER, 0x20)
    assert m.ack() == 0x26


def test_pic_special_mask_mode_lets_lower_levels_through(m: Machine) -> None:
    m.line(3, True)
    m.ack()
    m.line(6, True)
    m.out(MASTER + 1, 0x08)
    assert not m.intr
    m.out(MASTER, 0x68)
    assert m.intr
    m.out(MASTER, 0x20)  # passes the masked level over
    assert m.isr(MASTER) == 0x08
    m.out(MASTER, 0x63)
    assert m.isr(MASTER) == 0


def test_pic_specific_eoi_with_rotation_makes_that_level_lowest(m: Machine) -> None:
    m.out(MASTER, 0xC3)  # IR3 is lowest, IR4 highest
    m.line(0, True)
    m.line(4, True)
    assert m.ack() == 0x24
    m.out(MASTER, 0xE4)  # IR4 lowest
    m.line(4, False)
    m.line(4, True)
    assert m.ack() == 0x20


def test_pic_rotate_on_non_specific_eoi_makes_the_served_level_lowest(m: Machine) -> None:
    m.line(0, True)
    m.ack()
    m.out(MASTER, 0xA0)
    for line in (0, 1):
        m.line(line, False)
        m.line(line, True)
    assert m.ack() == 0x21


def test_pic_automatic_eoi_leaves_no_isr_and_rotates_when_told(m: Machine) -> None:
    m.initialise(icw4=0x03)
    m.out(MASTER, 0x80)
    m.line(0, True)
    assert m.ack() == 0x20
    assert m.isr(MASTER) == 0
    m.line(0, False)
    m.line(0, True)
    m.line(5, True)
    assert m.ack() == 0x25
    m.out(MASTER, 0x00)
    assert m.ack() == 0x20


def test_pic_poll_acknowledges_and_names_the_level(m: Machine) -> None:
    m.out(MASTER, 0x0C)
    assert m.read(MASTER) & 0x80 == 0
    m.line(5, True)
    m.out(MASTER, 0x0C)
    assert m.read(MASTER) == 0x85
    assert not m.intr
    assert m.isr(MASTER) == 0x20


def test_pic_icw1_clears_mask_edges_priority_and_modes(m: Machine) -> None:
    m.out(MASTER + 1, 0xFE)
    m.out(MASTER, 0xC2)
    m.out(MASTER, 0x68)
    m.out(MASTER, 0x0B)
    m.line(3, True)
    m.initialise()
    assert m.read(MASTER + 1) == 0
    assert m.read(MASTER) == 0  # IRR is selected, the edge forgotten
    assert not m.intr
    m.line(4, True)
    m.line(0, True)
    assert m.ack() == 0x20  # IR0 is highest again


def test_pic_before_and_during_initialisation_is_silent() -> None:
    m = Machine(initialised=False)
    m.line(1, True)
    assert not m.intr
    m.initialise()
    m.line(1, False)
    m.line(1, True)
    assert m.intr
    m.out(MASTER, 0x11)
    assert not m.intr


def test_pic_single_mode_skips_icw3(m: Machine) -> None:
    m.out(MASTER, 0x13)
    m.out(MASTER + 1, 0x40)
    m.out(MASTER + 1, 0x01)
    m.out(MASTER + 1, 0xFB)  # OCW1
    m.line(10, True)
    assert m.read(MASTER + 1) == 0xFB
    assert m.ack() == 0x42  # its own vector: it knows of no slave


def test_pic_ltim_makes_all_inputs_level(m: Machine) -> None:
    m.initialise(icw1=0x19)
    m.line(0, True)
    m.ack()
    m.out(MASTER, 0x20)
    assert m.intr
    m.initialise(icw1=0x11)
    assert not m.intr


def test_pic_mcs80_mode_gives_the_low_byte_of_the_call(m: Machine) -> None:
    m.out(MASTER, 0xB4)  # A7..A5 = 101, interval 4, no ICW4
    m.out(MASTER + 1, 0x12)
    m.out(MASTER + 1, 0x04)
    m.line(3, True)
    assert m.ack() == 0xA0 | 3 << 2


@pytest.mark.parametrize(("offset", "writable"), [(0, 0xF8), (1, 0xDE)])
def test_pic_elcr_keeps_the_fixed_lines_edge_triggered(m: Machine, offset: int, writable: int) -> None:
    m.out(ELCR + offset, 0xFF)
    assert m.read(ELCR + offset) == writable


def test_pic_line_2_cannot_be_driven(m: Machine) -> None:
    m.line(2, True)
    assert not m.intr
    m.line(2, False)


def test_pic_reset_forgets_everything_and_lowers_intr(m: Machine) -> None:
    m.out(ELCR, 0xF8)
    m.line(4, True)
    m.bench.reset()
    assert not m.intr
    assert m.read(ELCR) == 0
    assert m.read(MASTER + 1) == 0


# --- the plain model: lists of bools and a walk over the levels, nothing precomputed


class PlainChip:
    def __init__(self) -> None:
        self.pin = [False] * 8
        self.elcr = [False] * 8
        self.icw1 = self.icw2 = self.icw3 = self.icw4 = 0
        self.wait: list[str] = []
        self.working = False
        self.clear()

    def clear(self) -> None:
        self.edge = [False] * 8
        self.served = [False] * 8
        self.masked = [False] * 8
        self.top = 0
        self.smm = self.auto_rotate = self.want_isr = self.polling = False

    def asking(self, n: int) -> bool:
        level = self.elcr[n] or bool(self.icw1 & 8)
        return self.edge[n] or (self.pin[n] and level)

    def walk(self) -> list[int]:
        return [(self.top + i) % 8 for i in range(8)]

    def best(self) -> int | None:
        if not self.working:
            return None
        for n in self.walk():
            counts = self.served[n] and not (self.smm and self.masked[n])
            again = self.icw4 & 0x10 and self.icw3 >> n & 1
            if counts and not again:
                return None
            if self.asking(n) and not self.masked[n]:
                return n
            if counts:
                return None
        return None

    def take(self) -> int | None:
        n = self.best()
        if n is None:
            return None
        self.edge[n] = False
        if self.icw4 & 2:
            if self.auto_rotate:
                self.top = (n + 1) % 8
        else:
            self.served[n] = True
        return n

    def vector(self, n: int) -> int:
        if self.icw4 & 1:
            return self.icw2 // 8 * 8 + n
        if self.icw1 & 4:
            return self.icw1 // 32 * 32 + 4 * n
        return self.icw1 // 64 * 64 + 8 * n

    def command(self, value: int) -> None:
        if value & 0x10:
            self.clear()
            self.icw1, self.icw4 = value, 0
            self.working = False
            self.wait = ["icw2"] + ([] if value & 2 else ["icw3"]) + (["icw4"] if value & 1 else [])
        elif value & 8:
            if value & 0x40:
                self.smm = bool(value & 0x20)
            self.polling = bool(value & 4)
            if not self.polling and value & 2:
                self.want_isr = bool(value & 1)
        else:
            rotate, specific, eoi = (bool(value & bit) for bit in (0x80, 0x40, 0x20))
            n: int | None = value & 7
            if not specific:
                in_order = [i for i in self.walk() if self.served[i] and not (self.smm and self.masked[i])]
                n = in_order[0] if in_order else None
            if eoi and n is not None:
                self.served[n] = False
            if rotate and n is not None and (eoi or specific):
                self.top = (n + 1) % 8
            if not eoi and not specific:
                self.auto_rotate = rotate

    def data(self, value: int) -> None:
        if self.wait:
            setattr(self, self.wait.pop(0), value)
            self.working = not self.wait
        else:
            self.masked = [bool(value >> n & 1) for n in range(8)]

    def read(self, data: bool) -> int:
        if self.polling:
            self.polling = False
            n = self.take()
            return 7 if n is None else 0x80 + n
        bits = self.masked if data else self.served if self.want_isr else [self.asking(n) for n in range(8)]
        return sum(1 << n for n in range(8) if bits[n])


class PlainPair:
    def __init__(self) -> None:
        self.chips = [PlainChip(), PlainChip()]
        self.slave_int = False

    def settle(self) -> bool:
        master, slave = self.chips
        level = slave.best() is not None
        if level and not self.slave_int:
            master.edge[2] = True
        if self.slave_int and not level and not slave.working:
            master.edge[2] = False
        self.slave_int = master.pin[2] = level
        return master.best() is not None

    def line(self, line: int, level: bool) -> None:
        if line == 2:
            return
        chip, n = self.chips[line // 8], line % 8
        if level and not chip.pin[n]:
            chip.edge[n] = True
        if not level and chip.pin[n]:
            chip.edge[n] = False
        chip.pin[n] = level
        self.settle()

    def pulse(self, line: int) -> None:
        chip, n = self.chips[line // 8], line % 8
        if line != 2 and not chip.pin[n] and not chip.elcr[n] and not chip.icw1 & 8:
            chip.edge[n] = True
        self.settle()

    def ack(self) -> int:
        self.settle()
        master, slave = self.chips
        n = master.take()
        if n is None:
            return master.vector(7)
        if n != 2 or not master.icw3 & 4 or master.icw1 & 2:
            self.settle()
            return master.vector(n)
        if slave.icw3 % 8 != 2:
            self.settle()
            return 0xFF
        inner = slave.take()
        self.slave_int = master.pin[2] = False
        self.settle()
        return slave.vector(7 if inner is None else inner)

    def write(self, port: int, value: int) -> None:
        if port >= ELCR:
            fixed = (0, 1, 2) if port == ELCR else (0, 5)
            self.chips[port - ELCR].elcr = [bool(value >> n & 1) and n not in fixed for n in range(8)]
        else:
            chip = self.chips[port >= SLAVE]
            (chip.data if port & 1 else chip.command)(value)
        self.settle()

    def read(self, port: int) -> int:
        if port >= ELCR:
            return sum(1 << n for n in range(8) if self.chips[port - ELCR].elcr[n])
        value = self.chips[port >= SLAVE].read(bool(port & 1))
        self.settle()
        return value


COMMANDS, DATA = st.sampled_from([MASTER, SLAVE]), st.sampled_from([MASTER + 1, SLAVE + 1])
NOTHING = st.none()
STEPS = st.one_of(
    st.tuples(st.just("line"), st.integers(0, 15), st.booleans()),
    st.tuples(st.just("line"), st.integers(8, 15), st.just(True)),
    st.tuples(st.just("line"), st.integers(0, 15), st.booleans()),
    st.tuples(st.just("pulse"), st.integers(0, 15), NOTHING),
    st.tuples(st.just("ack"), NOTHING, NOTHING),
    st.tuples(st.just("ack"), NOTHING, NOTHING),
    st.tuples(st.just("write"), COMMANDS, st.integers(0, 7).map(lambda n: n << 5)),
    st.tuples(st.just("write"), COMMANDS, st.integers(0, 255).map(lambda n: n & 0xE7)),
    st.tuples(st.just("write"), COMMANDS, st.sampled_from([0x68, 0x48, 0x0C, 0x0B, 0x0A])),
    st.tuples(st.just("write"), DATA, st.integers(0, 255)),
    st.tuples(st.just("write"), DATA, st.sampled_from([0, 1, 0x80, 0x04])),
    st.tuples(st.just("write"), COMMANDS, st.integers(0, 255)),
    st.tuples(st.just("write"), st.sampled_from([ELCR, ELCR + 1]), st.integers(0, 255)),
    st.tuples(
        st.just("init"),
        st.sampled_from([0x11, 0x19, 0x13, 0x10, 0x15]),
        st.sampled_from([1, 3, 0x11, 0x13, 0]),
    ),
    st.tuples(st.just("read"), st.one_of(COMMANDS, DATA), NOTHING),
)


@given(st.lists(STEPS, max_size=50), st.sampled_from([1, 3, 0x11]), st.integers(0, 50))
@settings(max_examples=600, deadline=None)
def test_pic_any_history_behaves_as_the_plain_model(steps: list, icw4: int, save_at: int) -> None:
    machine, plain = Quick(initialised=False), PlainPair()

    def init(icw1: int, icw4: int) -> None:
        machine.initialise(icw1, icw4)
        for port, base, icw3 in ((MASTER, 0x20, 0x04), (SLAVE, 0x28, 0x02)):
            plain.write(port, icw1)
            for value in (base, icw3, icw4):
                plain.write(port + 1, value)

    init(0x11, icw4)
    for at, (kind, a, b) in enumerate(steps):
        if at == save_at:
            saved = machine.bench.save()
            machine = Quick(initialised=False)
            machine.bench.load(saved)
        if kind == "line":
            machine.line(a, b)
            plain.line(a, b)
        elif kind == "pulse":
            machine.pair.pulse_irq(a)
            plain.pulse(a)
        elif kind == "ack":
            assert machine.ack() == plain.ack()
        elif kind == "write":
            machine.out(a, b)
            plain.write(a, b)
        elif kind == "init":
            init(a, b)
        else:
            assert machine.read(a) == plain.read(a)
        assert machine.intr == plain.settle()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1]),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 0xFFFFFFFF),
        ),
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_pic_nonsense_of_any_width_never_raises(accesses: list) -> None:
    machine = Machine(initialised=False)  # the bench is strict: a handler that raises fails the test
    for port, size, value in accesses:
        machine.bench.port_write(port, size, value)
        assert 0 <= machine.bench.port_read(port, size) < 1 << 8 * size
        assert 0 <= machine.ack() <= 0xFF
