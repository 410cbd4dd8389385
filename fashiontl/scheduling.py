"""Which process of pytest-xdist measures which case. Imported only where pytest-xdist runs."""

from collections.abc import Iterable
from typing import Any

from xdist.scheduler import LoadScopeScheduling

from fashiontl.case import Case


class OneProcessADevice(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
    """Give all cases of a device to one process, in their order; any other test to whichever process is free.

    With pytest-xdist's own distribution several processes would get cases of the same device, of which only one can be
    measured at a time, while other devices idle.

    Args:
        config: pytest's.
        log: where pytest-xdist traces its work.
        cases: those of this session.
    """

    def __init__(self, config: Any, log: Any, cases: Iterable[Case]) -> None:
        super().__init__(config, log)
        self._devices = {case.id: case.device for case in cases}

    def _split_scope(self, nodeid: str) -> str:
        parameter = nodeid.rpartition("[")[2].removesuffix("]")
        return self._devices.get(parameter, nodeid)
