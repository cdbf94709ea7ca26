"""Which expressions of a thunk have a value that is known when it is compiled."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%", ast.BitAnd: "&",
    ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
"""Of the subset, as they are written."""

_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.LShift: operator.lshift, ast.RShift: operator.rshift,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[int], int]] = {
    ast.Not: operator.not_, ast.USub: operator.neg, ast.Invert: operator.invert, ast.UAdd: operator.pos,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


def fold(node: ast.expr, lookup: Callable[[str], object]) -> int | None:
    """The number, or None; `lookup` says what a name stands for, None for a variable."""
    if isinstance(node, ast.Constant):
        return int(node.value) if isinstance(node.value, int) else None
    if isinstance(node, ast.Name):
        value = lookup(node.id)
        return int(value) if isinstance(value, int) else None
    if isinstance(node, ast.UnaryOp):
        operand = fold(node.operand, lookup)
        return None if operand is None else _UNARY[type(node.op)](operand)
    if isinstance(node, ast.BinOp):
        left, right = fold(node.left, lookup), fold(node.right, lookup)
        return None if left is None or right is None else _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
        left, right = fold(node.left, lookup), fold(node.comparators[0], lookup)
        return None if left is None or right is None else _COMPARE[type(node.ops[0])](left, right)
    return None
