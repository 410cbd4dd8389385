"""A record, its line of JSON, and everything that such a line may hold."""

import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from fashiontl.core.case import OLD_SETTINGS, Case, Settings
from fashiontl.core.errors import FashiontlError, brief
from fashiontl.core.metrics import METRICS, Measurement, Slices
from fashiontl.core.parsing import NEXT_STEP, check_schema, explained, load_json
from fashiontl.machine.environment import Environment
from fashiontl.records.facts import Facts, Proof

# Raised when the meaning of a field changes; a line of an older schema is then read by a conversion to this one.
SCHEMA = 1

Status = Literal["ok", "skipped", "diverged", "oom", "timeout", "crashed", "invalid"]

# What a round does to a logarithm of seconds at most: a factor of 2e8.
_MOST_COMMON = 20

# The name of a file or folder.
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.+-]{0,199}$")]

# No version of this package is older.
FIRST_TIME = datetime(2025, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(\+00:00|Z)")


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured of one case, and everything needed to judge it.

    Attributes:
        run: name of the run, which is its file's name without `.jsonl`.
        command: what was typed.
        started: ISO 8601 in UTC.
        machine: `machine_key(environment)`.
        status: `ok`, or how the case failed.
        reason: why it is not `ok`; empty when it is.
        warnings: why the numbers may be wrong or unusual.
        measurements: raw values; those of the phases before a failure are kept.
        proof: that the policy was kept; None when the case did not get so far.
        provenance: sources and SHA-256 of data and weights, the recipe, and what else the phases returned.
        artifacts: kind of file to its path.
    """

    schema: int
    id: str
    run: _Name
    command: str
    started: str
    case: Case
    settings: Settings
    environment: Environment
    machine: _Name
    status: Status
    reason: str
    warnings: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    proof: Proof | None
    provenance: dict[str, Any]
    artifacts: dict[str, str]

    def values(self, metric: str) -> tuple[float, ...]:
        """Raw values of a metric in its base unit; empty when unknown."""
        measurement = self.measurement(metric)
        return measurement.values if measurement else ()

    def measurement(self, metric: str) -> Measurement | None:
        """The measurement of a metric, if there is one."""
        return next((measurement for measurement in self.measurements if measurement.metric == metric), None)

    def facts(self) -> Facts:
        """What of the provenance is known by type; its other entries are left out."""
        return msgspec.convert(self.provenance, Facts)


def to_json(record: Record) -> str:
    """The record as one line of JSON, without the line's end.

    JSON has no number that is not finite. A measurement with one is written as unknown, what slices say of the machine
    with one is left out, such a number anywhere else is written as null, and a warning says so.

    Raises:
        TypeError: the provenance holds what JSON cannot.
    """
    measurements, added = zip(*map(_finite, record.measurements), strict=True) if record.measurements else ((), ())
    if any(added):
        record = replace(record, measurements=measurements, warnings=record.warnings + tuple(filter(None, added)))
    values = msgspec.to_builtins(record)
    for each in values["measurements"]:
        if each["slices"] is None:
            del each["slices"]
    try:
        return _compact(values)
    except ValueError:
        finite = json.loads(json.dumps(values), parse_constant=lambda constant: None)
        finite["warnings"].append("numbers of the provenance that were not finite are written as null")
        return _compact(finite)


def _finite(measurement: Measurement) -> tuple[Measurement, str]:
    """A measurement without numbers that are not finite, and the warning about it, if any."""
    slices, name = measurement.slices, measurement.metric
    if not all(map(math.isfinite, (*measurement.values, *(slices.starts if slices else ())))):
        return replace(
            measurement, values=(), slices=None
        ), f"{name}: a value was not a finite number; shown as unknown"
    if slices is None:
        return measurement, ""
    kept = {each: values for each, values in slices.conditions.items() if all(map(math.isfinite, values))}
    prior = slices.prior if slices.prior and all(map(math.isfinite, slices.prior)) else None
    common = slices.common if all(map(math.isfinite, slices.common)) else ()
    if (kept, prior, common) == (slices.conditions, slices.prior, slices.common):
        return measurement, ""
    left = replace(measurement, slices=replace(slices, conditions=kept, prior=prior, common=common))
    return left, f"{name}: what its slices say of the machine was not all finite numbers; such lists are left out"


def _compact(value: Any) -> str:
    """JSON without needless spaces, in ASCII: a file's name may hold what no encoding of Unicode can."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def from_json(text: str | bytes, where: str) -> Record:
    """Parse one line; `where` is `file:line`, for messages.

    Raises:
        FashiontlError: not JSON, another schema, fields missing, unknown or of a wrong type, or values that cannot be;
            the message lists one error for each field.
    """
    values = load_json(text, where, surrogates="replace")
    if isinstance(values, dict) and isinstance(values.get("settings"), dict):
        values["settings"] = current_settings(values["settings"])
    check_schema(values, (SCHEMA,), where)
    errors = list(_unknown_fields(values))
    try:
        record = msgspec.convert(values, Record)
        errors += _value_errors(record, record.facts())
    except msgspec.ValidationError:
        errors += _type_errors(values, Record, "$")
        if isinstance(values.get("provenance"), dict):
            errors += _type_errors(values["provenance"], Facts, "$.provenance")
    if errors:
        raise FashiontlError(f"{where}: {'; '.join(errors)}; {NEXT_STEP}")
    shared = {name: _shared(getattr(record, name)) for name in ("case", "settings", "environment")}
    return replace(record, **shared)


def current_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, in which those that were renamed have their new names."""
    return {OLD_SETTINGS.get(name, name): value for name, value in values.items()}


@functools.lru_cache(maxsize=4096)
def _shared(value: Any) -> Any:
    """The first of equal values: the lines of a run differ little in them."""
    return value


def _unknown_fields(values: dict[str, Any]) -> Iterator[str]:
    """Those of dataclasses, which msgspec lets pass."""
    for name, kind in (("case", Case), ("settings", Settings), ("environment", Environment)):
        if isinstance(part := values.get(name), dict):
            for field in sorted(part.keys() - kind.__dataclass_fields__.keys()):
                yield f"$.{name}: expected known fields only, got {brief(field)}"


def _type_errors(value: Any, kind: Any, place: str) -> Iterator[str]:
    """The errors of a value that is not of a type, each field's first: msgspec itself stops at the first of all."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        fields = getattr(msgspec.inspect.type_info(kind), "fields", None)
        if fields is None or not isinstance(value, dict):
            yield explained(error, value, place)
            return
        hints = get_type_hints(kind, include_extras=True)
        for field in fields:
            if field.name in value:
                yield from _type_errors(value[field.name], hints[field.name], f"{place}.{field.name}")
            elif field.required:
                yield f"{place}: expected a field `{field.name}`, got none"
        if kind is Record:
            for name in sorted(value.keys() - hints.keys()):
                yield f"{place}: expected known fields only, got {brief(name)}"


def _value_errors(record: Record, facts: Facts) -> Iterator[str]:
    """What cannot be though each value is of the right type."""
    if error := _time_error(record.started):
        yield error
    if record.id != record.case.id:
        yield f"$.id: expected {brief(record.case.id)}, as its case says, got {brief(record.id)}"
    names = [each.metric for each in record.measurements]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"$.measurements: expected each metric once, got several of {', '.join(map(brief, twice))}"
    for each in record.measurements:
        yield from wrong_numbers(each)
    if accuracy := record.measurement("accuracy"):
        yield from _accuracy_errors(accuracy, facts)


def wrong_numbers(measurement: Measurement) -> list[str]:
    """What cannot be of a measurement's values and slices."""
    metric = METRICS.get(measurement.metric)
    errors = list(_slice_errors(measurement)) if measurement.slices else []
    if metric and (wrong := metric.outside(measurement.values)) is not None:
        errors.append(f"{metric.name}: expected numbers from {metric.least:g} to {metric.most:g}, got {wrong:g}")
    return errors


def _slice_errors(measurement: Measurement) -> Iterator[str]:
    """What cannot be in how a measurement's values were taken in slices, each kind of fault once."""
    slices, name = measurement.slices, brief(measurement.metric)
    if slices is None:
        return
    count, total = len(slices.counts), sum(slices.counts)
    if total != len(measurement.values):
        yield f"{name}: expected counts of slices that sum to its {len(measurement.values):,} values, got {total:,}"
    # Logarithms are taken of them, with a least value for those that are nothing.
    if (least := min(measurement.values, default=0.0)) < 0:
        yield f"{name}: expected values of 0 or more in slices, got {least:g}"
    for each, values in _lists(slices).items():
        if len(values) != count:
            yield f"{name}: expected one of slices.{each} for each of the {count:,} slices, got {len(values):,}"
    if (largest := max(map(abs, slices.common), default=0.0)) > _MOST_COMMON:
        yield f"{name}: expected slices.common from -{_MOST_COMMON} to {_MOST_COMMON}, got {largest:g} without its sign"
    if (early := min(slices.starts, default=0.0)) < 0:
        yield f"{name}: expected slices.starts of 0 or more seconds, got {early:g}"
    for why, indices in slices.disturbed.items():
        if (last := max(indices, default=-1)) >= count:
            yield f"{name}: expected slices.disturbed[{brief(why)}] to be below {count:,}, got {last:,}"


def _lists(slices: Slices) -> dict[str, Sequence[float]]:
    """Those that have one entry a slice, by their place."""
    known: dict[str, Sequence[float]] = {
        "processes": slices.processes, "rounds": slices.rounds, "starts": slices.starts,
        **{f"conditions[{brief(each)}]": values for each, values in slices.conditions.items()},
    }  # fmt: skip
    return known | ({"common": slices.common} if slices.common else {})


def _time_error(started: str) -> str:
    try:
        # Of another form, times would not sort as texts do.
        time = datetime.fromisoformat(started) if _TIME.fullmatch(started) else None
    except ValueError:
        time = None
    if time is None:
        return f"$.started: expected an ISO time in UTC such as 2026-01-02T03:04:05+00:00, got {brief(started)}"
    # Another machine's clock may be ahead by a day.
    latest = datetime.now(UTC) + timedelta(days=1)
    if not FIRST_TIME <= time <= latest:
        return (
            f"$.started: expected a time from {FIRST_TIME:%Y-%m-%d} to {latest:%Y-%m-%d}, got {started}; "
            "check the clocks of both machines"
        )
    return ""


def _accuracy_errors(accuracy: Measurement, facts: Facts) -> Iterator[str]:
    trials, seeds = accuracy.trials, facts.evaluation
    # Fractions may have been rounded to six digits.
    if accuracy.values and (
        trials < 1 or any(abs(value * trials - round(value * trials)) > 0.02 for value in accuracy.values)
    ):
        yield f"accuracy: expected fractions of 1 or more whole images, got {brief(accuracy.values)} of {trials}"
    for index, seed in enumerate(seeds):
        matrix, where = seed.confusion, f"$.provenance.evaluation[{index}].confusion"
        if matrix is None:
            continue
        if not matrix or any(len(row) != len(matrix) for row in matrix):
            yield f"{where}: expected as many columns as rows, and one or more"
        elif accuracy.values and (images := sum(map(sum, matrix))) != trials:
            yield f"{where}: expected the {trials:,} images of the accuracy, got {images:,}"
    if seeds and accuracy.values and len(seeds) != len(accuracy.values):
        yield f"$.provenance.evaluation: expected one entry per accuracy ({len(accuracy.values)}), got {len(seeds)}"
