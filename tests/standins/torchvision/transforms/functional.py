"""What is called of torchvision.transforms.functional."""

import numpy as np
import torch


def pil_to_tensor(picture):
    """(C, H, W) uint8."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
