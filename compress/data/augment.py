"""Augmentation of whole batches of images, on tensors; randomness comes from torch's global generator."""

import torch
import torch.nn.functional as F
from torch import Tensor


def flip(images: Tensor) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    mirrored = torch.rand(len(images)) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image (N, C, H, W) by up to `pixels` in both directions, filling with zeros (black)."""
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels, pixels, pixels, pixels))
    top, left = torch.randint(0, 2 * pixels + 1, (2, count, 1))
    rows = (top + torch.arange(height)).view(count, 1, height, 1)
    columns = (left + torch.arange(width)).view(count, 1, 1, width)
    samples = torch.arange(count).view(-1, 1, 1, 1)
    channels = torch.arange(images.shape[1]).view(1, -1, 1, 1)
    return padded[samples, channels, rows, columns]
