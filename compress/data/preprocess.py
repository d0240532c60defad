"""From stored pixels to what a network takes in. Belongs to the model and travels with it in the manifest."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """Resize, repeat channels, scale to [0, 1], subtract `mean`, divide by `std`.

    Args:
        size: height and width that the network takes, in pixels.
        mean, std: per channel, of pixels in [0, 1].
        channels: 1 or 3; grey images are repeated to 3.
        resize: for image files, the length in pixels that the short side is brought to before the centre is cut out;
            None stretches the whole image to `size`.
        interpolation: for image files, `bilinear` or `bicubic`; arrays of images are always resized bilinearly.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    resize: int | None = None
    interpolation: str = "bilinear"

    def resized(self, images: Tensor) -> Tensor:
        """uint8 images (N, C, H, W) of any size as uint8 (N, C, *size), bilinear, stretched."""
        if tuple(images.shape[-2:]) == self.size:
            return images
        parts = [F.interpolate(part.float(), self.size, mode="bilinear", antialias=True) for part in images.split(1024)]
        return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 images (N, C, *size) as float32 (N, channels, *size)."""
        if images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        shape = (1, -1, 1, 1)
        return (images.float() / 255 - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the manifest holds it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocess":
        """The reverse of `to_dict`."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**plain)
