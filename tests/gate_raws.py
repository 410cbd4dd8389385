"""Made-up gates, alike to what one leaves, for tests of what reads and shows them."""

import dataclasses
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
from records import LAPTOP

from fashiontl.core.case import PRESETS
from fashiontl.core.stats import Interval
from fashiontl.gate.raw import SCHEMA, Answers, Asked, Counts, Failure, Raw, SeedPair, Series, Tree, Trial
from fashiontl.gate.result import Explained, Finding, GateResult
from fashiontl.gate.runner import stated
from fashiontl.gate.waivers import Waiver
from fashiontl.machine.environment import PROTOCOL, machine_key

BASE_COMMIT, HEAD_COMMIT = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"
TODAY = date(2026, 11, 25)
CELL, OTHER = "resnet18-full-cpu", "vgg11-linear_probe-cpu"
# Breaks tables, ends folded parts, and looks like a command of GitHub's.
HOSTILE = "own|`a`|<b>\n::error::x%0A\x1b[31m##[add-mask]</details>*_[l](u)"


def trial(seconds: float = 0.01, factor: float = 1.0, slices: int = 4, **fields: Any) -> Trial:
    """One in which the head takes `factor` times as long as the base, and the reference kernel always the same."""
    base = tuple(seconds * (1 + index / 1000) for index in range(slices))
    values: dict[str, Any] = {
        "stage": "screen", "first": "base", "base": base, "head": tuple(each * factor for each in base),
        "reference_base": (0.002,) * slices, "reference_head": (0.002,) * slices,
    }  # fmt: skip
    return Trial(**{**values, **fields})


def pair(seed: int = 0, base: str = "1101", head: str = "1101") -> SeedPair:
    """One seed; its hashes differ between the arms where its answers do."""
    same = base == head
    hashes = ("a1" * 32, "a1" * 32 if same else "b2" * 32)
    return SeedPair(seed, *hashes, base, head, *hashes)


def raw(**fields: Any) -> Raw:
    """A gate of two cells; fields replace its own."""
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "started": "2026-11-25T02:00:00+00:00",
        "seconds": 754.0,
        "command": "fashiontl gate --base main --arch resnet18,vgg11",
        "machine": machine_key(LAPTOP),
        "environment": dataclasses.asdict(LAPTOP),
        "base": Tree("main", BASE_COMMIT, False, "fashiontl/__init__.py", PROTOCOL),
        "head": Tree("working tree", HEAD_COMMIT, True, "fashiontl/__init__.py", PROTOCOL),
        "cells": (CELL, OTHER),
        "new": (),
        "removed": (),
        "budget": 0.0,
        "series": (Series(CELL, "latency", tuple(trial(factor=1.06) for _ in range(6))),),
        "counts": (Counts(CELL, "parameters", (11_181_642.0,) * 2, (11_181_642.0,) * 2),),
        "answers": (Answers(CELL, (pair(0), pair(1, "1101", "1001"))),),
        "failures": (Failure(OTHER, "head", "crashed", "SIGSEGV in the forward pass"),),
        "warnings": (),
    }
    values |= fields
    if "asked" not in values and values["schema"] == SCHEMA:
        values["asked"] = all_of(values)
    return Raw(**values)


def all_of(values: dict[str, Any]) -> Asked:
    """The statement of a gate that has all that it was asked for."""
    old = [one for one in (*values["series"], *values["counts"]) if one.cell not in values["new"]]
    metrics = [*(one.metric for one in old), *(["accuracy"] if values["answers"] else [])]
    cells = tuple(dict.fromkeys((*values["cells"], *values["removed"])))
    counts = {
        cell: min((len(one.base) for one in values["counts"] if one.cell == cell and one.base), default=0)
        for cell in cells
    }
    slices = [len(trial.base) for one in values["series"] for trial in one.trials]
    made = stated(cells, PRESETS["quick"], (values["base"].commit, values["head"].commit))
    return msgspec.structs.replace(
        made, metrics=tuple(dict.fromkeys(metrics)) or ("latency",), processes=counts, slices=min(slices, default=0),
    )  # fmt: skip


def finding(**fields: Any) -> Finding:
    """A latency that regressed; fields replace its own."""
    values: dict[str, Any] = {
        "cell": CELL, "metric": "latency", "verdict": "REGRESSED",
        "reason": "lower bound 4.9 % is above the 2 % tolerated, and a confirmation agrees",
        "base": 0.00921, "head": 0.00977, "change": Interval(0.061, 0.049, 0.073), "trials": (6, 16),
    }  # fmt: skip
    return Finding(**{**values, **fields})


PASSED = finding(verdict="PASS", cell=OTHER, reason="upper bound 1.1 % is below 5 %", base=0.0485, head=0.0486,
                 change=Interval(0.002, -0.007, 0.011), trials=(6, 0))  # fmt: skip
EQUAL = finding(metric="parameters", verdict="PASS", reason="equal", base=11_181_642.0, head=11_181_642.0, change=None,
                trials=(0, 0))  # fmt: skip
EXPLAINED = Explained(CELL, "latency", "aten::convolution", "stage2.0.conv1", 0.0012, 0.0017, 0.89)


def timed(factor: float = 1.0, cell: str = CELL, metric: str = "latency", *, images: int = 1, **fields: Any) -> Series:
    """As many trials as decide: those of the screen, and of a confirmation where they would be asked for."""
    fresh = [trial(factor=factor, stage="confirm", **fields)] * (16 if abs(factor - 1) > 0.02 else 0)
    return Series(cell, metric, (*[trial(factor=factor, **fields)] * 6, *fresh), images)


def waiver(**fields: Any) -> Waiver:
    """Of a latency, for today; fields replace its own."""
    values: dict[str, Any] = {
        "cell": CELL, "metric": "latency", "ceiling": 100.0, "owner": "ann", "reason": "asked for",
        "created": TODAY, "expires": TODAY, "path": Path("w1.toml"),
    }  # fmt: skip
    return Waiver(**{**values, **fields})


def gate_result(*findings: Finding, **fields: Any) -> GateResult:
    """A judged gate; without findings one that regressed in one of three comparisons."""
    values: dict[str, Any] = {
        "verdict": "REGRESSED", "exit_code": 1, "findings": findings or (finding(), PASSED, EQUAL),
        "explained": () if findings else (EXPLAINED,), "notes": (), "raw": raw(),
    }  # fmt: skip
    return GateResult(**{**values, **fields})
