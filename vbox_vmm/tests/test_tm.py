"""TM on a fake host clock: clocks, timers, catch-up, warp, saved state (vmm.md section 9)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vbox_pdm import Clock, ConfigError, PdmError, StateError
from vbox_pdm.state import decode, encode
from vbox_vmm.cfgm import Node
from vbox_vmm.instruction_clock import InstructionClock
from vbox_vmm.tm import NEVER, NO_LIMIT, PUT_OFF, TimeManager, Timer, TimerState, TmState
from vbox_vmm.tm_config import CATCH_UP_PERIODS, CatchUpPeriod, Mode, Source, TmConfig, read_config
from vbox_vmm.tm_timer import FAR

US, MS, SECOND = 1_000, 1_000_000, 1_000_000_000
STRICT = TmConfig(slack=0)


class Host:
    """A host clock that moves when told."""

    def __init__(self, now: int = 1_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def make(config: TmConfig | None = None, running: bool = True) -> tuple[Host, TimeManager]:
    host = Host()
    tm = TimeManager(config, host_clock=host, utc_clock=lambda: 5_000 * SECOND + host.now)
    if running:
        tm.resume()
    return host, tm


def nothing() -> None:
    pass


def _raise(error: Exception) -> None:
    raise error


def at_clock(tm: TimeManager, clock: Clock) -> tuple[Timer, list[int]]:
    """A timer that notes the time of its clock when it runs."""
    seen: list[int] = []
    return tm.create("probe", clock, lambda: seen.append(tm.now(clock)), "test"), seen


# Clocks


def test_now_paused_only_real_advances() -> None:
    host, tm = make(running=False)
    host.now += SECOND
    assert [tm.now(clock) for clock in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.TSC)] == [0, 0, 0]
    assert tm.now(Clock.REAL) == host.now


def test_now_running_all_follow_the_host() -> None:
    host, tm = make(TmConfig(tsc_hz=3_000_000_000))
    host.now += 7
    assert [tm.now(clock) for clock in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.TSC)] == [7, 7, 21]
    assert tm.frequency(Clock.TSC) == 3_000_000_000


@pytest.mark.parametrize("warp", [100, 250])
def test_reader_running_held_and_paused_gives_what_now_gives(warp: int) -> None:
    host, tm = make(TmConfig(warp_percentage=warp, slack=0))
    clocks = (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.REAL)
    readers = {clock: tm.reader(clock) for clock in clocks}
    slow = {clock: tm.reader(clock, 32_768) for clock in clocks}

    def agree() -> bool:
        now = {clock: tm.now(clock) for clock in clocks}
        return all(readers[c]() == t and slow[c]() == t * 32_768 // SECOND for c, t in now.items())

    tm.create("held", Clock.VIRTUAL_SYNC, nothing).set(3 * SECOND)
    host.now += 2 * SECOND
    assert agree()
    host.now += 2 * SECOND
    assert readers[Clock.VIRTUAL_SYNC]() == 3 * SECOND
    assert agree()
    tm.run_due()
    assert tm.catch_up_rate
    host.now += 50 * MS
    assert agree()
    tm.pause()
    host.now += SECOND
    assert agree()


def test_timer_later_than_far_never_fires_and_time_does_not_jump_there() -> None:
    _, tm = make(TmConfig(mode=Mode.WARP))
    tm.create("never", Clock.VIRTUAL_SYNC, nothing).set(1 << 70)
    tm.create("nor this", Clock.VIRTUAL, nothing).set(1 << 65)

    assert tm.halted_until_next() == NEVER
    assert tm.now(Clock.VIRTUAL_SYNC) == 0
    assert tm.run_due() == 0
    assert tm.until_next() == FAR


def test_pause_and_resume_time_between_does_not_count() -> None:
    host, tm = make()
    host.now += 10
    tm.pause()
    host.now += 1000
    tm.resume()
    host.now += 5
    assert tm.now(Clock.VIRTUAL) == tm.now(Clock.VIRTUAL_SYNC) == 15


def test_pause_twice_and_resume_twice_raise() -> None:
    _, tm = make()
    with pytest.raises(PdmError, match="VERR_TM_TSC_ALREADY_TICKING"):
        tm.resume()
    tm.pause()
    with pytest.raises(PdmError, match="VERR_TM_TSC_ALREADY_PAUSED"):
        tm.pause()


def test_warp_percentage_scales_virtual_time_and_tsc() -> None:
    host, tm = make(TmConfig(warp_percentage=200))
    host.now += 100
    assert tm.now(Clock.VIRTUAL) == 200
    tm.set_warp_percentage(50)
    host.now += 100
    assert tm.now(Clock.VIRTUAL_SYNC) == 250
    _ticks, _time, hz, _limit = tm.tsc_mapping()
    assert hz == tm.frequency(Clock.TSC) // 2
    with pytest.raises(ConfigError):
        tm.set_warp_percentage(1)


def test_utc_lagging_is_host_utc_plus_offset_minus_lag() -> None:
    host, tm = make(TmConfig(utc_offset=-3 * SECOND, slack=0))
    tm.create("a", Clock.VIRTUAL_SYNC, nothing).set(0)
    host.now += 10 * MS
    assert tm.lag == 10 * MS
    assert tm.utc_now_ns() == 5_000 * SECOND + host.now - 3 * SECOND - 10 * MS


# Timers


def test_run_due_not_yet_due_runs_nothing() -> None:
    host, tm = make()
    timer, seen = at_clock(tm, Clock.VIRTUAL)
    timer.set(100)
    host.now += 99
    assert tm.run_due() == 0
    host.now += 1
    assert tm.run_due() == 1
    assert seen == [100]
    assert (timer.active, timer.expires) == (False, None)


def test_run_due_equal_expiry_runs_in_the_order_of_arming() -> None:
    host, tm = make()
    order: list[int] = []
    timers = [
        tm.create(str(number), Clock.VIRTUAL_SYNC, partial(order.append, number)) for number in range(5)
    ]
    for number in (3, 1, 4, 0, 2):
        timers[number].set(50)
    timers[3].set(50)  # armed again: last
    host.now += 50
    tm.run_due()
    assert order == [1, 4, 0, 2, 3]


def test_run_due_late_sync_timers_each_see_their_own_expiry() -> None:
    host, tm = make()
    first, seen_first = at_clock(tm, Clock.VIRTUAL_SYNC)
    second, seen_second = at_clock(tm, Clock.VIRTUAL_SYNC)
    first.set(10 * US)
    second.set(40 * US)
    host.now += MS
    assert tm.run_due() == 2
    assert (seen_first, seen_second) == ([10 * US], [40 * US])


def test_run_due_sync_timers_further_apart_than_slack_run_one_by_one() -> None:
    host, tm = make()
    timers = [at_clock(tm, Clock.VIRTUAL_SYNC) for _ in range(2)]
    timers[0][0].set(1 * MS)
    timers[1][0].set(2 * MS)
    host.now += 5 * MS
    assert tm.run_due() == 1
    assert tm.now(Clock.VIRTUAL_SYNC) == MS + 100 * US
    assert timers[1][1] == []
    # Guest time now runs towards the second one, a little faster.
    assert host.now < tm.next_deadline_host_ns() < host.now + 900 * US


def test_virtual_sync_with_a_due_timer_stands_still() -> None:
    host, tm = make()
    tm.create("a", Clock.VIRTUAL_SYNC, nothing).set(100)
    host.now += 5000
    assert (tm.now(Clock.VIRTUAL), tm.now(Clock.VIRTUAL_SYNC), tm.now(Clock.TSC)) == (5000, 100, 100)


def test_virtual_sync_timer_in_the_past_does_not_turn_time_back() -> None:
    host, tm = make()
    host.now += 500
    timer, seen = at_clock(tm, Clock.VIRTUAL_SYNC)
    timer.set(100)
    assert tm.now(Clock.VIRTUAL_SYNC) == 500
    tm.run_due()
    assert seen == [500]


def test_stop_the_timer_that_holds_the_clock_lets_it_go_on_from_there() -> None:
    host, tm = make()
    timer = tm.create("a", Clock.VIRTUAL_SYNC, nothing)
    timer.set(100)
    host.now += 1000
    timer.stop()
    assert tm.now(Clock.VIRTUAL_SYNC) == 100
    host.now += 10
    assert tm.now(Clock.VIRTUAL_SYNC) == 110
    assert tm.next_deadline_host_ns() == NEVER


def test_rearm_in_callback_makes_a_periodic_timer() -> None:
    host, tm = make()
    seen: list[int] = []

    def tick() -> None:
        seen.append(tm.now(Clock.VIRTUAL_SYNC))
        timer.set_relative(MS)

    timer = tm.create("tick", Clock.VIRTUAL_SYNC, tick)
    timer.set(MS)
    for _ in range(5):
        host.now = tm.next_deadline_host_ns()
        tm.run_due()
    assert seen == [MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS]


@pytest.mark.parametrize("clock", list(Clock))
@pytest.mark.parametrize("delay", [0, 1, -5])
def test_run_due_zero_period_timer_is_put_off_and_time_goes_on(clock: Clock, delay: int) -> None:
    host, tm = make()
    runs = 0

    def again() -> None:
        nonlocal runs
        runs += 1
        timer.set_relative(delay)

    timer = tm.create("again", clock, again)
    innocent, seen = at_clock(tm, Clock.VIRTUAL_SYNC)
    timer.set_relative(0)
    innocent.set(MS)
    start, rounds = host.now, 0
    while host.now < start + 2 * MS:
        rounds += 1
        host.now = max(tm.next_deadline_host_ns(), host.now + US)
        tm.run_due()
    assert runs <= 40 * rounds
    assert seen == [MS]
    assert rounds < 2 * MS // PUT_OFF * 30
    assert tm.lag < MS


def test_run_due_from_a_callback_is_refused() -> None:
    _, tm = make()
    caught: list[PdmError] = []

    def nested() -> None:
        try:
            tm.run_due()
        except PdmError as error:
            caught.append(error)

    tm.create("a", Clock.REAL, nested).set(0)
    tm.run_due()
    assert [error.status for error in caught] == ["VERR_TM_INVALID_STATE"]


def test_run_due_failing_callback_is_reported_and_the_rest_runs() -> None:
    _, tm = make()
    failed: list[tuple[str, str]] = []
    tm.on_timer_failure = lambda timer, error: failed.append((timer.name, str(error)))
    tm.create("bad", Clock.VIRTUAL, partial(_raise, ValueError("broken"))).set(0)
    good, seen = at_clock(tm, Clock.VIRTUAL)
    good.set(0)
    assert tm.run_due() == 2
    assert len(seen) == 1
    assert failed == [("bad", "broken")]


def test_run_due_paused_runs_only_real_timers() -> None:
    host, tm = make()
    real, seen_real = at_clock(tm, Clock.REAL)
    virtual, seen_virtual = at_clock(tm, Clock.VIRTUAL)
    real.set_relative(10)
    virtual.set_relative(10)
    tm.pause()
    host.now += 100
    assert tm.run_due() == 1
    assert (len(seen_real), len(seen_virtual)) == (1, 0)
    assert tm.next_deadline_host_ns() == NEVER


def test_run_due_pause_in_a_callback_leaves_the_other_virtual_timers() -> None:
    host, tm = make()
    tm.create("pause", Clock.VIRTUAL, tm.pause).set(10)
    other, seen = at_clock(tm, Clock.VIRTUAL)
    other.set(10)
    host.now += 20
    assert tm.run_due() == 1
    assert (seen, other.active) == ([], True)


def test_tsc_timer_expires_at_its_tick() -> None:
    host, tm = make(TmConfig(tsc_hz=3_000_000_001))
    timer, seen = at_clock(tm, Clock.TSC)
    timer.set(1_000_001)
    host.now = tm.next_deadline_host_ns() - 1
    assert tm.run_due() == 0
    host.now += 1
    assert tm.run_due() == 1
    assert 1_000_001 <= seen[0] < 1_000_005


def test_destroy_armed_timer_is_forgotten() -> None:
    host, tm = make()
    timer, seen = at_clock(tm, Clock.VIRTUAL)
    timer.set(1)
    timer.destroy()
    timer.destroy()
    host.now += 10
    tm.run_due()
    assert seen == []
    assert tm.timers == ()


def test_create_too_many_timers_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbox_vmm.tm.MAX_TIMERS", 1)
    _, tm = make()
    tm.create("a", Clock.REAL, nothing)
    with pytest.raises(PdmError, match="VERR_TM_TOO_MANY_TIMERS"):
        tm.create("b", Clock.REAL, nothing)


def test_rearming_forever_keeps_the_heap_small() -> None:
    _, tm = make()
    timer = tm.create("a", Clock.VIRTUAL_SYNC, nothing)
    tm.create("first", Clock.VIRTUAL_SYNC, nothing).set(1)
    for number in range(10_000):
        timer.set(number + SECOND)
    assert len(timer.queue.heap) < 100


# Deadlines, warp mode, the engine's TSC


def test_next_deadline_is_the_earliest_of_all_clocks() -> None:
    host, tm = make()
    assert tm.next_deadline_host_ns() == NEVER
    tm.create("v", Clock.VIRTUAL, nothing).set(300)
    assert tm.next_deadline_host_ns() == host.now + 300
    tm.create("r", Clock.REAL, nothing).set(host.now + 200)
    assert tm.next_deadline_host_ns() == host.now + 200
    tm.create("s", Clock.VIRTUAL_SYNC, nothing).set(100)
    assert tm.next_deadline_host_ns() == host.now + 100


def test_on_deadline_change_only_earlier_ones_are_announced() -> None:
    host, tm = make()
    heard: list[int] = []
    tm.on_deadline_change = heard.append
    first = tm.create("a", Clock.VIRTUAL_SYNC, nothing)
    second = tm.create("b", Clock.REAL, nothing)
    first.set(1000)
    second.set_relative(2000)
    first.set(500)
    first.set(800)
    first.stop()
    assert heard == [host.now + 1000, host.now + 500]
    tm.next_deadline_host_ns()
    first.set(1999)
    assert heard[2:] == [host.now + 1999]


def test_halted_until_next_warp_mode_jumps_to_the_timer() -> None:
    host, tm = make(TmConfig(mode=Mode.WARP))
    sync, seen = at_clock(tm, Clock.VIRTUAL_SYNC)
    sync.set(10 * SECOND)
    utc = tm.utc_now_ns()
    assert tm.halted_until_next() == host.now
    assert tm.run_due() == 1
    assert seen == [10 * SECOND]
    assert tm.utc_now_ns() == utc + 10 * SECOND
    assert tm.halted_until_next() == NEVER


def test_halted_until_next_realtime_sleeps() -> None:
    host, tm = make()
    tm.create("a", Clock.VIRTUAL_SYNC, nothing).set(SECOND)
    assert tm.halted_until_next() == host.now + SECOND
    assert tm.now(Clock.VIRTUAL) == 0


def test_tsc_mapping_follows_timers_and_pauses() -> None:
    host, tm = make()
    host.now += 100
    assert tm.tsc_mapping() == (100, host.now, SECOND, NO_LIMIT)
    version = tm.tsc_version
    assert tm.run_due() == 0
    assert tm.tsc_version == version
    tm.create("a", Clock.VIRTUAL_SYNC, nothing).set(500)
    assert tm.tsc_version != version
    assert tm.tsc_mapping() == (100, host.now, SECOND, 500)
    tm.pause()
    assert tm.tsc_mapping() == (100, host.now, 0, NO_LIMIT)


# Catch-up


def lagging(lag: int, config: TmConfig = STRICT) -> tuple[Host, TimeManager]:
    """A TM whose VIRTUAL_SYNC has just fallen behind by `lag`."""
    host, tm = make(config)
    tm.create("late", Clock.VIRTUAL_SYNC, nothing).set(0)
    host.now += lag
    tm.run_due()
    return host, tm


@pytest.mark.parametrize("period", CATCH_UP_PERIODS)
def test_catch_up_rate_at_each_threshold_is_that_of_the_table(period: CatchUpPeriod) -> None:
    index = CATCH_UP_PERIODS.index(period)
    below = CATCH_UP_PERIODS[index - 1].percentage if index else 0
    assert lagging(period.start)[1].catch_up_rate == period.percentage
    assert lagging(period.start - 1)[1].catch_up_rate == below


def test_catch_up_ends_at_the_stop_threshold() -> None:
    host, tm = lagging(10 * MS)
    assert tm.catch_up_rate == 25
    end = tm.next_deadline_host_ns()
    assert end == host.now + 38 * MS  # 9.5 ms at 25 %
    host.now = end + 5 * MS
    assert tm.lag == 500 * US
    tm.run_due()
    assert (tm.lag, tm.catch_up_rate, tm.next_deadline_host_ns()) == (500 * US, 0, NEVER)


def test_catch_up_more_lag_only_raises_the_rate() -> None:
    host, tm = lagging(10 * MS)
    timer = tm.create("next", Clock.VIRTUAL_SYNC, nothing)
    host.now += 20 * MS  # down to 5 ms
    timer.set_relative(0)
    tm.run_due()
    assert (tm.lag, tm.catch_up_rate) == (5 * MS, 25)
    timer.set_relative(0)
    host.now += 30 * MS
    tm.run_due()
    assert (tm.lag, tm.catch_up_rate) == (35 * MS, 50)


def test_catch_up_beyond_the_give_up_threshold_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    host, tm = lagging(60 * SECOND + 1)
    assert f"TM: Giving up catch-up attempt at a {60 * SECOND + 1} ns lag" in caplog.text
    assert (tm.lag, tm.catch_up_rate) == (0, 0)
    host.now += 5
    assert tm.now(Clock.VIRTUAL_SYNC) == 5


def test_lateness_below_the_slack_is_forgiven() -> None:
    _, tm = lagging(90 * US, TmConfig())
    assert tm.lag == 0


@given(lag=st.integers(0, 70 * SECOND), steps=st.lists(st.integers(1, 3 * SECOND), max_size=12))
def test_catch_up_any_lag_time_is_monotonic_lag_only_falls(lag: int, steps: list[int]) -> None:
    host, tm = lagging(lag)
    before, before_lag, before_tsc = tm.now(Clock.VIRTUAL_SYNC), tm.lag, tm.now(Clock.TSC)
    for step in steps:
        ticks, at, hz, limit = tm.tsc_mapping()
        due = tm.next_deadline_host_ns()
        host.now += step if due == NEVER else min(step, due - host.now)
        line = min(ticks + (host.now - at) * hz // SECOND, limit)
        now, now_lag, tsc = tm.now(Clock.VIRTUAL_SYNC), tm.lag, tm.now(Clock.TSC)
        assert now >= before
        assert tsc >= before_tsc
        assert 0 <= now_lag <= before_lag
        assert abs(line - tsc) <= 1  # what the engine computes is what TM says
        tm.run_due()
        assert tm.now(Clock.VIRTUAL_SYNC) == now
        before, before_lag, before_tsc = now, now_lag, tsc


@pytest.mark.parametrize(
    "settings_",
    [
        {"periods": (CatchUpPeriod(2 * MS, 5), CatchUpPeriod(2 * MS, 10))},
        {"stop_threshold": 750_000},
        {"give_up_threshold": 55 * SECOND},
        {"periods": (CatchUpPeriod(MS, 0),)},
        {"warp_percentage": 1},
        {"warp_percentage": 20_001},
        {"tsc_hz": 0},
    ],
)
def test_config_impossible_settings_are_refused(settings_: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="VERR_INVALID_PARAMETER"):
        TmConfig(**settings_)  # type: ignore[arg-type]


def test_read_config_keys_of_virtualbox_are_understood(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    assert read_config(node) == TmConfig()
    node.insert_integer("CatchUpPrecentage9", 600)
    node.insert_integer("CatchUpStartThreshold9", 56 * SECOND)
    node.insert_integer("UTCOffset", -5)
    node.insert_integer("TimerMillies", 10)
    node.insert_string("Mode", "warp")
    config = read_config(node)
    assert config.periods[9] == CatchUpPeriod(56 * SECOND, 600)
    assert (config.utc_offset, config.mode) == (-5, Mode.WARP)
    assert "TimerMillies" in caplog.text
    node.insert_integer("Bogus", 1)
    with pytest.raises(ConfigError, match="'/Bogus' found in the configuration of TM"):
        read_config(node)


# Saved state and information


@given(
    lag=st.integers(0, 70 * SECOND),
    later=st.integers(0, SECOND),
    hz=st.sampled_from([SECOND, 2_893_412_345]),
    expires=st.none() | st.integers(0, 100 * SECOND),
)
def test_save_and_load_into_another_manager_time_goes_on(
    lag: int, later: int, hz: int, expires: int | None
) -> None:
    host, tm = lagging(lag)
    host.now += later
    timer = tm.create("t", Clock.TSC, nothing)
    timer.load(TimerState(expires))
    tm.pause()
    other_host, other = make(TmConfig(tsc_hz=hz), running=False)
    other_host.now += 12345
    other_timer = other.create("t", Clock.TSC, nothing)

    other.load(decode(TmState, encode(tm.save())))
    other_timer.load(decode(TimerState, encode(timer.save())))

    for clock in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.TSC):
        assert other.now(clock) == tm.now(clock)
    assert (other.lag, other.catch_up_rate) == (tm.lag, tm.catch_up_rate)
    assert other_timer.expires == timer.expires


def test_load_while_running_or_nonsense_is_refused() -> None:
    _, tm = make()
    state = tm.save()
    with pytest.raises(StateError, match="VERR_TM_LOAD_STATE"):
        tm.load(state)
    tm.pause()
    for bad in (
        TmState(10, 20, 0, 0, 0, SECOND),
        TmState(20, 10, 11, 0, 0, SECOND),
        TmState(0, 0, 0, 0, 0, 0),
        TmState(FAR, FAR, 0, 0, 0, SECOND),
        TmState(0, 0, 0, 0, 0, SECOND, FAR),
    ):
        with pytest.raises(StateError, match="VERR_TM_LOAD_STATE"):
            tm.load(bad)


def test_info_texts_name_clocks_and_timers() -> None:
    host, tm = make()
    tm.create("idle", Clock.REAL, nothing, "vga#0")
    tm.create("tick", Clock.VIRTUAL_SYNC, nothing, "i8254#0").set(100)
    host.now += 10 * MS
    clocks = tm.info_clocks()
    assert [line.split(":")[0].strip() for line in clocks.splitlines()] == [
        "Cpu Tick",
        "Virtual",
        "VirtSync",
        "Real",
    ]
    assert "held by a timer - offset 9999900" in clocks
    assert "vga#0: idle" in tm.info_timers()
    assert "vga#0: idle" not in tm.info_timers(active_only=True)
    assert "i8254#0: tick" in tm.info_timers(active_only=True)


class TimersAgainstModel(RuleBasedStateMachine):
    """All timers against a naive model: a list of (expiry, order) that is searched each time.

    VIRTUAL and REAL timers must run exactly as the model says.  For VIRTUAL_SYNC, whose lag has no
    naive form, the model checks order, and that no timer is passed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.host, self.tm = make(running=False)
        self.ran: list[tuple[int, int]] = []
        self.clocks = [Clock.VIRTUAL, Clock.REAL, Clock.VIRTUAL_SYNC] * 3
        self.timers = [
            self.tm.create(str(n), clock, lambda n=n: self.ran.append((n, self.tm.now(self.clocks[n]))))  # type: ignore[misc]
            for n, clock in enumerate(self.clocks)
        ]
        self.armed: dict[int, tuple[int, int]] = {}
        self.order = 0
        self.sync_before = self.lag_before = 0

    @rule(number=st.integers(0, 8), delay=st.integers(-MS, 3 * MS))
    def arm(self, number: int, delay: int) -> None:
        self.order += 1
        when = self.tm.now(self.clocks[number]) + delay
        self.timers[number].set(when)
        self.armed[number] = (when, self.order)

    @rule(number=st.integers(0, 8))
    def stop(self, number: int) -> None:
        self.timers[number].stop()
        self.armed.pop(number, None)

    @rule(step=st.integers(1, 5 * MS))
    def advance(self, step: int) -> None:
        self.host.now += step

    @rule()
    def advance_to_deadline(self) -> None:
        self.host.now = max(self.host.now, self.tm.next_deadline_host_ns())

    @precondition(lambda self: self.tm.ticking)
    @rule()
    def pause(self) -> None:
        self.tm.pause()

    @precondition(lambda self: not self.tm.ticking)
    @rule()
    def resume(self) -> None:
        self.tm.resume()

    @rule()
    def run(self) -> None:
        expected: dict[Clock, list[int]] = {}
        for clock in (Clock.VIRTUAL, Clock.REAL):
            due = [
                (key, n)
                for n, key in self.armed.items()
                if self.clocks[n] is clock
                and key[0] <= self.tm.now(clock)
                and (clock is Clock.REAL or self.tm.ticking)
            ]
            expected[clock] = [n for _, n in sorted(due)]
        sync = sorted((key, n) for n, key in self.armed.items() if self.clocks[n] is Clock.VIRTUAL_SYNC)
        self.ran.clear()

        self.tm.run_due()

        for clock, numbers in expected.items():
            assert [n for n, _ in self.ran if self.clocks[n] is clock] == numbers
        ran_sync = [(n, now) for n, now in self.ran if self.clocks[n] is Clock.VIRTUAL_SYNC]
        assert [n for n, _ in ran_sync] == [n for _, n in sync[: len(ran_sync)]]
        for n, now in ran_sync:
            assert now == max(self.armed[n][0], self.sync_before)
        for n, _ in self.ran:
            del self.armed[n]

    @invariant()
    def armed_timers_agree(self) -> None:
        for n, timer in enumerate(self.timers):
            assert timer.expires == (self.armed[n][0] if n in self.armed else None)

    @invariant()
    def sync_is_monotonic_and_behind_virtual_and_passes_no_timer(self) -> None:
        now = self.tm.now(Clock.VIRTUAL_SYNC)
        assert self.sync_before <= now <= self.tm.now(Clock.VIRTUAL)
        assert self.tm.lag >= 0
        for n, (when, _) in self.armed.items():
            if self.clocks[n] is Clock.VIRTUAL_SYNC and when > self.sync_before:
                assert now <= when
        self.sync_before = now

    @invariant()
    def deadline_is_when_something_is_due(self) -> None:
        deadline = self.tm.next_deadline_host_ns()
        real = [when for n, (when, _) in self.armed.items() if self.clocks[n] is Clock.REAL]
        virtual = [when for n, (when, _) in self.armed.items() if self.clocks[n] is not Clock.REAL]
        if real or (virtual and self.tm.ticking):
            assert deadline != NEVER
        if real:
            assert deadline <= max(min(real), 1)
        if virtual and self.tm.ticking:
            assert deadline <= max(self.host.now, self.host.now + min(virtual) - self.sync_before)


TimersAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTimersAgainstModel = TimersAgainstModel.TestCase


# Executed instructions as the source of time


class Counted:
    """An engine, as far as time is concerned."""

    def __init__(self) -> None:
        self.count = 0
        self.ns = self.stop = self.seed = 0
        self.tsc: tuple[int, ...] = ()

    def count_instructions(self, ns: int, executed: int, seed: int) -> None:
        self.ns, self.count, self.seed = ns, executed, seed

    def executed(self) -> int:
        return self.count

    def stop_at(self, executed: int) -> None:
        self.stop = executed

    def set_tsc(self, ticks: int, host_ns: int, hz: int, limit: int) -> None:
        self.tsc = (ticks, host_ns, hz, limit)


def counted(**config: Any) -> tuple[Host, Counted, TimeManager]:
    host, engine, clock = Host(), Counted(), InstructionClock(ns=10, seed=7)
    clock.attach(engine)  # type: ignore[arg-type]
    settings = TmConfig(source=Source.INSTRUCTIONS, **config)
    tm = TimeManager(settings, host_clock=host, utc_clock=lambda: 5_000 * SECOND, counter=clock)
    tm.resume()
    return host, engine, tm


def test_now_counted_virtual_clocks_follow_instructions_and_real_the_host() -> None:
    host, engine, tm = counted()
    host.now += SECOND

    engine.count = 12

    assert [tm.now(clock) for clock in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.TSC)] == [120, 120, 120]
    assert tm.now(Clock.REAL) == host.now
    assert (engine.ns, engine.seed) == (10, 7)


@pytest.mark.parametrize("clock", [Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.TSC])
def test_deadline_counted_virtual_timer_stops_the_counter_and_not_the_host(clock: Clock) -> None:
    _, engine, tm = counted()
    timer, seen = at_clock(tm, clock)
    timer.set(1_001)

    assert tm.next_deadline_host_ns() == NEVER
    assert engine.stop == 101  # the first count at which 1001 ns are over
    engine.count = 100
    assert (tm.counted_out, tm.run_due()) == (False, 0)
    engine.count = 101
    assert (tm.counted_out, tm.run_due()) == (True, 1)
    assert seen[0] >= 1_001


def test_deadline_counted_timer_on_real_is_the_hosts() -> None:
    host, _, tm = counted()
    timer, seen = at_clock(tm, Clock.REAL)
    timer.set(host.now + 5)

    assert tm.next_deadline_host_ns() == host.now + 5
    host.now += 5
    tm.run_due()
    assert seen == [host.now]


def test_deadline_counted_earlier_timer_is_told_at_once() -> None:
    _, engine, tm = counted()
    tm.create("late", Clock.VIRTUAL_SYNC, nothing).set(1_000)
    tm.next_deadline_host_ns()

    tm.create("early", Clock.VIRTUAL, nothing).set(500)

    assert engine.stop == 50
    tm.create("past", Clock.VIRTUAL, nothing).set(-10_000)
    assert engine.stop == 0


def test_tsc_counted_new_line_is_told_at_once() -> None:
    _, engine, tm = counted()
    assert engine.tsc == (0, 0, SECOND, NO_LIMIT)
    engine.count = 3

    tm.create("a", Clock.VIRTUAL_SYNC, nothing).set(1_000)

    assert engine.tsc == (30, 30, SECOND, 1_000)


def test_utc_counted_begins_where_configured_and_moves_with_virtual_time() -> None:
    host, engine, tm = counted(utc_start=100, utc_offset=-1)
    host.now += 77 * SECOND

    engine.count = 5 * SECOND // 10

    assert tm.utc_now_ns() == 105 * SECOND - 1


def test_info_clocks_counted_says_how_many_instructions() -> None:
    _, engine, tm = counted()
    engine.count = 42

    assert "42 instructions" in tm.info_clocks()


def test_pass_idle_moves_virtual_time_up_to_the_next_timer() -> None:
    _, engine, tm = counted()
    timer, seen = at_clock(tm, Clock.VIRTUAL_SYNC)
    timer.set(5_000)
    tm.next_deadline_host_ns()
    engine.count = 100

    assert tm.until_next() == 4_000
    tm.pass_idle(1_500)
    assert (tm.until_next(), tm.now(Clock.VIRTUAL)) == (2_500, 2_500)
    assert engine.stop == 350
    tm.pass_idle(2_500)
    assert (tm.counted_out, tm.run_due(), seen) == (True, 1, [5_000])
    assert tm.until_next() == FAR


def test_warp_percentage_counted_is_refused() -> None:
    _, _, tm = counted()

    with pytest.raises(ConfigError, match="InstructionTime"):
        tm.set_warp_percentage(200)
    with pytest.raises(ConfigError, match="InstructionTime"):
        TmConfig(source=Source.INSTRUCTIONS, warp_percentage=50)


def test_save_and_load_counted_keep_the_count() -> None:
    _, engine, tm = counted()
    engine.count = 1_234
    tm.pause()
    state = decode(TmState, encode(tm.save()))
    _, other, fresh = counted()
    fresh.pause()

    fresh.load(state)

    assert other.count == 1_234
    fresh.resume()
    other.count += 1
    assert fresh.now(Clock.VIRTUAL) == fresh.now(Clock.TSC) == 12_350


def test_load_state_of_version_1_has_no_count() -> None:
    assert TmState.upgrade(1, {"virtual": 1}) == {"virtual": 1, "executed": 0}


def test_attach_engine_that_does_not_count_raises() -> None:
    for engine in (None, object()):
        with pytest.raises(PdmError, match=r"VERR_NOT_SUPPORTED.*TM/Source = host"):
            InstructionClock(1).attach(engine)  # type: ignore[arg-type]


def test_detach_clock_stands() -> None:
    clock, engine = InstructionClock(10), Counted()
    clock.attach(engine)  # type: ignore[arg-type]
    engine.count = 5
    clock.detach()
    engine.count = 6

    clock.stop_at(100)

    assert (clock(), engine.stop) == (50, 0)


def test_config_source_of_time() -> None:
    node = Node()
    node.insert_string("Source", "instructions")
    node.insert_integer("InstructionTime", 3)
    node.insert_integer("UTCStart", 4)

    config = read_config(node)

    assert (config.source, config.instruction_time, config.utc_start) == (Source.INSTRUCTIONS, 3, 4)
    node.replace("Source", "blocks")
    with pytest.raises(ConfigError, match=r"'blocks'.*host or instructions"):
        read_config(node)
    node.replace("Source", "instructions")
    node.replace("InstructionTime", 0)
    with pytest.raises(ConfigError, match=r"instruction_time is 0.*1\.\.1000000"):
        read_config(node)
