"""What a line may hold: types with ranges, by which msgspec parses it, and by which every fault of another is told.

One description serves both: msgspec stops at the first fault, and a person wants all of them.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from fashiontl.core.case import RANGES, Case, Settings
from fashiontl.core.errors import brief
from fashiontl.core.metrics import METRICS
from fashiontl.machine.environment import Environment

_COUNT = 2**53
# What float32 can hold, as the loss of a training that went wrong.
_MOST_LOSS = 1e39
# The same for all: more tell nobody anything.
_MOST_FAULTS = 20

_ENVIRONMENT = {
    "logical_cores": (1, 10**6),
    "usable_cores": (0, 10**6),
    "threads": (1, 10**6),
    "memory": (0, 10**18),
    "load": (0, 10**6),
}
# A case's 0 takes the settings' own.
_CASE = {"image_size": (0, RANGES["image_size"][1]), "batch": (0, RANGES["batch"][1])}
_LIMITS: dict[type, Mapping[str, tuple[float, float]]] = {Case: _CASE, Settings: RANGES, Environment: _ENVIRONMENT}


def whole(least: int, most: int) -> Any:
    """Whole numbers of a range."""
    return Annotated[int, msgspec.Meta(ge=least, le=most)]


def number(least: float, most: float) -> Any:
    """Numbers of a range; whole ones stay whole."""
    # Whole ones as far as msgspec has limits for them.
    first, last = max(math.ceil(least), -(2**63)), min(math.floor(most), 2**63 - 1)
    return Annotated[int, msgspec.Meta(ge=first, le=last)] | Annotated[float, msgspec.Meta(ge=least, le=most)]


def closed(kind: type, **replaced: Any) -> Any:
    """A dataclass as JSON holds it: fields that it does not know are faults, and numbers have their range."""
    limits = _LIMITS.get(kind, {})
    hints = {name: _limited(hint, limits.get(name)) for name, hint in get_type_hints(kind).items()} | replaced
    described: list[Any] = [
        (field.name, hints[field.name]) if is_needed(kind, field) else (field.name, hints[field.name], field.default)
        for field in fields(kind)
    ]
    return msgspec.defstruct(kind.__name__, described, forbid_unknown_fields=True, gc=False)


def measurements() -> Any:
    """A list of measurements, each with the range of its metric."""
    kinds = []
    for metric in METRICS.values():
        described: list[Any] = [("values", _many(number(metric.least, metric.most))), ("trials", whole(0, _COUNT))]
        kinds.append(
            msgspec.defstruct(
                metric.name, described, tag_field="metric", tag=metric.name, forbid_unknown_fields=True, gc=False
            )
        )
    return _many(Union[tuple(kinds)])  # noqa: UP007 - its members are computed


def _many(kind: Any) -> Any:
    return tuple[kind, ...]


def _limited(hint: Any, limits: tuple[float, float] | None) -> Any:
    if hint is float:
        return number(*(limits or (-1e300, 1e300)))
    if hint is int:
        return whole(*map(int, limits)) if limits else int
    if get_origin(hint) in {Union, UnionType}:
        return Union[tuple(_limited(member, limits) for member in get_args(hint))]  # noqa: UP007 - as above
    return hint


def is_needed(kind: type, field: "Field[Any]") -> bool:
    """Whether JSON without this field of a dataclass has a fault."""
    # A line from before a setting or an axis existed is read with its default, which must mean "as it was before".
    return kind not in {Case, Settings, Environment} or field.default is MISSING


def some_of(name: str, known: Mapping[str, Any]) -> Any:
    """An object of which only some fields are looked at, where they are there; `name` is nothing's but msgspec's."""
    described = [(field, kind | msgspec.UnsetType, msgspec.UNSET) for field, kind in known.items()]
    return msgspec.defstruct(name, described, gc=False)


def _list(kind: Any) -> Any:
    return list[kind]


def _texts_to(kind: Any) -> Any:
    return dict[str, kind]


_FRACTION = number(0, 1)
_TENSORS = whole(0, _COUNT)
_NAMED = some_of("named", {"name": str, "source": str, "sha256": str | None, "accuracy": _FRACTION})
_LOOP = some_of("loop", {"ended": str, "steady": bool, "throttled": whole(0, _COUNT)})
_GRAPHS = some_of("graphs", dict.fromkeys(("graphs", "graph_breaks", "recompiles"), whole(0, _COUNT)))
_POINT = some_of("point", {"batch": whole(1, 2**31), "seconds": _list(number(1e-12, 1e9))})
_SWEEP = some_of("sweep", {"points": _list(_POINT), "largest": whole(0, 2**31) | None, "limit": str})
_SEED = some_of(
    "seed",
    {
        "accuracy": _FRACTION,
        "confusion": _list(_list(whole(0, _COUNT))),
        "loss": number(0, _MOST_LOSS) | None,
        "calibration_error": _FRACTION | None,
    },
)
PROOF = some_of(
    "proof",
    {
        "holds": bool,
        "frozen_parameters": _TENSORS,
        "frozen_buffers": _TENSORS,
        "trained_parameters": _TENSORS,
        "unmoved": list[str],
        "violations": list[str],
    },
)
PROVENANCE: dict[str, Any] = {
    "data": _NAMED,
    "weights": _NAMED,
    "pretraining": _NAMED,
    "image_size": whole(1, 2**16),
    "validation": _list(some_of("validation", {"chosen": whole(0, _COUNT) | None}) | None),
    "deterministic": bool,
    "extensions": dict[str, str],
    "peak": _texts_to(number(0, METRICS["peak_flops"].most)),
    "compile": _texts_to(_GRAPHS),
    "evaluation": _list(_SEED),
    "sweep": some_of("sweeps", {"inference": _SWEEP, "training": _SWEEP}),
    "timing": _texts_to(_LOOP),
}
"""The parts of a record's provenance that anything reads, and what they may be; the others may be any JSON."""


@functools.cache
def described(kind: Any) -> inspect.Type:
    """A type as `faults` goes through it."""
    return inspect.type_info(kind)


def faults(value: Any, kind: inspect.Type, where: str) -> Iterator[str]:
    """All in which a value of JSON is not of a type, each with its place, what was expected and what was got.

    Args:
        value: as `json.loads` gives it.
        kind: of `described`.
        where: its place; empty for the whole.
    """
    members = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    fitting = [member for member in members if _json_type(member) is type(value) or _json_type(member) is object]
    if not fitting:
        types = list(dict.fromkeys(filter(None, map(_json_type, members))))
        expected = " or ".join(json_name(each) for each in types if each is not int or float not in types)
        yield f"field {where}: expected {expected}, got {json_name(type(value))}"
        return
    found = fitting[0]
    if isinstance(found, inspect.StructType) and found.tag_field:
        known = {str(member.tag): member for member in fitting if isinstance(member, inspect.StructType)}
        name = value.get(found.tag_field)
        if not isinstance(name, str) or name not in known:
            yield f"field {where}.{found.tag_field}: expected one of {', '.join(known)}, got {brief(name)}"
            return
        yield from _struct_faults(value, known[name], f"{where} ({name})")
    elif isinstance(found, inspect.StructType):
        yield from _struct_faults(value, found, where)
    elif isinstance(found, inspect.ListType | inspect.VarTupleType):
        yield from _first(faults(item, found.item_type, f"{where}[{index}]") for index, item in enumerate(value))
    elif isinstance(found, inspect.DictType):
        yield from _first(faults(item, found.value_type, f"{where}.{name}") for name, item in value.items())
    elif isinstance(found, inspect.IntType | inspect.FloatType):
        # Where fractions are allowed, theirs are the limits, of which whole ones have the nearest.
        fraction = next((member for member in members if isinstance(member, inspect.FloatType)), None)
        limits = fraction or found
        if limits.ge is not None and limits.le is not None and not limits.ge <= value <= limits.le:
            kind_of = "a number" if fraction else "a whole number"
            yield f"field {where}: expected {kind_of} from {limits.ge:g} to {limits.le:g}, got {brief(value)}"
    elif isinstance(found, inspect.LiteralType) and value not in found.values:
        yield f"field {where}: expected one of {', '.join(map(str, found.values))}, got {brief(value)}"


def _first(found: Iterator[Iterator[str]]) -> Iterator[str]:
    """The faults of a few members: one mistake is often made in all."""
    return itertools.islice(itertools.chain.from_iterable(found), _MOST_FAULTS)


def _struct_faults(value: dict[str, Any], kind: inspect.StructType, where: str) -> Iterator[str]:
    prefix = f"{where}." if where else ""
    known = {field.name: field for field in kind.fields}
    yield from (
        f"field {prefix}{name} is missing" for name, field in known.items() if field.required and name not in value
    )
    for name, item in value.items():
        if name in known:
            yield from faults(item, known[name].type, prefix + name)
        elif kind.forbid_unknown_fields and name != kind.tag_field:
            yield f"field {prefix}{brief(name)[1:-1]} is unknown"


_TYPES: dict[type, type] = {
    inspect.StrType: str, inspect.IntType: int, inspect.FloatType: float, inspect.BoolType: bool,
    inspect.NoneType: NoneType, inspect.LiteralType: str, inspect.ListType: list, inspect.VarTupleType: list,
    inspect.DictType: dict, inspect.StructType: dict, inspect.AnyType: object, inspect.RawType: object,
}  # fmt: skip


def _json_type(kind: inspect.Type) -> type | None:
    """Of the values that a type takes; `object` for any, None for what JSON does not have."""
    return _TYPES.get(type(kind))


JSON_TYPES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}


def json_name(kind: type) -> str:
    """What a type that JSON gives is called in messages."""
    return JSON_TYPES.get(kind, kind.__name__)
