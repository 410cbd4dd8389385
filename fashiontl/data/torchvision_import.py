"""torchvision, importable even where its compiled operators do not fit the installed torch.

A torchvision wheel that was built for CUDA beside a CPU build of torch cannot load its extension, and then its own
import fails on operators whose schemas were never defined. Classification needs none of them, so the two schemas
are defined here first, only if they are really absent. Import torchvision only through this module.
"""

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _import_torchvision() -> "torch.library.Library | None":
    try:
        import torchvision  # noqa: F401 - tried first, so that a sound installation is left as it is
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


# Kept alive for the life of the process: the schemas vanish with the object.
_LIBRARY = _import_torchvision()

import torchvision  # noqa: E402 - only now can it succeed
from torchvision import models  # noqa: E402

__all__ = ["models", "torchvision"]
