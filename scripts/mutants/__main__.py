"""`python -m mutants`, with `scripts` on the module path."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from mutants import report
from mutants.catalogue import catalogue
from mutants.drawn import draw
from mutants.mutant import CATALOGUE, DRAWN, ROOT, Mutant, MutantError, check
from mutants.results import Result, Results
from mutants.run import KIT, SECONDS, Options, Outcome, Runner, overlay_wins
from mutants.session import Session
from mutants.sources import distributions, kit_digest, snapshot

RESULTS = ROOT / ".cache" / "mutants" / "results.json"
DONE, SURVIVORS, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every mutant was found or is classified, 1 when not, 2 when nothing could be run."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = snapshot(Path(folder))  # what is edited meanwhile does not matter
        results = Results(options.results)
        stale: list[str] = []
        try:
            mutants = chosen(options, results, root, stale)
            check(mutants, root)
            classes = report.survivors()
        except MutantError as error:
            print(error, file=sys.stderr)
            return USAGE
        for reason in stale:
            print(f"This fault cannot be planted any more: {reason}", file=sys.stderr)
        if options.list:
            _list(mutants, root)
            return DONE
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # no check is left behind
        try:
            return _run(
                mutants, Session(Runner(_kit(options), root), results, options.jobs), classes, options
            )
        except KeyboardInterrupt:
            print("ended; what was done is kept", file=sys.stderr)
            return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mutants",
        description="Plant faults in devices, and see what the conformance kit finds.",
    )
    add = parser.add_argument
    add("which", nargs="*", metavar="WHICH", help="catalogue or drawn; both when none is named")
    add("--list", action="store_true", help="list the mutants and run nothing")
    add("--count", type=int, default=300, metavar="N", help="how many are drawn (300)")
    add("--draw-seed", type=int, default=1, metavar="N", help="which ones (1)")
    add("--only", action="append", default=[], metavar="GLOB", help="by identity, type or kind of fault")
    add("--again", action="store_true", help="only those that were not found when they were last tried")
    add("--profile", choices=sorted(SECONDS), default="quick", help="of the kit")
    add("--seed", type=int, default=0, metavar="N", help="of the kit")
    add("--budget", type=float, metavar="SECONDS", help="of the kit, for each type")
    add("--limit", type=float, metavar="SECONDS", help="when to end the kit, for each type")
    add("--memory", type=int, default=4096, metavar="MIB", help="what the kit may have")
    add("--jobs", type=int, default=2, metavar="N", help="how many at the same time (2)")
    add("--results", type=Path, default=RESULTS, metavar="FILE", help="where results are kept")
    add("--unit", action="store_true", help="run the plugin's own tests on what was not found")
    add("--document", type=Path, metavar="FILE", help="write the page about it")
    add("--kit", metavar="COMMAND", help="another kit")
    return parser


def _kit(options: argparse.Namespace) -> Options:
    command = tuple(shlex.split(options.kit)) if options.kit else KIT
    return Options(command, options.profile, options.seed, options.budget, options.limit, options.memory)


def chosen(options: argparse.Namespace, results: Results, root: Path, stale: list[str]) -> list[Mutant]:
    """The mutants that the command line asks for; `stale` gets what is said of faults that do not fit
    the plugins any more."""
    which = options.which or [CATALOGUE, DRAWN]
    wrong = [each for each in which if each not in (CATALOGUE, DRAWN)]
    if wrong:
        raise MutantError(f"{wrong[0]!r} is neither {CATALOGUE} nor {DRAWN}")
    found = catalogue(root=root, stale=stale) if CATALOGUE in which else []
    found += draw(options.count, options.draw_seed, root) if DRAWN in which else []
    if options.only:
        found = [mutant for mutant in found if any(_matches(mutant, pattern) for pattern in options.only)]
    if options.again:
        found = [mutant for mutant in found if not _was_killed(results.latest(mutant.id))]
    return found


def _matches(mutant: Mutant, pattern: str) -> bool:
    return any(fnmatch(word, pattern) for word in (mutant.id, mutant.kind, *mutant.names))


def _was_killed(result: Result | None) -> bool:
    return result is not None and result.outcome is Outcome.KILLED


def _list(mutants: Sequence[Mutant], root: Path) -> None:
    for mutant in mutants:
        line = mutant.line(mutant.source(root))
        print(f"{mutant.id}  [{mutant.kind}]  {', '.join(mutant.names)}  {mutant.file}:{line}")
        print(f"    {mutant.text}")
    print(f"{len(mutants)} mutants")


def _run(
    mutants: Sequence[Mutant],
    session: Session,
    classes: dict[str, report.Survivor],
    options: argparse.Namespace,
) -> int:
    root, kit = session.runner.root, session.runner.options
    how = f"profile {kit.profile}, seed {kit.seed}, drawn with seed {options.draw_seed}"
    print(f"{len(mutants)} mutants; {how}, contract {kit_digest(root)}", flush=True)
    for distribution in distributions(root):
        if not overlay_wins(distribution, root):
            print(f"A copy of {distribution.name} does not hide the installed one", file=sys.stderr)
            return USAGE
    failing = session.failing(mutants)
    jobs = session.plan(mutants, failing)
    print(f"{len(jobs)} to try, {len(session.known(jobs))} of them known", flush=True)
    session.check(jobs)
    session.doubt(jobs)
    if options.unit:
        session.test(jobs)
    found = session.known(jobs)
    print(report.summary(found))
    if options.document is not None:
        options.document.write_text(report.document(found, classes, f"These are the results with {how}."))
    if failing:
        print(f"\nNot tried, since they fail without a fault: {', '.join(sorted(failing))}", file=sys.stderr)
    return SURVIVORS if failing or report.unclassified(found, classes) else DONE


if __name__ == "__main__":
    sys.exit(main())
