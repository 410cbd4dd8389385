"""The options of a bench, each by its own name and by one that no other plug-in has."""

from argparse import Namespace
from functools import cache
from typing import TYPE_CHECKING, Any

from fashiontl.core.case import PRESETS
from fashiontl.matrix.options import AXES
from fashiontl.session import gating

if TYPE_CHECKING:
    import pytest

_PREFIX = "fashiontl_"


class _Table(dict[str, dict[str, Any]]):
    """Collects options by their names, with what argparse needs of each."""

    def addoption(self, name: str, **attributes: Any) -> None:
        """Take one, as pytest's groups do."""
        default = False if attributes.get("action") == "store_true" else attributes["default"]
        self[name] = {**attributes, "default": default}


@cache
def _options() -> _Table:
    table = _Table()
    for name, title in AXES.items():
        table.addoption(
            f"--{name.replace('_', '-')}",
            action="append",
            default=[],
            metavar="NAMES",
            help=f"{title}; repeat it or separate names with commas, 'all' takes each (see fashiontl list)",
        )
    table.addoption(
        "--fashiontl-plugin",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="Python module that registers architectures, policies or tasks of your own; repeat it for several",
    )
    table.addoption("--preset", default="quick", metavar="NAME", help=f"settings: {', '.join(PRESETS)} (quick)")
    table.addoption(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override one setting of the preset"
    )
    table.addoption("--data-root", default="", metavar="DIR", help="folder with Fashion-MNIST's four files")
    table.addoption("--results", default="results", metavar="DIR", help="where runs and the leaderboard go (results)")
    table.addoption("--resume", action="store_true", help="go on with the newest run: measure only what it lacks")
    gating.add_options(table)
    return table


def _plain(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _destination(name: str) -> str:
    return _PREFIX + _plain(name).removeprefix(_PREFIX)


def declare(config: "pytest.Config", parser: "pytest.Parser", arguments: list[str]) -> None:
    """Add the options to pytest's, unless that was done.

    A name that another plug-in has taken remains its own for whoever asks pytest for it, but in a session of a bench it
    is the bench's on the command line: the arguments are changed to the name that cannot clash.

    Args:
        config: in which other plug-ins have declared their options.
        parser: pytest's.
        arguments: of the command line and of pytest's settings; changed in place, before pytest reads them.
    """
    group = parser.getgroup("fashiontl", "transfer-learning benchmarks; each option is also --fashiontl-NAME")
    for name, attributes in _options().items():
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
            _plain(name): getattr(given, _destination(name), attributes["default"])
            for name, attributes in _options().items()
        }
    )
