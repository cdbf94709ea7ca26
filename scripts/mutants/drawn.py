"""Mutants by chance: small changes at places of the source that a seed chooses.

Each kind of change gets the same share.  A place is known by its function and its line's text, not by
its number, and the choice is by a hash of that and the seed: an edit elsewhere in the file draws
the same mutants again.

Left alone is what does not act: docstrings and other texts, annotations, register maps (declarations,
which the catalogue's faults contradict), log messages, what is raised, `pdm_info`, registration.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen

from mutants.mutant import DRAWN, ROOT, Edit, Mutant, read_source
from mutants.sources import distributions, types_by_module

MASK, CONSTANT, CONDITION, AND_OR, NOT, COMPARISON, OPERATOR, DELETION, RETURN = KINDS = (
    "mask",
    "constant",
    "condition",
    "and/or",
    "not",
    "comparison",
    "operator",
    "deleted statement",
    "early return",
)
_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
}
_OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.Mult: ("*", "//"),
    ast.FloorDiv: ("//", "*"),
}
_FORGETFUL = re.compile(
    r"reset|save|load|write|power_on|clear|recover|attach|detach|resume|suspend|destruct|receive|set_"
)
"""Functions in which a statement may be deleted."""
_FOR_PEOPLE = re.compile(r"pdm_info|describe|vbox_register_\w+|vbox_conformance_\w+|__repr__")
_FOR_THE_KIT = ("conformance",)
"""Modules that only stand in for others while a type is checked."""
_CONSTRUCTORS = ("__init__", "pdm_construct")
_TEXTS = ("help", "summary", "name")
"""Keywords of calls that hold text for people."""


@frozen
class Site:
    """A change that could be made."""

    kind: str
    edit: Edit
    function: str
    id: str
    file: str = ""
    names: tuple[str, ...] = field(default=(), eq=False)


def draw(count: int, seed: int, root: Path = ROOT) -> list[Mutant]:
    """`count` mutants, or as many as there are."""
    by_kind: dict[str, list[Site]] = {kind: [] for kind in KINDS}
    sources: dict[str, str] = {}
    for site in all_sites(seed, root):
        by_kind[site.kind].append(site)
    order = [iter(sorted(sites, key=lambda site: _chance(seed, site.id))) for sites in by_kind.values()]
    found: list[Mutant] = []
    taken: set[tuple[str, int, int]] = set()
    for site in _in_turn(order):
        if len(found) >= count:
            break
        place = (site.file, site.edit.start, site.edit.end)
        if site.file not in sources:
            sources[site.file] = read_source(root / site.file)
        mutant = _mutant(site, sources[site.file])
        if place not in taken and _compiles(mutant.applied(sources[site.file])):
            taken.add(place)
            found.append(mutant)
    return found


def _in_turn(order: list[Iterator[Site]]) -> Iterator[Site]:
    while order:
        for each in list(order):
            site = next(each, None)
            if site is None:
                order.remove(each)
            else:
                yield site


def _mutant(site: Site, source: str) -> Mutant:
    edit = site.edit
    old, new = source[edit.start : edit.end].split("\n")[0], edit.new.split("\n")[0]
    text = f"{site.function}: {old or '(nothing)'} -> {new}"
    return Mutant(site.id, DRAWN, site.kind, site.names, site.file, (edit,), text)


def _chance(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def all_sites(seed: int, root: Path = ROOT) -> Iterator[Site]:
    """Every change that could be made in a module of a type."""
    for distribution in distributions(root):
        modules, types = distribution.modules(), types_by_module(distribution)
        for module, names in sorted(types.items()):
            path = modules[module]
            if path.stem in _FOR_THE_KIT:
                continue
            file = path.relative_to(root).as_posix()
            for site in sites(read_source(path), file, seed):
                yield Site(site.kind, site.edit, site.function, site.id, file, names)


def sites(source: str, file: str, seed: int = 0) -> list[Site]:
    """Every change that could be made in a source; `seed` chooses where a change can be done in
    several ways."""
    collector = _Collector(source, file, seed)
    collector.visit(ast.parse(source))
    return collector.found


class _Collector(ast.NodeVisitor):
    """Walks a module and notes what could be changed."""

    def __init__(self, source: str, file: str, seed: int) -> None:
        self.source = source
        self.file = file
        self.seed = seed
        self.found: list[Site] = []
        self._lines = source.splitlines(keepends=True)
        self._starts = [0, *itertools.accumulate(len(line) for line in self._lines)]
        self._scope: list[str] = []
        self._seen: dict[str, int] = {}

    # --- places in the text

    def _at(self, line: int, column: int) -> int:
        """Columns of `ast` count bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self.source[self._start(node) : self._end(node)]

    def _note(self, kind: str, start: int, end: int, *choices: str) -> None:
        """A change, in one of several ways."""
        function = ".".join(self._scope) or "module"
        first = self.source.rfind("\n", 0, start) + 1
        line = self.source[first : self.source.find("\n", start)]
        column = start - first - (len(line) - len(line.lstrip()))
        place = f"{self.file}|{function}|{kind}|{line.strip()}|{column}"
        self._seen[place] = again = self._seen.get(place, 0) + 1
        place += f"|{again}"
        new = random.Random(_chance(self.seed, place)).choice(choices)
        mark = hashlib.sha256(f"{place}|{new}".encode()).hexdigest()[:6]
        name = f"{Path(self.file).stem}:{function}:{kind.replace(' ', '-')}:{mark}"
        self.found.append(Site(kind, Edit(start, end, new), function, name))

    def _note_token(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """The operator between two operands, which `ast` has no place for."""
        first, last = self._end(left), self._start(right)
        gap = self.source[first:last]
        pattern = rf"\b{old}\b" if old.isalpha() else rf"(?<![<>=!]){re.escape(old)}(?![<>=])"
        places = list(re.finditer(pattern, gap))
        if len(places) == 1 and "#" not in gap:
            self._note(kind, first + places[0].start(), first + places[0].end(), new)

    # --- scopes, and what is left alone

    def visit_Module(self, node: ast.Module) -> None:
        """Up to the registration: what stands behind it is for the conformance kit."""
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name.startswith("vbox_register_"):
                break
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(isinstance(base, ast.Name) and base.id.endswith("RegisterMap") for base in node.bases):
            return
        self._scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if _FOR_PEOPLE.fullmatch(node.name):
            return
        self._scope.append(node.name)
        for default in [*node.args.defaults, *(each for each in node.args.kw_defaults if each is not None)]:
            self.visit(default)
        self._returns(node)
        for statement in node.body:
            self.visit(statement)
        self._scope.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if _logs(node):
            return
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in _TEXTS:
                self.visit(keyword.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        return

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        return

    # --- changes of expressions

    def visit_Constant(self, node: ast.Constant) -> None:
        self._constant(node, CONSTANT)

    def _constant(self, node: ast.Constant, kind: str) -> None:
        value = node.value
        if type(value) is not int:
            return
        bit = random.Random(_chance(self.seed, f"{self.file}{value}{node.col_offset}")).randrange(
            max(1, value.bit_length())
        )
        others = {value + 1, value ^ 1 << bit} | ({value - 1} if value else set())
        text = self._text(node)
        digits = len(text) - 2
        ways = [f"0x{other:0{digits}X}" if text.startswith("0x") else str(other) for other in sorted(others)]
        self._note(kind, self._start(node), self._end(node), *ways)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        bits = isinstance(node.op, ast.BitAnd | ast.BitOr | ast.BitXor)
        for side in (node.left, node.right):
            if bits and isinstance(side, ast.Constant):
                self._constant(side, MASK)
            else:
                self.visit(side)
        tokens = _OPERATORS.get(type(node.op))
        if tokens is not None and not (_no_number(node.left) or _no_number(node.right)):
            self._note_token(OPERATOR, node.left, node.right, *tokens)

    def visit_Compare(self, node: ast.Compare) -> None:
        self.generic_visit(node)
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
            tokens = _COMPARISONS.get(type(operator))
            if tokens is not None:
                self._note_token(COMPARISON, left, right, *tokens)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.generic_visit(node)
        both = isinstance(node.op, ast.And)
        for left, right in itertools.pairwise(node.values):
            self._note_token(AND_OR, left, right, *(("and", "or") if both else ("or", "and")))
        for value in node.values:
            self._note(CONDITION, self._start(value), self._end(value), "True" if both else "False")

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            operand = self._text(node.operand)
            self._note(NOT, self._start(node), self._end(node), f"({operand})")

    def visit_If(self, node: ast.If) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Constant | ast.UnaryOp):
            self._note(CONDITION, self._start(test), self._end(test), f"not ({self._text(test)})")

    # --- changes of statements

    def visit_Assign(self, node: ast.Assign) -> None:
        self._delete(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._delete(node)
        tokens = _OPERATORS.get(type(node.op))
        if tokens is not None and not _no_number(node.value):
            old, new = tokens
            first, last = self._end(node.target), self._start(node.value)
            place = self.source.find(f"{old}=", first, last)
            if place >= 0:
                self._note(OPERATOR, place, place + len(old), new)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not _logs(node.value):
            self._delete(node)
        self.generic_visit(node)

    def _delete(self, node: ast.stmt) -> None:
        name = self._scope[-1] if self._scope else ""
        if _FORGETFUL.search(name) and name not in _CONSTRUCTORS:
            self._note(DELETION, self._start(node), self._end(node), "pass")

    def _returns(self, node: ast.FunctionDef) -> None:
        """The rest of a function that returns nothing is left out."""
        nothing = node.returns is None or (
            isinstance(node.returns, ast.Constant) and node.returns.value is None
        )
        if not nothing or node.name in _CONSTRUCTORS:
            return
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        for statement in body[1:]:
            start = self._start(statement)
            if not isinstance(statement, ast.Return | ast.Raise):
                self._note(RETURN, start, start, f"return\n{' ' * statement.col_offset}")


def _logs(call: ast.Call) -> bool:
    """Whether it is a call such as `self.helpers.log.warning(...)`."""
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute):
        node = node.value
        if isinstance(node, ast.Attribute | ast.Name) and (
            node.attr if isinstance(node, ast.Attribute) else node.id
        ) in ("log", "_warn"):
            return True
    return isinstance(call.func, ast.Attribute) and call.func.attr in ("_warn", "warn")


def _no_number(node: ast.expr) -> bool:
    """Whether an operand is certainly text, bytes or a list."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("bytes", "bytearray", "tuple", "list")
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp | ast.Dict)
