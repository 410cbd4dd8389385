"""Which process of pytest-xdist measures which case. Imported only where pytest-xdist runs."""

from collections.abc import Mapping
from typing import Any

from xdist.scheduler import LoadScopeScheduling


class OneProcessAScope(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
    """Give all cases of a scope to one process, in their order; any other test to whichever process is free.

    With pytest-xdist's own distribution several processes would get cases of the same device, of which only one can be
    measured at a time, while other devices idle; or of the same pretrained backbone, for which all but one would wait.

    Args:
        config: pytest's.
        log: where pytest-xdist traces its work.
        scopes: what each case belongs to, by the case's id.
    """

    def __init__(self, config: Any, log: Any, scopes: Mapping[str, str]) -> None:
        super().__init__(config, log)
        self._scopes = scopes

    def _split_scope(self, nodeid: str) -> str:
        parameter = nodeid.rpartition("[")[2].removesuffix("]")
        return self._scopes.get(parameter, nodeid)
