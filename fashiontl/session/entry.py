"""What pytest loads wherever this package is installed: one hook, which does nothing unless a bench is asked for.

A folder becomes a bench when its `conftest.py` loads `fashiontl.plugin`, as that of `bench/` does.
"""

from collections.abc import Generator

import pytest

# What a conftest.py, `-p` or PYTEST_PLUGINS loads.
BENCH = "fashiontl.plugin"


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Declare a bench's options, after every plug-in and conftest.py that the arguments name has declared its own."""
    found = yield
    if early_config.pluginmanager.hasplugin(BENCH):
        from fashiontl.session.declaring import declare

        declare(early_config, parser, args)
    return found
