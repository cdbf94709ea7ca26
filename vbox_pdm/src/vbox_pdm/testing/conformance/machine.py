"""The state machine: hypothesis chooses the moves of a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from vbox_pdm.testing.conformance import plans
from vbox_pdm.testing.conformance.registers_check import Target, is_quiet, targets
from vbox_pdm.testing.conformance.rig import Rig, Subject
from vbox_pdm.testing.conformance.session import (
    FIELD,
    Damage,
    Do,
    Fork,
    Look,
    Move,
    Pause,
    QuietRead,
    Replug,
    Reset,
    Session,
    WideRead,
)
from vbox_pdm.testing.conformance.steps import Access, Cmos, Enable, Info, Life, Prepare, Step
from vbox_pdm.testing.conformance.violations import Hang, Violation

_SEEDS = st.binary(min_size=8, max_size=8)


class Found(BaseException):
    """Ends the search: a property does not hold.  No Exception, so that hypothesis lets it pass."""

    def __init__(self, error: Violation | Hang) -> None:
        super().__init__(str(error))
        self.error = error


def machine_for(
    subject: Subject, config: Mapping[str, object], late: Callable[[], bool]
) -> type[RuleBasedStateMachine]:
    """The machine of a type in one configuration.  It does nothing when it is `late`."""
    model = Rig(subject, config)
    for number in range(len(model.functions)):
        model.perform(Enable(number))
    acts = plans.acts(model)
    talk = plans.talk(model)
    quiet = _quiet_reads(model)
    functions = len(model.functions)
    upsets = _upsets(model)
    model.abandon()

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.late = late()
            self.failed = False
            self.session: Session | None = None

        @initialize(
            repeat=st.booleans(), enable=st.booleans(), prepare=st.booleans(), way=st.integers(0, 1 << 20)
        )
        def begin(self, repeat: bool, enable: bool, prepare: bool, way: int) -> None:
            """Where an earlier session reached something new; or new, and firmware was here, or not."""
            if self.late:
                return
            try:
                self.session = Session(subject, config, repeat=repeat)
            except (Violation, Hang) as error:
                raise Found(error) from error
            beginning = subject.guide.beginning(config, way)
            for move in beginning:
                self.play(move)
            if beginning:
                return
            for number in range(functions if enable else 0):
                self.play(Do(Enable(number)))
            if subject.setup.prepare and prepare:
                self.play(Do(Prepare()))

        @rule(seed=_SEEDS, most=st.sampled_from([4, 12, 20]))
        def act(self, seed: bytes, most: int) -> None:
            """Most of what happens."""
            chance = Random(seed)
            for _ in range(chance.randint(1, most)):
                self.play(_move(acts(chance), quiet))

        @rule(seed=_SEEDS, most=st.sampled_from([4, 12, 20]))
        def act_more(self, seed: bytes, most: int) -> None:
            """And some more of it: hypothesis gives all rules the same weight."""
            self.act(seed, most)

        if talk is not None:

            @rule(steps=st.lists(talk, min_size=1, max_size=12 if subject.is_driver else 4))
            def speak(self, steps: list[Step]) -> None:
                """What neighbours say."""
                for step in steps:
                    self.play(_move(step, quiet))

        @rule(move=upsets)
        def upset(self, move: Move) -> None:
            """What the VM does."""
            self.play(move)

        def play(self, move: Move) -> None:
            """Unless it is too late."""
            if self.session is not None:
                self.guarded(lambda session: session.play(move))
                subject.guide.keep(config, self.session.moves)

        def teardown(self) -> None:
            if self.session is not None and not self.failed:
                self.guarded(lambda session: session.end())

        def guarded(self, action: Callable[[Session], None]) -> None:
            """hypothesis need not know what went wrong: it would only try it again."""
            assert self.session is not None
            try:
                action(self.session)
            except (Violation, Hang) as error:
                self.failed = True
                raise Found(error) from error

    Machine.__name__ = Machine.__qualname__ = f"Conformance of {subject.name}"
    return Machine


def _move(step: Step, quiet: Mapping[tuple[int, int, int], Target]) -> Move:
    """A step, with more looks at it where it is a read that has no effect."""
    if isinstance(step, Info) or (isinstance(step, Cmos) and step.value is None):
        return Look(step)
    if not isinstance(step, Access) or step.value is not None:
        return Do(step)
    target = quiet.get((step.region, step.offset, step.size))
    if target is not None:
        return QuietRead(step, target)
    bytes_of_it = ((step.region, step.offset + at, 1) for at in range(step.size))
    return WideRead(step) if all(place in quiet for place in bytes_of_it) else Do(step)


def _upsets(rig: Rig) -> st.SearchStrategy[Move]:
    """Resets, pauses, saved states, plugs."""
    options: list[st.SearchStrategy[Move]] = [
        st.just(Reset()),
        st.just(Do(Life("soft_reset"))),
        st.sampled_from([1, 1_000_000, 100_000_000]).map(Pause),
    ]
    if rig.comparable:
        places = st.floats(0, 1, exclude_max=True)
        options += [st.just(Fork()), st.just(Fork()), st.just(Fork(2))]
        options.append(st.builds(Damage, places, st.sampled_from([0, 1, 0x80, 0xFF, FIELD, FIELD])))
    if rig.subject.luns and not rig.subject.is_driver:
        options.append(st.sampled_from(sorted(rig.subject.luns)).map(Replug))
    return plans.either(options)


def _quiet_reads(rig: Rig) -> dict[tuple[int, int, int], Target]:
    return {
        (number, target.offset, target.size): target
        for number, watched in enumerate(rig.regions)
        for target in targets(number, watched, write=False)
        if is_quiet(rig, target)
    }
