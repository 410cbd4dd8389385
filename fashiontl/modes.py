"""torch's global switches, for a process that ends with its phase."""

import os

import torch


def deterministic() -> None:
    """Ask for the same result each time, as far as the device can; torch's documentation, "Reproducibility"."""
    _full_precision()
    # cuBLAS reads it when its first handle is made; without it torch warns of every matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling all new memory guards code that reads what it never wrote; it would only cost time here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def fastest() -> None:
    """Let cuDNN choose its algorithms by trying, which pays because a timed loop's shapes never change."""
    _full_precision()
    torch.backends.cudnn.benchmark = True


def _full_precision() -> None:
    """Keep TF32, torch's default for convolutions on CUDA, out of what is called float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
