"""PyTorch's own count of FLOPs, which the closed form is held against."""

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted_flops(run):
    """FLOPs of the matrix products, convolutions and attention that `run` executes.

    Attention is routed to the math kernel: the counter has no formula for the CPU's fused one and counts zero.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
