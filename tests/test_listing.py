"""`fashiontl list`."""

import importlib.util
import re
from pathlib import Path

import pytest

from fashiontl.core.case import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_POLICIES,
    EXECUTIONS,
    MEMORY_FORMATS,
    PRECISIONS,
    PRESETS,
    Case,
)
from fashiontl.data import TASKS
from fashiontl.freezing import POLICIES
from fashiontl.machine.devices import DEVICES, Device
from fashiontl.matrix.options import WEIGHTS, published_names
from fashiontl.models.registry import ARCHITECTURES
from fashiontl.reports.listing import listing
from fashiontl.timing import variants


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
    for option, values in {
        "--precision": PRECISIONS, "--memory-format": MEMORY_FORMATS, "--execution": EXECUTIONS,
    }.items():  # fmt: skip
        assert [name.removesuffix(" *") for name in rows[option]] == list(values)


def test_stars_mark_the_defaults() -> None:
    found = tables(listing())
    axes = ("--arch", "--policy", "--precision", "--memory-format", "--execution")
    starred = [row.split(" *")[0] for axis in axes for row in found[axis] if re.match(r"\S+ \*", row)]
    defaults = (*DEFAULT_ARCHITECTURES, *DEFAULT_POLICIES, PRECISIONS[0], MEMORY_FORMATS[0], EXECUTIONS[0])
    assert sorted(starred) == sorted(defaults)


def test_variants_have_a_column_for_each_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def absence(case: Case) -> str | None:
        return "needs a GPU" if case.precision == "tf32" and case.device == "cpu" else None

    monkeypatch.setattr(Device, "unavailable_reason", lambda device: None if device.kind in {"cpu", "cuda"} else "no")
    for kind in ("Cpu", "Accelerator", "Cuda"):
        monkeypatch.delattr(f"fashiontl.machine.devices.{kind}.unavailable_reason")
    monkeypatch.setattr(variants, "unavailable_reason", absence)
    monkeypatch.setattr(variants, "warnings_for", lambda case: ["emulated"] if case.precision == "fp16" else [])
    text = listing()
    assert re.search(r"^precision \(--precision\)\nname +what +here on cpu +here on cuda$", text, re.M)
    rows = [re.split("  +", row) for row in tables(text)["--precision"]]
    assert [row[2:] for row in rows] == [
        ["yes", "yes"], ["needs a GPU", "yes"], ["yes", "yes"], ["yes; emulated", "yes; emulated"],
    ]  # fmt: skip


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
    monkeypatch.setattr("fashiontl.reports.listing.added", lambda: loaded)
    rows = [re.split("  +", row) for row in tables(listing())["--fashiontl-plugin"]]
    assert rows == [["my_nets", "architecture tiny, task shapes"], ["idle", "nothing"]]


def test_a_policy_whose_library_is_not_here_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row.split()[0]: row for row in tables(listing())["--policy"]}
    assert "needs the library" not in rows["full"]
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "peft" else real(name, *more))
    rows = {row.split()[0]: row for row in tables(listing())["--policy"]}
    assert [name for name, row in rows.items() if "needs the library peft; pip install" in row] == ["lora"]
