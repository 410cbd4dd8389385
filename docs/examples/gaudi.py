"""A kind of device of one's own: an accelerator that torch reaches through a plug-in."""

from importlib.util import find_spec

from fashiontl.machine.devices import Accelerator
from fashiontl.matrix.extensions import register


class Hpu(Accelerator):
    """Intel Gaudi; `habana_frameworks` makes torch know it as `hpu`."""

    kind = "hpu"
    title = "Intel Gaudi"
    absent = "sees no Gaudi; it needs habana_frameworks and Intel's driver"

    @classmethod
    def seen(cls) -> int:
        """Devices that the machine seems to have, without importing torch."""
        return int(find_spec("habana_frameworks") is not None)


register(Hpu)
