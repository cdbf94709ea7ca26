"""CFGM: the configuration tree that everything is built from.

Facts: vmm.md section 10, pdm.md sections 3.7 (unknown keys) and 3.8 (extra data).

A node has children and values, each with names of their own namespace.  Values are INTEGER (an
unsigned 64-bit number; bool, signed and narrower integers are views of it), STRING, BYTES and
PASSWORD.  Paths are names joined by '/'; leading, trailing and repeated slashes mean nothing, and
there is no way upward in a path.  A restricted root is a root for whoever got it: `parent` ends there.

A value may be named by a path: `query_integer("Config/Port")`.  When a node on that path is missing
the error is VERR_CFGM_NO_PARENT, when only the value is, VERR_CFGM_VALUE_NOT_FOUND; a default stands
in for exactly these two.

Nodes are not locked: a tree is built before the VM starts and changed under the VM's lock.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import enum
import logging
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeVar, overload

from attrs import field, frozen

from vbox_pdm import ConfigError

log = logging.getLogger("vbox.CFGM")

D = TypeVar("D")
EXTRA_DATA_PREFIX = "VBoxInternal/"

_MASK64 = (1 << 64) - 1
# Names that XML, logs and a C string can hold.
_NAME = re.compile("[^/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")
_UNSIGNED = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", re.ASCII)


class _Missing(enum.Enum):
    MISSING = 0


MISSING: Final = _Missing.MISSING


class ValueType(enum.Enum):
    """The type of a value; `value` is the word that dumps and XML use."""

    INTEGER = "integer"
    STRING = "string"
    BYTES = "bytes"
    PASSWORD = "password"


@frozen
class Value:
    """One typed value; made by the insert methods, which check it.  Passwords are not in its repr."""

    type: ValueType
    data: int | str | bytes = field(repr=False)


class Conflict(enum.Enum):
    """What a copy does with a value that exists on both sides."""

    FAIL = "fail"
    REPLACE = "replace"
    KEEP = "keep"


class Node:
    """One node of a tree.  `Node()` is the root of a new, empty one."""

    __slots__ = ("_children", "_name", "_parent", "_values", "restricted")

    def __init__(self) -> None:
        self._name = ""
        self._parent: Node | None = None
        self._children: dict[str, Node] = {}
        self._values: dict[str, Value] = {}
        self.restricted = False
        """Whether this node is a restricted root: what is above it cannot be reached from it."""

    # Looking around

    @property
    def name(self) -> str:
        """Its name among its siblings; empty for the root of a tree."""
        return self._name

    @property
    def parent(self) -> Node | None:
        """The node above; None for a root and for a restricted root."""
        return None if self.restricted else self._parent

    @property
    def root(self) -> Node:
        """The topmost node that can be reached."""
        node = self
        while (above := node.parent) is not None:
            node = above
        return node

    @property
    def path(self) -> str:
        """Where it is in the whole tree, for messages: "/Devices/vga/0/"."""
        names = []
        node: Node | None = self
        while node is not None:
            names.append(node._name)
            node = node._parent
        return "/".join(reversed(names)) + "/"

    @property
    def children(self) -> Mapping[str, Node]:
        """The children by name, in the order of their insertion; a view."""
        return MappingProxyType(self._children)

    @property
    def values(self) -> Mapping[str, Value]:
        """The values by name, in the order of their insertion; a view."""
        return MappingProxyType(self._values)

    def child(self, path: str) -> Node:
        """The node at `path`.  Raises ConfigError VERR_CFGM_CHILD_NOT_FOUND."""
        node = self.find(path)
        if node is None:
            raise _error("CHILD_NOT_FOUND", f"There is no node '{path}' in {self.path}")
        return node

    def find(self, path: str) -> Node | None:
        """The node at `path`, or None."""
        node: Node | None = self
        for name in _names(path):
            node = node._children.get(name) if node is not None else None
        return node

    def walk(self) -> Iterator[Node]:
        """This node and all below it, each before its children."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield node
            todo.extend(reversed(node._children.values()))

    def exists(self, name: str) -> bool:
        """Whether there is a value of this name."""
        node, leaf = self._holder(name)
        return node is not None and leaf in node._values

    def equals(self, other: Node) -> bool:
        """Whether both have the same values and children, whatever their order, place and name."""
        if self._values != other._values or self._children.keys() != other._children.keys():
            return False
        return all(child.equals(other._children[name]) for name, child in self._children.items())

    # Queries

    def query(self, name: str) -> Value:
        """The value.  Raises ConfigError VERR_CFGM_NO_PARENT, VERR_CFGM_VALUE_NOT_FOUND."""
        node, leaf = self._holder(name)
        if node is None:
            raise _error("NO_PARENT", f"There is no node for the value '{name}' in {self.path}")
        try:
            return node._values[leaf]
        except KeyError:
            message = f"There is no value '{leaf}' in {node.path}"
            raise _error("VALUE_NOT_FOUND", message, _did_you_mean(leaf, node._values)) from None

    def query_type(self, name: str) -> ValueType:
        """Its type.  Raises as `query`."""
        return self.query(name).type

    def query_size(self, name: str) -> int:
        """Its size in bytes: 8 for an integer, with the final NUL for text.  Raises as `query`."""
        data = self.query(name).data
        if isinstance(data, int):
            return 8
        return len(data) if isinstance(data, bytes) else len(data.encode()) + 1

    @overload
    def query_integer(self, name: str, *, bits: int = 64, signed: bool = False) -> int: ...
    @overload
    def query_integer(self, name: str, *, default: D, bits: int = 64, signed: bool = False) -> int | D: ...
    def query_integer(
        self, name: str, *, default: D | _Missing = MISSING, bits: int = 64, signed: bool = False
    ) -> int | D:
        """The value as an integer of `bits` bits, as two's complement when `signed`.

        Raises as `query` (unless there is a `default`), VERR_CFGM_NOT_INTEGER,
        VERR_CFGM_INTEGER_TOO_BIG.
        """
        found = self._typed(name, ValueType.INTEGER, default)
        if not isinstance(found, Value):
            return found
        number = int(found.data)
        if signed and number >> 63:
            number -= 1 << 64
        low, high = (-1 << bits - 1, (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if not low <= number <= high:
            raise _error(
                "INTEGER_TOO_BIG", f"The value '{name}' in {self.path} is {number}", f"It takes {low}..{high}"
            )
        return number

    @overload
    def query_bool(self, name: str) -> bool: ...
    @overload
    def query_bool(self, name: str, *, default: D) -> bool | D: ...
    def query_bool(self, name: str, *, default: D | _Missing = MISSING) -> bool | D:
        """Whether an integer is not zero.  Raises as `query_integer`."""
        found = self._typed(name, ValueType.INTEGER, default)
        return bool(found.data) if isinstance(found, Value) else found

    def query_port(self, name: str) -> int:
        """An I/O port, 0..0xffff.  Raises as `query_integer`."""
        return self.query_integer(name, bits=16)

    @overload
    def query_string(self, name: str, *, size: int | None = None) -> str: ...
    @overload
    def query_string(self, name: str, *, default: D, size: int | None = None) -> str | D: ...
    def query_string(self, name: str, *, default: D | _Missing = MISSING, size: int | None = None) -> str | D:
        """The text.  Raises as `query`, VERR_CFGM_NOT_STRING, and VERR_CFGM_NOT_ENOUGH_SPACE when it has
        more than `size` bytes of UTF-8 with a final NUL."""
        found = self._typed(name, ValueType.STRING, default)
        if not isinstance(found, Value):
            return found
        self._fits(name, size)
        return str(found.data)

    @overload
    def query_password(self, name: str) -> str: ...
    @overload
    def query_password(self, name: str, *, default: D) -> str | D: ...
    def query_password(self, name: str, *, default: D | _Missing = MISSING) -> str | D:
        """The password.  Raises as `query`, VERR_CFGM_NOT_PASSWORD."""
        found = self._typed(name, ValueType.PASSWORD, default)
        return str(found.data) if isinstance(found, Value) else found

    @overload
    def query_bytes(self, name: str, *, size: int | None = None) -> bytes: ...
    @overload
    def query_bytes(self, name: str, *, default: D, size: int | None = None) -> bytes | D: ...
    def query_bytes(
        self, name: str, *, default: D | _Missing = MISSING, size: int | None = None
    ) -> bytes | D:
        """The bytes.  Raises as `query`, VERR_CFGM_NOT_BYTES, and VERR_CFGM_NOT_ENOUGH_SPACE when there
        are more than `size`."""
        found = self._typed(name, ValueType.BYTES, default)
        if not isinstance(found, Value):
            return found
        self._fits(name, size)
        return found.data if isinstance(found.data, bytes) else b""

    # Editing

    def insert_node(self, path: str) -> Node:
        """A new node; nodes on the way to it are made.  Raises ConfigError VERR_CFGM_NODE_EXISTS,
        VERR_CFGM_INVALID_NODE_PATH."""
        return self._insert(path, Node())

    def ensure_node(self, path: str) -> Node:
        """The node at `path`, made when it is missing.  Raises ConfigError VERR_CFGM_INVALID_NODE_PATH."""
        found = self.find(path)
        return found if found is not None else self.insert_node(path)

    def insert_integer(self, name: str, value: int) -> None:
        """Insert -2**63..2**64-1 (or a bool); a negative one is kept as two's complement.

        This and its sisters raise ConfigError VERR_CFGM_LEAF_EXISTS, VERR_CFGM_INVALID_NODE_PATH, and
        VERR_INVALID_PARAMETER (integers: VERR_CFGM_INTEGER_TOO_BIG) for what cannot be stored.
        """
        if not -(1 << 63) <= value <= _MASK64:
            raise _error("INTEGER_TOO_BIG", f"{value} for '{name}' in {self.path} does not fit 64 bits")
        self._insert_value(name, Value(ValueType.INTEGER, int(value) & _MASK64))

    def insert_string(self, name: str, value: str) -> None:
        """Insert text, which holds no NUL."""
        self._insert_value(name, Value(ValueType.STRING, self._text(name, value)))

    def insert_bytes(self, name: str, value: bytes) -> None:
        """Insert bytes."""
        self._insert_value(name, Value(ValueType.BYTES, bytes(value)))

    def insert_password(self, name: str, value: str) -> None:
        """Insert a text that no dump, log or file shows."""
        self._insert_value(name, Value(ValueType.PASSWORD, self._text(name, value)))

    def insert(self, name: str, value: int | str | bytes) -> None:
        """Insert an integer, a string or bytes, by the type of `value`."""
        if isinstance(value, str):
            self.insert_string(name, value)
        elif isinstance(value, int):
            self.insert_integer(name, value)
        else:
            self.insert_bytes(name, value)

    def replace(self, name: str, value: int | str | bytes) -> None:
        """As `insert`, whether or not a value of this name exists; when refused, the old one stays."""
        trial = Node()
        trial.insert(name, value)
        self._check_name(name)
        self._values[name] = trial._values[name]

    def remove_value(self, name: str) -> None:
        """Raises ConfigError VERR_CFGM_VALUE_NOT_FOUND."""
        if self._values.pop(name, None) is None:
            raise _error("VALUE_NOT_FOUND", f"There is no value '{name}' in {self.path}")

    def remove(self) -> None:
        """Cut this node off its tree; it becomes a tree of its own.  A root stays what it is."""
        if self._parent is not None:
            del self._parent._children[self._name]
            self._parent = None
            self._name = ""

    def duplicate(self) -> Node:
        """A copy of this node and all below it, as a tree of its own."""
        copy = Node()
        copy.copy_from(self, Conflict.FAIL)
        copy.restricted = self.restricted
        return copy

    def insert_subtree(self, path: str, tree: Node) -> Node:
        """Put the root `tree` itself (no copy) at `path` and return it.

        Raises ConfigError VERR_CFGM_NODE_EXISTS, VERR_CFGM_INVALID_NODE_PATH, and
        VERR_INVALID_PARAMETER when `tree` is no root or contains this node.
        """
        self._require_foreign_root(tree)
        return self._insert(path, tree)

    def replace_subtree(self, tree: Node) -> None:
        """Take over the values and children of the root `tree`, which is left empty.

        Raises ConfigError VERR_INVALID_PARAMETER as `insert_subtree`.
        """
        self._require_foreign_root(tree)
        self._values, self._children = tree._values, tree._children
        tree._values, tree._children = {}, {}
        for child in self._children.values():
            child._parent = self

    def copy_from(self, source: Node, conflict: Conflict = Conflict.FAIL) -> None:
        """Merge copies of the values and children of `source` into this node.

        Nodes that both have are merged.  For values that both have `conflict` decides; FAIL raises
        ConfigError VERR_CFGM_LEAF_EXISTS before anything is changed.
        """
        if conflict is Conflict.FAIL:
            self._require_no_conflict(source)
        # Snapshots: source may lie below this node, or be it.
        values, children = list(source._values.items()), list(source._children.items())
        for name, value in values:
            if conflict is Conflict.REPLACE or name not in self._values:
                self._values[name] = value
        for name, child in children:
            mine = self._children.get(name)
            if mine is None:
                # Copied before it is hung in, so that a node copied into itself ends.
                copy = Node()
                copy.copy_from(child, conflict)
                copy.restricted = child.restricted
                self._insert(name, copy)
            elif mine is not child:
                mine.copy_from(child, conflict)

    # Checks

    def validate(self, values: str, nodes: str, who: str, instance: int | None = None) -> None:
        """Refuse values and children that no pattern matches.

        `values` and `nodes` are patterns as `matches` takes them.  `who` (and `instance`) name the
        owner in the error: ConfigError VERR_CFGM_CONFIG_UNKNOWN_VALUE, VERR_CFGM_CONFIG_UNKNOWN_NODE.
        """
        owner = who if instance is None else f"{who} instance #{instance}"
        checks = (("value", self._values, values), ("node", self._children, nodes))
        for kind, names, patterns in checks:
            for name in names:
                if not matches(name, patterns):
                    known = [part for part in patterns.split("|") if part]
                    raise _error(
                        f"CONFIG_UNKNOWN_{kind.upper()}",
                        f"Unknown configuration {kind} '/{name}' found in the configuration of {owner}",
                        f"{_did_you_mean(name, known)}Known {kind}s: {', '.join(known) or 'none'}",
                    )

    # Text

    def dump(self) -> str:
        """This node and all below it in the format of `info cfgm`, sorted by name; no passwords."""
        lines: list[str] = []
        self._dump(lines, 0)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Node {self.path}>"

    # Machinery

    def _dump(self, lines: list[str], level: int) -> None:
        restricted = " (restricted root)" if self.restricted else ""
        lines.append(f"[{self.path}] (level {level}){restricted}")
        width = max(map(len, self._values), default=0)
        lines.extend(f"  {name:<{width}} {_dumped(value)}" for name, value in sorted(self._values.items()))
        lines.append("")
        for _name, child in sorted(self._children.items()):
            child._dump(lines, level + 1)

    def _holder(self, name: str) -> tuple[Node | None, str]:
        path, _, leaf = name.rpartition("/")
        return (self.find(path) if path else self), leaf

    def _typed(self, name: str, kind: ValueType, default: D | _Missing) -> Value | D:
        try:
            value = self.query(name)
        except ConfigError:
            if default is MISSING:
                raise
            return default
        if value.type is not kind:
            raise _error(
                f"NOT_{kind.name}",
                f"The value '{name}' in {self.path} is of type {value.type.value}",
                f"It takes {kind.value}",
            )
        return value

    def _fits(self, name: str, size: int | None) -> None:
        have = self.query_size(name)
        if size is not None and have > size:
            raise _error(
                "NOT_ENOUGH_SPACE", f"The value '{name}' in {self.path} has {have} bytes, not {size}"
            )

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise _error(
                "INVALID_NODE_PATH",
                f"{name!r} is no name for anything in {self.path}",
                "A name is not empty and has neither '/' nor control characters",
            )

    def _text(self, name: str, value: str) -> str:
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(
                "VERR_INVALID_PARAMETER",
                f"The text for '{name}' in {self.path} holds a NUL or a lone surrogate",
            )
        return str(value)

    def _insert_value(self, name: str, value: Value) -> None:
        self._check_name(name)
        if name in self._values:
            raise _error("LEAF_EXISTS", f"There is a value '{name}' in {self.path} already")
        self._values[name] = value

    def _insert(self, path: str, tree: Node) -> Node:
        names = list(_names(path))
        if not names:
            raise _error("INVALID_NODE_PATH", f"'{path}' names no node below {self.path}")
        for name in names:
            self._check_name(name)
        if self.find(path) is not None:
            raise _error("NODE_EXISTS", f"There is a node '{path}' in {self.path} already")
        node = self
        for name in names[:-1]:
            below = node._children.get(name)
            node = below if below is not None else node._insert(name, Node())
        tree._name, tree._parent = names[-1], node
        node._children[tree._name] = tree
        return tree

    def _require_foreign_root(self, tree: Node) -> None:
        node: Node | None = self
        while node is not None and node is not tree:
            node = node._parent
        if tree._parent is not None or node is tree:
            raise ConfigError(
                "VERR_INVALID_PARAMETER",
                f"{tree.path} cannot move to {self.path}: it is part of a tree",
                "Cut it off with remove(), or take its duplicate()",
            )

    def _require_no_conflict(self, source: Node) -> None:
        for name in source._values:
            if name in self._values:
                raise _error("LEAF_EXISTS", f"There is a value '{name}' in {self.path} already")
        for name, child in source._children.items():
            mine = self._children.get(name)
            if mine is not None:
                mine._require_no_conflict(child)


def matches(name: str, patterns: str) -> bool:
    """Whether one of the '|'-separated `patterns` ('*': any text, '?': one character) fits `name`."""
    return _compiled(patterns).fullmatch(name) is not None


def apply_extra_data(root: Node, *mappings: Mapping[str, str]) -> None:
    """Write extra data `VBoxInternal/<path>/<value>` into the tree; a later mapping beats an earlier.

    The text is `string:`..., `integer:`... (decimal, 0x, or 0 for octal) or `bytes:` and base64.
    Without a prefix an unsigned integer literal is an integer, all else a string.  An empty text
    deletes the value.  Keys with another beginning are left alone.  Raises ConfigError
    VERR_INVALID_PARAMETER or VERR_CFGM_* naming the key; the tree is then partly overridden.
    """
    pairs = [pair for mapping in mappings for pair in mapping.items()]
    overrides = [(key, text) for key, text in pairs if key.startswith(EXTRA_DATA_PREFIX)]
    if overrides:
        log.info("CFGM: Extradata overrides:")
    for key, text in overrides:
        log.info('CFGM:   %s="%s"', key, text)
        path, _, name = key[len(EXTRA_DATA_PREFIX) :].rpartition("/")
        if not text:
            node = root.find(path)
            if node is not None and name in node.values:
                node.remove_value(name)
            continue
        value = _extra_value(key, text)
        if not _NAME.fullmatch(name):
            raise _error(
                "INVALID_NODE_PATH", f"Extra data '{key}' names no value", "End it with a value's name"
            )
        (root.ensure_node(path) if path.strip("/") else root).replace(name, value)


def _extra_value(key: str, text: str) -> int | str | bytes:
    kind, colon, rest = text.partition(":")
    if colon and kind == "string":
        return rest
    if colon and kind == "integer":
        sign = -1 if rest.startswith("-") else 1
        if not _UNSIGNED.fullmatch(rest[1:] if sign < 0 else rest):
            raise _bad_extra(key, text, "an integer", "Write integer:10, integer:0xa or integer:012")
        number = sign * _c_integer(rest.lstrip("-"))
        if not -(1 << 63) <= number <= _MASK64:
            raise _error("INTEGER_TOO_BIG", f"Extra data '{key}' is '{text}', which does not fit 64 bits")
        return number
    if colon and kind == "bytes":
        try:
            return base64.b64decode("".join(rest.split()), validate=True)
        except (binascii.Error, ValueError):
            raise _bad_extra(key, text, "base64", "Encode the bytes with base64") from None
    if _UNSIGNED.fullmatch(text) and (number := _c_integer(text)) <= _MASK64:
        return number
    return text


def _c_integer(text: str) -> int:
    if len(text) > 32:
        return _MASK64 + 1  # too big in any base
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text, 8 if text.startswith("0") else 10)


def _bad_extra(key: str, text: str, wanted: str, remedy: str) -> ConfigError:
    return ConfigError(
        "VERR_INVALID_PARAMETER", f"Extra data '{key}' is '{text}', which is not {wanted}", remedy
    )


def _names(path: str) -> Iterator[str]:
    return (name for name in path.split("/") if name)


def _dumped(value: Value) -> str:
    data = value.data
    if value.type is ValueType.PASSWORD:
        return '<password>= "***REDACTED***"'
    if isinstance(data, int):
        mib = data >> 20
        size = f", {mib} MiB" if mib and mib << 20 == data else ""
        return f"<integer> = {data:#018x} ({data}{size})"
    if isinstance(data, bytes):
        return f'<bytes>   = "{data.hex(" ")}" (cb={len(data)})'
    return f'<string>  = "{data}" (cb={len(data.encode()) + 1})'


def _error(name: str, message: str, remedy: str = "") -> ConfigError:
    return ConfigError(f"VERR_CFGM_{name}", message, remedy)


def _did_you_mean(name: str, known: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{close[0]}'? " if close else ""


@lru_cache(maxsize=512)
def _compiled(patterns: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    parts = ("".join(wild.get(letter, re.escape(letter)) for letter in part) for part in patterns.split("|"))
    return re.compile("|".join(f"(?:{part})" for part in parts if part) or "(?!)", re.DOTALL)
