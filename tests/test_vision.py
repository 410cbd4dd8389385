import builtins
import types
from typing import Any

import pytest
import torch

from fashiontl.data import torchvision_import

REAL = builtins.__import__


class Library:
    """Takes the place of torch.library.Library, so that no schema is really defined twice."""

    made: tuple["Library", ...] = ()

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.schemas: list[str] = []
        Library.made += (self,)

    def define(self, schema: str) -> None:
        self.schemas.append(schema)


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what `import torchvision` raises; None lets it pass."""

    def set_error(error: Exception | None) -> None:
        def replacement(name: str, *arguments: Any) -> Any:
            if name != "torchvision":
                return REAL(name, *arguments)
            if error is not None:
                raise error
            return types.ModuleType(name)

        monkeypatch.setattr(builtins, "__import__", replacement)

    monkeypatch.setattr(Library, "made", ())
    monkeypatch.setattr(torch.library, "Library", Library)
    return set_error


def test_a_sound_torchvision_is_left_as_it_is(importing: Any) -> None:
    importing(None)
    assert torchvision_import._import_torchvision() is None
    assert Library.made == ()


def test_absent_operators_are_defined(importing: Any) -> None:
    importing(RuntimeError("operator torchvision::nms does not exist"))
    library = torchvision_import._import_torchvision()
    assert Library.made == (library,)
    assert library.arguments == ("torchvision", "DEF")
    assert [schema.partition("(")[0] for schema in library.schemas] == ["nms", "qnms"]


@pytest.mark.parametrize("error", [RuntimeError("something else"), ImportError("No module named 'torchvision'")])
def test_any_other_fault_is_passed_on(importing: Any, error: Exception) -> None:
    importing(error)
    with pytest.raises(type(error), match=str(error)):
        torchvision_import._import_torchvision()
    assert Library.made == ()
