"""A run: first the types as they are, then every mutant, several at a time.  Each result is kept at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from attrs import evolve, frozen

from mutants.mutant import Mutant
from mutants.results import Result, Results, key_of, result_of, words_of
from mutants.run import Outcome, Runner, Verdict
from mutants.sources import Distribution, distributions

T = TypeVar("T")
V = TypeVar("V")


@frozen
class Job:
    """A mutant to try on these types."""

    mutant: Mutant
    distribution: Distribution
    names: tuple[str, ...]
    key: str


class Session:
    """Runs of the kit with a memory; `jobs` at the same time."""

    def __init__(self, runner: Runner, results: Results, jobs: int = 2) -> None:
        self.runner = runner
        self.results = results
        self.jobs = jobs
        self._distributions = distributions(runner.root)
        self._homes = {name: each for each in self._distributions for name in each.types}

    def failing(self, mutants: Sequence[Mutant]) -> set[str]:
        """The types of these mutants that do not pass as they are."""
        names = sorted({name for mutant in mutants for name in mutant.names})
        keys = {name: self._key(None, (name,), self._homes[name]) for name in names}
        found: set[str] = set()

        def done(name: str, verdict: Verdict) -> None:
            _say(f"as it is: {name}", verdict)
            if verdict.outcome is not Outcome.LIVED:
                found.add(name)
            self.results.put(result_of(None, (name,), keys[name], verdict, self.runner.root))

        todo = [name for name in names if not _passed(self.results.get(keys[name]))]
        self._parallel(todo, lambda name: self.runner.check((name,), self._homes[name], None), done)
        return found

    def plan(self, mutants: Sequence[Mutant], without: set[str]) -> list[Job]:
        """What is to be tried, without types that say nothing."""
        found = []
        for mutant in mutants:
            names = tuple(name for name in mutant.names if name not in without)
            if names:
                home = self._home(mutant)
                found.append(Job(mutant, home, names, self._key(mutant, names, home)))
        return found

    def known(self, jobs: Sequence[Job]) -> list[Result]:
        """The results that there are."""
        return [result for job in jobs if (result := self.results.get(job.key)) is not None]

    def check(self, jobs: Sequence[Job]) -> None:
        """Ask the kit about all of which nothing is known."""

        def done(job: Job, verdict: Verdict) -> None:
            self.results.put(result_of(job.mutant, job.names, job.key, verdict, self.runner.root))
            _say(job.mutant.id, verdict)

        todo = [job for job in jobs if self.results.get(job.key) is None]
        self._parallel(todo, lambda job: self.runner.check(job.names, job.distribution, job.mutant), done)

    def doubt(self, jobs: Sequence[Job], seeds: int = 2) -> None:
        """When the kit says the same of several faults of a type, hear what it says of the type as it
        is with other seeds.  What it says there as well was not found by merit."""
        killed = [result for result in self.known(jobs) if result.outcome is Outcome.KILLED]
        words = {result.key: words_of(result.properties, result.said) for result in killed}
        often = {text for text, count in Counter(words.values()).items() if count > 1}
        names = sorted(
            {result.properties[0].partition(":")[0] for result in killed if words[result.key] in often}
        )
        first = self.runner.options.seed + 1
        trials = [
            (name, seed) for name in names if name in self._homes for seed in range(first, first + seeds)
        ]
        keys = {(name, seed): self._key(None, (name,), self._homes[name], seed) for name, seed in trials}

        def done(trial: tuple[str, int], verdict: Verdict) -> None:
            _say(f"as it is: {trial[0]} with seed {trial[1]}", verdict)
            self.results.put(result_of(None, (trial[0],), keys[trial], verdict, self.runner.root))

        def work(trial: tuple[str, int]) -> Verdict:
            return self.runner.check((trial[0],), self._homes[trial[0]], None, seed=trial[1])

        self._parallel([trial for trial in trials if self.results.get(keys[trial]) is None], work, done)
        known = [result for key in keys.values() if (result := self.results.get(key)) is not None]
        heard = {words_of(result.properties, result.said) for result in known if result.properties}
        for result in killed:
            if words[result.key] in heard:
                self.results.doubt(result.key)

    def test(self, jobs: Sequence[Job]) -> None:
        """Ask the plugins' own tests about what the kit did not find."""

        def done(job: Job, test: str) -> None:
            self.results.note_unit(job.key, test)
            print(f"{job.mutant.id}: {test or 'all tests pass'}", flush=True)

        wanted = {
            result.key
            for result in self.known(jobs)
            if result.outcome is not Outcome.KILLED and result.unit is None
        }
        todo = [job for job in jobs if job.key in wanted]
        self._parallel(todo, lambda job: self.runner.first_failing_test(job.distribution, job.mutant), done)

    # --- machinery

    def _home(self, mutant: Mutant) -> Distribution:
        path = self.runner.root / mutant.file
        return next(each for each in self._distributions if path.is_relative_to(each.folder))

    def _key(
        self,
        mutant: Mutant | None,
        names: tuple[str, ...],
        home: Distribution,
        seed: int | None = None,
    ) -> str:
        options = self.runner.options if seed is None else evolve(self.runner.options, seed=seed)
        return key_of(mutant, names, home, options, self.runner.root)

    def _parallel(self, items: Sequence[T], work: Callable[[T], V], done: Callable[[T, V], None]) -> None:
        """`work` on threads; `done` here, in the order in which they end."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures: dict[Future[V], T] = {pool.submit(work, item): item for item in items}
            try:
                for future in as_completed(futures):
                    done(futures[future], future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.runner.stop()
                raise


def _passed(result: Result | None) -> bool:
    return result is not None and result.outcome is Outcome.LIVED


def _say(what: str, verdict: Verdict) -> None:
    first = verdict.properties[0] if verdict.properties else ""
    print(f"{verdict.outcome.value}: {what} in {verdict.seconds:.0f} s {first}".rstrip(), flush=True)
