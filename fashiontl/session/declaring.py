"""The options of a bench, each by its own name and by one that no other plug-in has."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fashiontl.matrix.options import CELL_OPTIONS
from fashiontl.session import gating

if TYPE_CHECKING:
    import pytest

_PREFIX = "fashiontl_"


# Attributes for argparse, by the option's name.
_OPTIONS: dict[str, dict[str, Any]] = {
    **CELL_OPTIONS,
    "--data-root": {"default": "", "metavar": "DIR", "help": "folder with Fashion-MNIST's four files"},
    "--results": {"default": "results", "metavar": "DIR", "help": "where runs and the leaderboard go (results)"},
    "--resume": {"action": "store_true", "help": "go on with the newest run: measure only what it lacks"},
    **gating.OPTIONS,
}


def _plain(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _destination(name: str) -> str:
    return _PREFIX + _plain(name).removeprefix(_PREFIX)


def declare(config: "pytest.Config", parser: "pytest.Parser", arguments: list[str]) -> None:
    """Add the options to pytest's, unless that was done.

    A name that another plug-in has taken remains its own for whoever asks pytest for it, but in a session of a bench it
    is the bench's on the command line: the arguments are changed in place to the name that cannot clash, before pytest
    reads them.
    """
    group = parser.getgroup("fashiontl", "transfer-learning benchmarks; each option is also --fashiontl-NAME")
    for name, attributes in _OPTIONS.items():
        destination = _destination(name)
        unclashing = "--" + destination.replace("_", "-")
        if _is_taken(config, unclashing):
            return
        names = [unclashing] if name == unclashing or _is_taken(config, name) else [name, unclashing]
        group.addoption(*names, dest=destination, **attributes)
        if name not in names:
            _rename(arguments, name, unclashing)


def _is_taken(config: "pytest.Config", name: str) -> bool:
    nobody = object()
    return config.getoption(name, nobody) is not nobody


def _rename(arguments: list[str], name: str, to: str) -> None:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for place, argument in enumerate(arguments[:end]):
        given, equals, value = argument.partition("=")
        if given == name:
            arguments[place] = to + equals + value


def read(config: "pytest.Config") -> Namespace:
    """The options' values by their names, `data_root` for `--data-root`.

    Where a bench was met only during collection, as with `pytest .` above it, they are the defaults.
    """
    given = config.option
    return Namespace(
        **{
            _plain(name): getattr(given, _destination(name), attributes.get("default", False))
            for name, attributes in _OPTIONS.items()
        }
    )
