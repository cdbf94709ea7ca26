"""Files of the host that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbox_pdm.errors import PdmError
from vbox_vmm import hostfiles
from vbox_vmm.cfgm import Node


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.delenv(hostfiles.VARIABLE, raising=False)
    monkeypatch.setattr(hostfiles, "DEBIAN", ())
    return Node()


def test_find_looks_at_the_configured_folders_first(
    tree: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
    (tmp_path / "two/bios.bin").write_bytes(b"2")
    (tmp_path / "three/bios.bin").write_bytes(b"3")
    monkeypatch.setenv(hostfiles.VARIABLE, str(tmp_path / "three"))
    tree.ensure_node("Firmware").insert("Path", f"{tmp_path / 'one'}:{tmp_path / 'two'}")

    assert hostfiles.read(tree, "bios.bin", 10) == b"2"


def test_find_looks_at_the_folders_of_the_environment(
    tree: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bios.bin").write_bytes(b"x")
    monkeypatch.setenv(hostfiles.VARIABLE, str(tmp_path))

    assert hostfiles.find(tree, "bios.bin") == tmp_path / "bios.bin"


def test_read_of_a_path_needs_no_search(tree: Node, tmp_path: Path) -> None:
    (tmp_path / "bios.bin").write_bytes(b"x")

    assert hostfiles.read(tree, str(tmp_path / "bios.bin"), 1) == b"x"


def test_missing_file_names_where_it_was_looked_for(tree: Node, tmp_path: Path) -> None:
    tree.ensure_node("Firmware").insert("Path", str(tmp_path))

    with pytest.raises(PdmError, match=tmp_path.name + r" \(VERR_FILE_NOT_FOUND\)"):
        hostfiles.read(tree, "bios.bin", 1)


def test_file_that_does_not_fit_or_is_a_folder_is_refused(tree: Node, tmp_path: Path) -> None:
    (tmp_path / "bios.bin").write_bytes(b"xx")

    with pytest.raises(PdmError, match="VERR_FILE_TOO_BIG"):
        hostfiles.read(tree, str(tmp_path / "bios.bin"), 1)
    with pytest.raises(PdmError, match="VERR_IS_A_DIRECTORY"):
        hostfiles.read(tree, str(tmp_path), 1)
