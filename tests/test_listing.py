"""`fashiontl list`."""

import re
from pathlib import Path

import pytest

from fashiontl.architectures import ARCHITECTURES
from fashiontl.case import DEFAULT_ARCHITECTURES, DEFAULT_POLICIES, PRESETS
from fashiontl.data import TASKS
from fashiontl.devices import DEVICES
from fashiontl.freezing import POLICIES
from fashiontl.listing import listing
from fashiontl.options import WEIGHTS, published_names


def tables(text: str) -> dict[str, list[str]]:
    """Rows of each table by its option."""
    parts = [part.splitlines() for part in text.split("\n\n")]
    return {found.group(1): part[3:] for part in parts if (found := re.search(r"\((--[a-z-]+)\)$", part[0]))}


def test_every_name_of_every_axis_is_a_row() -> None:
    rows = {option: [row.split("  ")[0] for row in found] for option, found in tables(listing()).items()}
    assert [name.removesuffix(" *") for name in rows["--arch"]] == list(ARCHITECTURES)
    assert [name.removesuffix(" *") for name in rows["--policy"]] == list(POLICIES)
    assert rows["--device"] == list(DEVICES)
    assert rows["--task"] == [*TASKS, "NAME@25"]
    assert rows["--weights"] == [*WEIGHTS, *published_names(), "FILE", "FOLDER"]
    assert rows["--preset"] == list(PRESETS)


def test_stars_mark_the_defaults() -> None:
    found = tables(listing())
    starred = [row.split(" *")[0] for row in found["--arch"] + found["--policy"] if re.match(r"\S+ \*", row)]
    assert sorted(starred) == sorted([*DEFAULT_ARCHITECTURES, *DEFAULT_POLICIES])


def test_what_is_absent_has_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = tables(listing(str(tmp_path / "nowhere")))
    assert re.search(r"^cpu +\S.* yes$", found["--device"][0])
    assert all(re.search(r"(yes|torch .*)$", row) for row in found["--device"])
    assert re.search(r"^resnet18 \* +resnet +\d+ +IMAGENET1K_V1, to be downloaded$", "\n".join(found["--arch"]), re.M)
    assert found["--data-root"][0].startswith("embedded ")
    assert re.search(rf"^data root +{tmp_path}/nowhere +no such folder$", found["--data-root"][1])


def test_weights_that_are_here_are_shown_as_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    here = [row.split(" ")[0] for row in tables(listing())["--arch"] if row.endswith(", here")]
    assert here == ["resnet18"]


def test_published_names_say_for_how_many_architectures() -> None:
    rows = "\n".join(tables(listing())["--weights"])
    assert re.search(r"^IMAGENET1K_FEATURES +published for 1 of the architectures above$", rows, re.M)


def test_extensions_are_shown_with_what_they_added(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--fashiontl-plugin" not in tables(listing())
    loaded = {"my_nets": ("architecture tiny", "task shapes"), "idle": ()}
    monkeypatch.setattr("fashiontl.listing.added", lambda: loaded)
    rows = [re.split("  +", row) for row in tables(listing())["--fashiontl-plugin"]]
    assert rows == [["my_nets", "architecture tiny, task shapes"], ["idle", "nothing"]]
