"""torch's global switches, for a process that ends with its phase."""

import os
import warnings

import torch


def deterministic(precision: str = "fp32") -> None:
    """Ask for the same result each time, as far as the device can; torch's documentation, "Reproducibility"."""
    _allow_tf32(precision == "tf32")
    # cuBLAS reads it when its first handle is made; without it torch warns of every matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling all new memory guards code that reads what it never wrote; it would only cost time here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def fastest(precision: str = "fp32") -> None:
    """Let cuDNN choose its algorithms by trying, which pays because a timed loop's shapes never change."""
    _allow_tf32(precision == "tf32")
    torch.backends.cudnn.benchmark = True


def _allow_tf32(allowed: bool) -> None:
    """Keep TF32, torch's default for convolutions on CUDA, out of what is called float32, and in what is called tf32.

    torch 2.9 has `fp32_precision` beside these two. Setting that leaves the older switches behind, and whoever reads
    those then, torch.compile among them, gets a RuntimeError; setting these sets both.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    with warnings.catch_warnings():
        # Some versions call the second one deprecated, with no other way to keep the two kinds of switches consistent.
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = allowed
