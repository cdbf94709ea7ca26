"""CFGM: names, paths, queries, editing, checks, dump, extra data (vmm.md 10, pdm.md 3.7 and 3.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import ConfigError
from vbox_vmm.cfgm import Conflict, Node, ValueType, apply_extra_data, matches

NAMES = st.text(
    st.characters(exclude_characters="/\ufffe\uffff", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VALUES = st.one_of(st.integers(0, 2**64 - 1), TEXTS, st.binary(max_size=12))
Plain: TypeAlias = "tuple[dict[str, int | str | bytes], dict[str, Plain]]"
PLAIN_TREES: st.SearchStrategy[Plain] = st.recursive(
    st.tuples(st.dictionaries(NAMES, VALUES, max_size=4), st.just({})),
    lambda inner: st.tuples(
        st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, inner, max_size=3)
    ),
    max_leaves=8,
)


def build(plain: Plain) -> Node:
    node = Node()
    for name, value in plain[0].items():
        node.insert(name, value)
    for name, child in plain[1].items():
        node.insert_subtree(name, build(child))
    return node


TREES = st.builds(build, PLAIN_TREES)


def status_of(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value.status


@pytest.fixture
def tree() -> Node:
    root = Node()
    root.insert_string("Name", "Test VM")
    root.insert_integer("RamSize", 128 << 20)
    config = root.insert_node("Devices/serial/0/Config")
    config.insert_integer("IRQ", 4)
    config.insert_bytes("MAC", b"\x08\x00\x27")
    config.insert_password("Secret", "hunter2")
    return root


def test_child_slashes_leading_doubled_trailing_are_tolerated(tree: Node) -> None:
    assert tree.child("//Devices///serial/0/") is tree.child("Devices").child("serial/0")
    assert tree.child("/") is tree


def test_child_missing_raises_child_not_found(tree: Node) -> None:
    assert status_of(lambda: tree.child("Devices/vga")) == "VERR_CFGM_CHILD_NOT_FOUND"
    assert tree.find("Devices/vga/0") is None


def test_query_by_path_missing_node_and_missing_value_differ(tree: Node) -> None:
    assert tree.query_integer("Devices/serial/0/Config/IRQ") == 4
    assert status_of(lambda: tree.query_integer("Devices/vga/IRQ")) == "VERR_CFGM_NO_PARENT"
    assert status_of(lambda: tree.query_integer("Devices/IRQ")) == "VERR_CFGM_VALUE_NOT_FOUND"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("integer", "INTEGER"),
        ("bool", "INTEGER"),
        ("string", "STRING"),
        ("bytes", "BYTES"),
        ("password", "PASSWORD"),
    ],
)
def test_query_wrong_type_raises_even_with_default(tree: Node, query: str, wanted: str) -> None:
    config = tree.child("Devices/serial/0/Config")
    wrong = "IRQ" if wanted != "INTEGER" else "MAC"
    ask = getattr(config, f"query_{query}")
    assert status_of(lambda: ask(wrong)) == f"VERR_CFGM_NOT_{wanted}"
    assert status_of(lambda: ask(wrong, default=None)) == f"VERR_CFGM_NOT_{wanted}"
    assert ask("Absent", default=None) is None
    assert ask("No/Such/Node", default=None) is None


@given(value=st.integers(-(2**63), 2**64 - 1), bits=st.sampled_from([8, 16, 32, 64]), signed=st.booleans())
def test_query_integer_any_width_gives_the_value_or_too_big(value: int, bits: int, signed: bool) -> None:
    node = Node()
    node.insert_integer("V", value)
    raw = value % 2**64
    seen = raw - 2**64 if signed and raw >= 2**63 else raw
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if low <= seen <= high:
        assert node.query_integer("V", bits=bits, signed=signed) == seen
    else:
        ask = lambda: node.query_integer("V", default=7, bits=bits, signed=signed)  # noqa: E731
        assert status_of(ask) == "VERR_CFGM_INTEGER_TOO_BIG"


def test_query_bool_any_non_zero_is_true() -> None:
    node = Node()
    for name, value in {"A": 0, "B": 1, "C": 2**63}.items():
        node.insert_integer(name, value)
    assert [node.query_bool(name) for name in "ABC"] == [False, True, True]


def test_query_with_size_too_small_raises_not_enough_space(tree: Node) -> None:
    assert tree.query_string("Name", size=8) == "Test VM"
    assert status_of(lambda: tree.query_string("Name", size=7)) == "VERR_CFGM_NOT_ENOUGH_SPACE"
    config = tree.child("Devices/serial/0/Config")
    assert status_of(lambda: config.query_bytes("MAC", size=2)) == "VERR_CFGM_NOT_ENOUGH_SPACE"
    assert (tree.query_size("Name"), tree.query_size("RamSize"), config.query_size("MAC")) == (8, 8, 3)
    assert tree.query_type("Name") is ValueType.STRING


def test_query_misspelt_name_suggests_the_right_one(tree: Node) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'RamSize'"):
        tree.query_integer("RamSiz")


def test_insert_existing_name_raises_per_kind(tree: Node) -> None:
    assert status_of(lambda: tree.insert_node("Devices/serial")) == "VERR_CFGM_NODE_EXISTS"
    assert status_of(lambda: tree.insert_string("Name", "x")) == "VERR_CFGM_LEAF_EXISTS"
    tree.insert_node("Name")  # nodes and values have namespaces of their own
    assert tree.query_string("Name") == "Test VM"


@pytest.mark.parametrize("name", ["", "a/b", "a\0", "\n", "\ud800"])
def test_insert_value_bad_name_is_refused(name: str) -> None:
    assert status_of(lambda: Node().insert_integer(name, 1)) == "VERR_CFGM_INVALID_NODE_PATH"


def test_insert_node_bad_name_changes_nothing() -> None:
    root = Node()
    assert status_of(lambda: root.insert_node("a/b\n/c")) == "VERR_CFGM_INVALID_NODE_PATH"
    assert status_of(lambda: root.insert_node("//")) == "VERR_CFGM_INVALID_NODE_PATH"
    assert not root.children


def test_insert_unstorable_values_are_refused() -> None:
    assert status_of(lambda: Node().insert_integer("V", 2**64)) == "VERR_CFGM_INTEGER_TOO_BIG"
    assert status_of(lambda: Node().insert_string("V", "a\0b")) == "VERR_INVALID_PARAMETER"


def test_restricted_root_cannot_be_left(tree: Node) -> None:
    config = tree.child("Devices/serial/0/Config")
    below = config.insert_node("Sub")
    config.restricted = True
    assert config.parent is None
    assert below.root is config
    assert config.find("..") is None
    assert config.path == "/Devices/serial/0/Config/"
    assert tree.child("Devices/serial").parent is tree.child("Devices")


def test_replace_refused_keeps_the_old_value(tree: Node) -> None:
    tree.replace("RamSize", 1)
    assert status_of(lambda: tree.replace("RamSize", -(2**70))) == "VERR_CFGM_INTEGER_TOO_BIG"
    assert tree.query_integer("RamSize") == 1


def test_remove_node_becomes_a_tree_of_its_own(tree: Node) -> None:
    serial = tree.child("Devices/serial")
    serial.remove()
    assert tree.find("Devices/serial") is None
    assert (serial.parent, serial.name, serial.path) == (None, "", "/")
    tree.insert_subtree("Again/serial", serial)
    assert tree.query_integer("Again/serial/0/Config/IRQ") == 4


def test_insert_subtree_into_itself_or_from_inside_a_tree_is_refused(tree: Node) -> None:
    devices = tree.child("Devices")
    assert status_of(lambda: tree.insert_subtree("X", devices)) == "VERR_INVALID_PARAMETER"
    assert status_of(lambda: devices.insert_subtree("X", tree)) == "VERR_INVALID_PARAMETER"
    assert status_of(lambda: tree.insert_subtree("X", tree)) == "VERR_INVALID_PARAMETER"


def test_replace_subtree_moves_the_contents(tree: Node) -> None:
    fresh = Node()
    fresh.insert_node("a").insert_integer("v", 1)
    tree.replace_subtree(fresh)
    assert tree.query_integer("a/v") == 1
    assert tree.child("a").parent is tree
    assert not tree.values
    assert not fresh.children


@given(tree=TREES)
def test_duplicate_any_tree_is_equal_and_independent(tree: Node) -> None:
    copy = tree.duplicate()
    assert copy.equals(tree)
    assert tree.equals(copy)
    for node in list(copy.walk()):
        node.replace("changed", 1)
    assert not any(node.exists("changed") and node.query("changed").data == 1 for node in tree.walk())


@given(mine=TREES, theirs=TREES)
def test_copy_from_any_trees_keeps_or_replaces_as_asked(mine: Node, theirs: Node) -> None:
    kept, replaced = mine.duplicate(), mine.duplicate()
    kept.copy_from(theirs, Conflict.KEEP)
    replaced.copy_from(theirs, Conflict.REPLACE)
    for result, winner, loser in ((kept, mine, theirs), (replaced, theirs, mine)):
        for node in winner.walk():
            twin = result.child(node.path)
            assert all(twin.query(name) == value for name, value in node.values.items())
        for node in loser.walk():
            twin = result.child(node.path)
            assert all(twin.exists(name) for name in node.values)


@given(mine=TREES, theirs=TREES)
def test_copy_from_with_conflict_fails_before_any_change(mine: Node, theirs: Node) -> None:
    before = mine.duplicate()
    try:
        mine.copy_from(theirs)
    except ConfigError as error:
        assert error.status == "VERR_CFGM_LEAF_EXISTS"  # noqa: PT017 (it need not be raised)
        assert mine.equals(before)


def test_copy_from_own_root_ends(tree: Node) -> None:
    tree.child("Devices").copy_from(tree, Conflict.KEEP)
    assert tree.query_string("Devices/Name") == "Test VM"


@given(tree=TREES)
def test_walk_any_tree_visits_each_node_once_parents_first(tree: Node) -> None:
    seen: set[int] = set()
    for node in tree.walk():
        assert id(node) not in seen
        assert node.parent is None or id(node.parent) in seen
        assert tree.child(node.path) is node
        seen.add(id(node))


def test_validate_unknown_value_names_it_and_the_owner(tree: Node) -> None:
    config = tree.child("Devices/serial/0/Config")
    config.insert_integer("Foo", 1)
    with pytest.raises(ConfigError) as caught:
        config.validate("IRQ|MAC|Secret", "", "serial", 0)
    assert caught.value.status == "VERR_CFGM_CONFIG_UNKNOWN_VALUE"
    assert (
        caught.value.message
        == "Unknown configuration value '/Foo' found in the configuration of serial instance #0"
    )


def test_validate_unknown_node_and_wildcards(tree: Node) -> None:
    tree.validate("Name|Ram*", "D?vices", "VM")
    assert status_of(lambda: tree.validate("*", "X|Y*", "VM")) == "VERR_CFGM_CONFIG_UNKNOWN_NODE"
    assert status_of(lambda: tree.validate("", "*", "VM")) == "VERR_CFGM_CONFIG_UNKNOWN_VALUE"


def test_matches_brackets_are_plain_characters() -> None:
    assert matches("LUN#[0]", "LUN#[?]")
    assert not matches("LUN#0", "LUN#[0]")


def test_dump_whole_tree_has_the_format_of_info_cfgm(tree: Node) -> None:
    tree.child("Devices/serial/0/Config").restricted = True
    lines = tree.dump().splitlines()
    assert lines[:4] == [
        "[/] (level 0)",
        '  Name    <string>  = "Test VM" (cb=8)',
        "  RamSize <integer> = 0x0000000008000000 (134217728, 128 MiB)",
        "",
    ]
    assert "[/Devices/serial/0/Config/] (level 4) (restricted root)" in lines
    assert "  IRQ    <integer> = 0x0000000000000004 (4)" in lines
    assert '  MAC    <bytes>   = "08 00 27" (cb=3)' in lines
    assert '  Secret <password>= "***REDACTED***"' in lines
    assert "hunter2" not in tree.dump() + repr(tree.child("Devices/serial/0/Config").query("Secret"))


def test_apply_extra_data_text_forms_become_types() -> None:
    root = Node()
    apply_extra_data(
        root,
        {
            "VBoxInternal/Devices/x/0/Config/A": "integer:0x10",
            "VBoxInternal/Devices/x/0/Config/B": "string:5",
            "VBoxInternal/Devices/x/0/Config/C": "bytes:CAAn",
            "VBoxInternal/Devices/x/0/Config/D": "017",
            "VBoxInternal/Devices/x/0/Config/E": "-5",
            "VBoxInternal/Devices/x/0/Config/F": "integer:-1",
            "VBoxInternal/Devices/x/0/Config/G": "99999999999999999999",
            "VBoxInternal/Top": "7",
            "VBoxInternal2/Other": "1",
            "GUI/Other": "1",
        },
    )
    config = root.child("Devices/x/0/Config")
    values = {name: value.data for name, value in config.values.items()}
    assert values == {
        "A": 16,
        "B": "5",
        "C": b"\x08\x00\x27",
        "D": 15,
        "E": "-5",
        "F": 2**64 - 1,
        "G": "99999999999999999999",
    }
    assert [*root.values, *root.children] == ["Top", "Devices"]


def test_apply_extra_data_machine_beats_global_and_empty_deletes(tree: Node) -> None:
    apply_extra_data(
        tree,
        {"VBoxInternal/RamSize": "1", "VBoxInternal/New/Gone": "2"},
        {"VBoxInternal/RamSize": "string:x", "VBoxInternal/New/Gone": "", "VBoxInternal/None/V": ""},
    )
    assert tree.query_string("RamSize") == "x"
    assert not tree.exists("New/Gone")
    assert tree.find("None") is None


@pytest.mark.parametrize(
    "text", ["integer:", "integer:x", "integer:09", "integer:0x1" + "0" * 17, "bytes:*", "bytes:a"]
)
def test_apply_extra_data_bad_text_names_the_key(text: str) -> None:
    with pytest.raises(ConfigError, match="VBoxInternal/a/b"):
        apply_extra_data(Node(), {"VBoxInternal/a/b": text})


@given(keys=st.dictionaries(TEXTS.map(lambda text: "VBoxInternal/" + text), TEXTS, max_size=4))
def test_apply_extra_data_any_text_works_or_raises_config_error(keys: dict[str, str]) -> None:
    try:
        apply_extra_data(Node(), keys)
    except ConfigError as error:
        assert error.status.startswith("VERR_")  # noqa: PT017 (it need not be raised)
