"""How much arithmetic a network or a training step is, in FLOP: two for each multiply-add.

Counted are convolutions, matrix products and attention, as torch dispatches them, by torch's own counter; additions,
normalisation, activations and pooling are not, as in the figures that torchvision and most papers publish. Padding
counts like an image, and masked scores of attention like the others. On the meta device counting costs no arithmetic.

What is counted here otherwise than in torch 2.13, and why:

- The weights' gradient of a grouped convolution: torch takes every input channel with every output channel, where only
  those of one group meet (a depthwise convolution of 8 channels comes out 8 times too large).
- Linear layers backwards on MPS, and attention on the CPU, MPS and XPU: torch has no formula for these kernels, and
  counts them as nothing.
- Attention backwards: torch's formula for the fused kernels includes the scores that these compute a second time to
  save memory. That is a cost of a kernel and not of the network (Chowdhery et al., "PaLM", 2022, appendix B), so here
  it is twice the forward pass whichever kernel runs.
- `nn.MultiheadAttention` without gradients: its fused fast path has no formula, so it is off while counting.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(model: nn.Module, images: Tensor) -> int:
    """Count one forward pass of a batch, without gradients; in training mode it moves running statistics."""
    # torch's counter hooks tensors that require gradients, and in inference mode it cannot.
    with torch.inference_mode(False), torch.no_grad():
        return step_flops(lambda: model(images))


def step_flops(step: Callable[[], object]) -> int:
    """Count whatever a step runs, forwards and backwards.

    A frozen layer counts as autograd runs it: forwards, and for the gradient of its input only where something before
    it trains. What the step computes twice, as with activation checkpointing, counts twice. It is called once, and must
    be eager: inside what `torch.compile` has compiled nothing is seen.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            step()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return int(counter.get_total_flops())


# The formulas take an operator's arguments by position, as its schema orders them, with shapes in place of tensors.


def _convolution_backward(*arguments: Any, **_: Any) -> int:
    output, images, weight, transposed, wanted = (arguments[number] for number in (0, 1, 2, 7, 10))
    # Each product of the forward pass is of one input and one weight, and each of the two gradients has one for it. A
    # weight's shape has the channels of one group, so it accounts for the groups.
    forward = 2 * images[0] * prod((images if transposed else output)[2:]) * prod(weight)
    return int(forward * sum(wanted[:2]))


def _linear_backward(*arguments: Any, **_: Any) -> int:
    inputs, _output, weight, wanted = arguments
    return int(2 * prod(inputs) * weight[0] * sum(wanted[:2]))


def _attention(*arguments: Any, **_: Any) -> int:
    query, key, value = arguments[:3]
    # Scores, [queries, width] x [width, keys], and answers, [queries, keys] x [keys, width of values], for each head.
    return int(2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _attention_backward(*arguments: Any, **_: Any) -> int:
    return 2 * _attention(*arguments[1:])


_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten.convolution_backward: _convolution_backward,
    # Only MPS has it; elsewhere a linear layer is matrix products.
    _aten.linear_backward: _linear_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
    _aten._scaled_dot_product_attention_math_for_mps: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._scaled_dot_product_fused_attention_overrideable_backward: _attention_backward,
    _aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    _aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    _aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
}
