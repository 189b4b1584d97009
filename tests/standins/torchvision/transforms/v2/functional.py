"""What is called of torchvision.transforms.v2.functional, on (..., C, H, W)."""

import torch
import torch.nn.functional as F

from torchvision.transforms import InterpolationMode


def resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True):
    """To size (H, W); torch rounds and clamps what is uint8."""
    flat = image.reshape(-1, *image.shape[-3:])
    return F.interpolate(flat, tuple(size), mode=interpolation.value, antialias=antialias).reshape(
        *image.shape[:-2], *size
    )


def crop(image, top, left, height, width):
    return image[..., top : top + height, left : left + width]


def normalize(image, mean, std, inplace=False):
    mean, std = (torch.as_tensor(part, dtype=image.dtype).reshape(-1, 1, 1) for part in (mean, std))
    return (image - mean) / std


def grayscale_to_rgb(image):
    return image if image.shape[-3] == 3 else image.expand(*image.shape[:-3], 3, *image.shape[-2:])
