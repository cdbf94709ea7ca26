"""The machinery of scripts/mutants, with a kit that is played."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mutants import report
from mutants.__main__ import main
from mutants.catalogue import catalogue
from mutants.drawn import KINDS, draw, sites
from mutants.mutant import CATALOGUE, DRAWN, ROOT, Edit, Mutant, MutantError, check, edit_of, read_source
from mutants.results import Result, Results, key_of
from mutants.run import NOT_USABLE, Options, Outcome, Runner, overlay_wins
from mutants.session import Session
from mutants.sources import distributions, make_overlay, snapshot, types_by_module

PLUGIN = '''"""A plugin."""

from __future__ import annotations

from vbox_plugin_lamp import table


def write(value: int) -> None:
    """Take a value: 0x0F bits of it."""
    table.held = value & 0x0F
    if value > 3 and not value & 0x80:
        table.held += 1
    log.warning("0x0F of %d", value + 1)
'''

FAKE_KIT = """
import json, pathlib, sys, time
import vbox_plugin_lamp.lamp
text = pathlib.Path(vbox_plugin_lamp.lamp.__file__).read_text()
names = [a for a in sys.argv[1:] if not a.startswith("--")][:1]
folder = pathlib.Path(sys.argv[sys.argv.index("--report") + 1])
folder.mkdir()
if "HANG" in text:
    time.sleep(60)
if "TALK" in text:
    sys.exit("it fell over")
if "USAGE" in text:
    sys.exit(2)
if sys.argv[sys.argv.index("--seed") + 1] != "0":
    failures = [{"property": "bits", "text": "a bit too many"}]
    (folder / "lamp.json").write_text(json.dumps({"name": "lamp", "failures": failures}))
    sys.exit(1)
bad = "0x0F\\n    if" not in text
failures = [{"property": "bits", "text": "a bit too many"}] if bad else []
(folder / "lamp.json").write_text(json.dumps({"name": "lamp", "failures": failures}))
sys.exit(1 if bad else 0)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one plugin, `lamp`."""
    package = tmp_path / "project" / "plugins" / "lamp" / "src" / "vbox_plugin_lamp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "table.py").write_text("held = 0\n")
    (package / "unused.py").write_text("held = 0\n")
    (package / "lamp.py").write_text(PLUGIN)
    (tmp_path / "project" / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntimeout = 60\n")
    (package.parent.parent / "pyproject.toml").write_text(
        '[project]\nname = "vbox-plugin-lamp"\nversion = "1.2"\ndependencies = ["vbox-pdm>=1.0,<2"]\n'
        '[project.entry-points."vbox.plugins"]\nlamp = "vbox_plugin_lamp.lamp"\n'
    )
    return tmp_path / "project"


@pytest.fixture
def runner(project: Path, tmp_path: Path) -> Runner:
    """A runner with the played kit."""
    kit = tmp_path / "kit.py"
    kit.write_text(FAKE_KIT)
    return Runner(Options(command=(sys.executable, str(kit)), limit=20), project)


def lamp(old: str, new: str, identity: str = "lamp-fault") -> Mutant:
    """A fault in the lamp."""
    file = "plugins/lamp/src/vbox_plugin_lamp/lamp.py"
    return Mutant(identity, CATALOGUE, "mask", ("lamp",), file, (edit_of(PLUGIN, old, new, identity),), "why")


# --- the catalogue


def test_catalogue_as_it_is_applies_each_fault_once_and_compiles() -> None:
    faults = catalogue()

    check(faults)
    assert len(faults) >= 70


def test_catalogue_as_it_is_names_types_that_depend_on_the_file() -> None:
    types: dict[str, set[str]] = {}
    for distribution in distributions():
        modules = distribution.modules()
        for module, names in types_by_module(distribution).items():
            types[modules[module].relative_to(ROOT).as_posix()] = set(names)

    wrong = [
        fault.id for fault in catalogue() if not fault.names or not set(fault.names) <= types[fault.file]
    ]

    assert wrong == []


def test_catalogue_fault_that_does_not_fit_any_more_is_stale(project: Path, tmp_path: Path) -> None:
    (tmp_path / "lamp.toml").write_text(
        '[[fault]]\nid = "gone"\nkind = "k"\ntypes = ["lamp"]\nwhy = "w"\nold = "not there"\nnew = ""\n'
        'file = "plugins/lamp/src/vbox_plugin_lamp/lamp.py"\n'
    )
    stale: list[str] = []

    found = catalogue(tmp_path, project, stale=stale)

    assert found == []
    assert [reason.partition(":")[0] for reason in stale] == ["gone"]
    with pytest.raises(MutantError, match="gone"):
        catalogue(tmp_path, project)


def test_edit_of_text_that_is_there_twice_raises() -> None:
    with pytest.raises(MutantError, match="there 2 times"):
        edit_of("a a", "a", "b", "fault")


def test_check_fault_that_changes_nothing_raises(project: Path) -> None:
    with pytest.raises(MutantError, match="nothing is changed"):
        check([lamp("value > 3", "value > 3")], project)


def test_check_fault_that_does_not_compile_raises(project: Path) -> None:
    with pytest.raises(MutantError, match="does not compile"):
        check([lamp("value > 3", "value >")], project)


def test_check_two_of_one_name_raises(project: Path) -> None:
    with pytest.raises(MutantError, match="two mutants"):
        check([lamp("value > 3", "value > 4"), lamp("value > 3", "value > 5")], project)


def test_applied_several_edits_leaves_the_rest_as_it_was() -> None:
    mutant = Mutant("m", CATALOGUE, "k", ("lamp",), "f", (Edit(0, 1, "xx"), Edit(4, 5, "")), "why")

    assert mutant.applied("abcdefg") == "xxbcdfg"


# --- drawn mutants


def test_draw_same_seed_gives_the_same_mutants(project: Path) -> None:
    assert draw(20, 7, project) == draw(20, 7, project)


def test_draw_other_seed_gives_others(project: Path) -> None:
    assert draw(10, 7, project) != draw(10, 8, project)


def test_draw_of_the_plugins_compiles_and_changes_one_span_each() -> None:
    mutants = draw(60, 1)

    check(mutants)
    assert len(mutants) == 60
    assert {mutant.kind for mutant in mutants} == set(KINDS)
    assert all(mutant.origin == DRAWN and len(mutant.edits) == 1 and mutant.names for mutant in mutants)


def test_draw_after_an_edit_elsewhere_gives_the_same_identities(project: Path) -> None:
    before = [mutant.id for mutant in draw(1000, 7, project)]
    path = project / "plugins/lamp/src/vbox_plugin_lamp/lamp.py"
    path.write_text(PLUGIN.replace('"""A plugin."""', '"""A plugin.\n\nIt is a lamp.\n"""'))

    assert [mutant.id for mutant in draw(1000, 7, project)] == before


def test_draw_module_of_no_type_is_left_alone(project: Path) -> None:
    assert {Path(mutant.file).name for mutant in draw(1000, 7, project)} == {"lamp.py", "table.py"}


@pytest.mark.parametrize(
    ("kind", "line", "changed"),
    [
        ("operator", "x = a + b\n", {"x = a - b\n"}),
        ("operator", "x |= b\n", {"x &= b\n"}),
        ("comparison", "x = a <= b\n", {"x = a < b\n"}),
        ("and/or", "x = a and b\n", {"x = a or b\n"}),
        ("not", "x = not (a or b)\n", {"x = (a or b)\n"}),
        ("mask", "x = a & 0x0F\n", {f"x = a & 0x{n}\n" for n in ("10", "0E", "0D", "0B", "07")}),
        ("constant", "x = f(1)\n", {"x = f(0)\n", "x = f(2)\n"}),
        ("condition", "while a:\n    f()\n", {"while not (a):\n    f()\n"}),
        ("deleted statement", "def reset(self):\n    f()\n", {"def reset(self):\n    pass\n"}),
        ("early return", "def go():\n    f()\n    g()\n", {"def go():\n    f()\n    return\n    g()\n"}),
    ],
)
def test_sites_of_a_line_make_the_change(kind: str, line: str, changed: set[str]) -> None:
    found = set()
    for seed in range(20):
        for site in sites(line, "a.py", seed):
            if site.kind == kind:
                found.add(Mutant("m", DRAWN, kind, (), "a.py", (site.edit,), "").applied(line))

    assert found
    assert found <= changed


@pytest.mark.parametrize(
    "source",
    [
        '"""Text of 0x0F."""\n',
        'log.warning("%d", value + 1)\n',
        'self.helpers.log.error("%d", 3)\n',
        'raise ValueError("%d" % (value + 1))\n',
        'class R(RegisterMap):\n    A = Reg8(0, fields={"B": 3})\n',
        "def pdm_info(self, arguments: str) -> str:\n    return str(self.count + 1)\n",
        'x = key(help="1 + 1")\n',
        "x: Annotated[int, 5]\n",
        "def vbox_register_devices(register):\n    register(1)\n\n\nACTIONS = (1, 2)\n",
        'x = f"{a + 1}"\n',
    ],
)
def test_sites_of_what_does_not_act_are_none(source: str) -> None:
    assert sites(source, "a.py") == []


def test_sites_behind_letters_of_several_bytes_are_in_place() -> None:
    source = "x = 'äöü', a + b\n"

    (site,) = [each for each in sites(source, "a.py") if each.kind == "operator"]

    assert source[site.edit.start] == "+"


# --- copies


def test_types_by_module_follows_imports(project: Path) -> None:
    (distribution,) = distributions(project)

    assert types_by_module(distribution) == {
        "vbox_plugin_lamp": ("lamp",),
        "vbox_plugin_lamp.lamp": ("lamp",),
        "vbox_plugin_lamp.table": ("lamp",),
    }


def test_make_overlay_with_a_fault_changes_one_file(project: Path, tmp_path: Path) -> None:
    (distribution,) = distributions(project)
    make_overlay(tmp_path, distribution, lamp("value > 3", "value > 4"), project)

    assert "value > 4" in (tmp_path / "vbox_plugin_lamp" / "lamp.py").read_text()
    assert (tmp_path / "vbox_plugin_lamp" / "table.py").read_text() == "held = 0\n"
    assert "lamp = vbox_plugin_lamp.lamp" in next(tmp_path.glob("*.dist-info/entry_points.txt")).read_text()
    assert read_source(distribution.source / "lamp.py") == PLUGIN


def test_overlay_of_an_installed_plugin_wins() -> None:
    installed = [each for each in distributions() if each.folder.parent.name == "plugins"]

    assert installed
    assert all(overlay_wins(distribution) for distribution in installed)


def test_snapshot_of_the_project_has_the_same_mutants(tmp_path: Path) -> None:
    root = snapshot(tmp_path)

    assert [fault.id for fault in catalogue(root=root)] == [fault.id for fault in catalogue()]


# --- runs


@pytest.mark.parametrize(
    ("old", "new", "outcome", "properties"),
    [
        ("value & 0x0F", "value & 0x1F", Outcome.KILLED, ("lamp: bits",)),
        ("value > 3", "value > 4", Outcome.LIVED, ()),
        ('"""A plugin."""', '"""TALK"""', Outcome.BROKE, ()),
        ('"""A plugin."""', '"""USAGE"""', Outcome.KILLED, (NOT_USABLE,)),
    ],
)
def test_check_with_a_fault_tells_what_the_kit_said(
    runner: Runner, old: str, new: str, outcome: Outcome, properties: tuple[str, ...]
) -> None:
    (distribution,) = distributions(runner.root)

    verdict = runner.check(("lamp",), distribution, lamp(old, new))

    assert (verdict.outcome, verdict.properties) == (outcome, properties)


def test_check_kit_that_hangs_is_ended_and_no_kill(runner: Runner) -> None:
    (distribution,) = distributions(runner.root)
    impatient = Runner(Options(command=runner.options.command, limit=2), runner.root)

    verdict = impatient.check(("lamp",), distribution, lamp('"""A plugin."""', '"""HANG"""'))

    assert verdict.outcome is Outcome.HUNG


def test_session_checks_all_and_knows_them_the_next_time(runner: Runner, tmp_path: Path) -> None:
    mutants = [lamp("value & 0x0F", "value & 0x1F", "found"), lamp("value > 3", "value > 4", "not-found")]
    session = Session(runner, Results(tmp_path / "results.json"))
    jobs = session.plan(mutants, session.failing(mutants))
    session.check(jobs)

    again = Session(runner, Results(tmp_path / "results.json"))
    known = again.known(again.plan(mutants, set()))

    assert [(each.id, each.outcome) for each in known] == [
        ("found", Outcome.KILLED),
        ("not-found", Outcome.LIVED),
    ]
    assert known == session.known(jobs)
    assert known[0].said == "a bit too many"


def test_session_type_that_fails_as_it_is_is_left_out(runner: Runner, tmp_path: Path) -> None:
    path = runner.root / "plugins/lamp/src/vbox_plugin_lamp/lamp.py"
    path.write_text(PLUGIN.replace("0x0F\n", "0x07\n"))
    session = Session(runner, Results(tmp_path / "results.json"))
    mutants = [Mutant("m", CATALOGUE, "k", ("lamp",), str(path.relative_to(runner.root)), (), "why")]

    failing = session.failing(mutants)

    assert failing == {"lamp"}
    assert session.plan(mutants, failing) == []


def test_session_same_words_of_several_faults_and_of_none_are_doubtful(
    runner: Runner, tmp_path: Path
) -> None:
    mutants = [lamp("value & 0x0F", "value & 0x1F", "one"), lamp("value & 0x0F", "value & 0x2F", "two")]
    session = Session(runner, Results(tmp_path / "results.json"))
    jobs = session.plan(mutants, set())
    session.check(jobs)

    session.doubt(jobs)

    assert [each.outcome for each in session.known(jobs)] == [Outcome.DOUBTFUL] * 2


def test_session_words_of_one_fault_are_believed(runner: Runner, tmp_path: Path) -> None:
    session = Session(runner, Results(tmp_path / "results.json"))
    jobs = session.plan([lamp("value & 0x0F", "value & 0x1F", "one")], set())
    session.check(jobs)

    session.doubt(jobs)

    assert [each.outcome for each in session.known(jobs)] == [Outcome.KILLED]


def test_key_depends_on_fault_and_options(project: Path) -> None:
    (distribution,) = distributions(project)
    one, other = lamp("value > 3", "value > 4"), lamp("value > 3", "value > 5")

    keys = {
        key_of(mutant, ("lamp",), distribution, options, project)
        for mutant in (None, one, other)
        for options in (Options(), Options(seed=1))
    }

    assert len(keys) == 6


def test_first_failing_test_is_named(runner: Runner) -> None:
    tests = runner.root / "plugins/lamp/tests"
    tests.mkdir()
    (tests / "test_lamp_unit.py").write_text(
        "import vbox_plugin_lamp.lamp\n"
        "def test_lamp_bits_kept():\n    assert '> 3' in open(vbox_plugin_lamp.lamp.__file__).read()\n"
    )
    (distribution,) = distributions(runner.root)

    found = runner.first_failing_test(distribution, lamp("value > 3", "value > 4"))
    none = runner.first_failing_test(distribution, lamp("value & 0x0F", "value & 0x1F"))

    assert found == "test_lamp_unit.py::test_lamp_bits_kept"
    assert none == ""


# --- reports


def result(identity: str, outcome: Outcome, kind: str = "mask", unit: str | None = None) -> Result:
    """A result."""
    return Result(
        identity, identity, DRAWN, kind, ("lamp",), "lamp.py", 3, "write: 3 -> 4", "", outcome,
        ("lamp: bits",) if outcome is Outcome.KILLED else (), "", 1.0, unit,
    )  # fmt: skip


def test_rows_count_what_was_killed_by_kind() -> None:
    found = report.rows(
        [result("a", Outcome.KILLED), result("b", Outcome.HUNG), result("c", Outcome.LIVED, "not")]
    )

    assert [(row.kind, row.killed, row.hung, row.total) for row in found] == [
        ("mask", 1, 1, 2),
        ("not", 0, 0, 1),
        ("all", 1, 1, 3),
    ]


def test_summary_names_those_that_lived() -> None:
    text = report.summary(
        [result("found", Outcome.KILLED), result("not-found", Outcome.LIVED, unit="test_x")]
    )

    assert "lived: not-found (lamp) lamp.py:3" in text
    assert "unit tests: test_x" in text
    assert "found (" not in text.replace("not-found (", "")


def test_document_sorts_survivors_by_class(tmp_path: Path) -> None:
    path = tmp_path / "survivors.toml"
    path.write_text('[[survivor]]\nid = "b"\nclass = "equivalent"\nwhy = "Both mean the same."\n')
    results = [result("a", Outcome.KILLED), result("b", Outcome.LIVED), result("c", Outcome.LIVED)]

    text = report.document(results, report.survivors(path), "How.")

    assert "| all | 1 | 3 | 33 % |" in text
    assert "### Not found: equivalent (1)" in text
    assert "- `b` (lamp.py): write: `` 3 -> 4 ``. Both mean the same." in text
    assert "### Not found: not looked at (1)" in text


def test_survivors_of_a_class_that_there_is_not_raise(tmp_path: Path) -> None:
    path = tmp_path / "survivors.toml"
    path.write_text('[[survivor]]\nid = "b"\nclass = "nice"\nwhy = ""\n')

    with pytest.raises(MutantError, match="nice"):
        report.survivors(path)


def test_main_list_prints_the_catalogue(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status = main(["catalogue", "--list", "--only", "pcarch", "--results", str(tmp_path / "r.json")])

    assert status == 0
    assert "pcarch-fast-reset  [forgotten in reset]  pcarch  plugins/pc/src" in capsys.readouterr().out


def test_main_unknown_kind_of_mutants_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["faults", "--results", str(tmp_path / "r.json")]) == 2
    assert "'faults' is neither" in capsys.readouterr().err
