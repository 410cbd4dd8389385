"""Makes this folder a bench: fashiontl's options, fixtures and summary are there only where it is run."""

import pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    # `pytest_plugins` is for the conftest.py of a project's root, where it would be for all of a project's tests.
    pluginmanager.import_plugin("fashiontl.plugin")
