"""The image processor of a model on the Hugging Face hub, as our `Preprocess`; needs neither torchvision nor Pillow."""

import json
from pathlib import Path
from typing import Any

from compress.data.preprocess import Preprocess
from compress.errors import UserError

IMAGE_PROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"


def read_processor(folder: Path) -> dict[str, Any] | None:
    """The settings of the image processor in a folder that `save_pretrained` wrote; None where there are none.

    Raises:
        UserError: the file is not JSON.
    """
    for name in (IMAGE_PROCESSOR, PROCESSOR):
        path = folder / name
        if path.is_file():
            try:
                values = json.loads(path.read_text(encoding="utf8"))
            except ValueError as error:
                raise UserError(f"{path} is not valid JSON: {error}") from None
            return values if name == IMAGE_PROCESSOR else values.get("image_processor")
    return None


def preprocess_of(values: dict[str, Any], channels: int) -> Preprocess | None:
    """What a processor with these settings does to an image, or None where `Preprocess` cannot say it.

    A processor that stretches to one size and then cuts out the centre (DeiT) is taken to keep the aspect ratio, as these
    models were trained; on square images that is the same.

    Args:
        channels: that the model takes, 1 or 3.
    """
    kind = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    if values.get("do_flip_channel_order") or kind.startswith("PPLCNet") or values.get("do_color_quantize"):
        return None  # blue, green, red; or colours by number
    mean, std = _normalization(values, channels)
    geometry = _geometry(values, kind)
    if geometry is None or mean is None:
        return None  # written in a way that only the processor's class understands
    size, resize = geometry
    # Pillow's number for bicubic; the others are near enough to bilinear.
    interpolation = "bicubic" if values.get("resample") == 3 else "bilinear"
    return Preprocess(size, mean, std, channels, resize, interpolation)


def _normalization(values: dict[str, Any], channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
    """Mean and std for pixels of 0 to 1: ((p * factor - offset) - mean) / std, with p of 0 to 255, in terms of p / 255."""
    if not values.get("do_normalize", "image_mean" in values):
        mean, std = (0.0,) * channels, (1.0,) * channels
    elif "image_mean" not in values or "image_std" not in values:
        return None, ()
    else:
        mean, std = _per_channel(values["image_mean"], channels), _per_channel(values["image_std"], channels)
    factor = 255 * values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 255.0
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor  # 0.00392156862745098 is 1 / 255 but for rounding
    offset = 1.0 if values.get("rescale_offset") else 0.0
    mean, std = tuple((m + offset) / factor for m in mean), tuple(s / factor for s in std)
    if values.get("include_top"):  # EfficientNet divides by std a second time
        std = tuple(a * b for a, b in zip(std, _per_channel(values["image_std"], channels), strict=True))
    return mean, std


def _per_channel(value: Any, channels: int) -> tuple[float, ...]:
    listed = [float(x) for x in value] if isinstance(value, list | tuple) else [float(value)]
    return tuple(listed) if len(listed) == channels else (listed[0],) * channels


def _geometry(values: dict[str, Any], kind: str) -> tuple[tuple[int, int], int | None] | None:
    """The size that comes out, and the length that the short side is brought to first (None: stretched)."""
    short, size = _sizes(values.get("size"))
    edge, crop = _sizes(values.get("crop_size")) if values.get("do_center_crop", True) else (None, None)
    crop = crop or ((edge, edge) if edge else None)
    if isinstance(values.get("size"), int) and not crop and "crop_pct" not in values:
        short, size = None, (values["size"], values["size"])  # a lone number means both sides where nothing is cut off
    if short is None:
        return ((crop, size[0]) if crop else (size, None)) if size else None
    if kind.startswith("ConvNext") or ("crop_pct" in values and not crop):
        cut = short < 384
        return (short, short), int(short / (values.get("crop_pct") or 224 / 256)) if cut else None
    if kind.startswith("Levit"):
        return crop or (short, short), int(256 / 224 * short)
    return crop or (short, short), int(short / (values.get("crop_pct") or 1))


def _sizes(value: Any) -> tuple[int | None, tuple[int, int] | None]:
    """`(shortest edge, None)` or `(None, (height, width))` of the ways in which a size is written."""
    if isinstance(value, int):
        return value, None
    if isinstance(value, dict) and "shortest_edge" in value:
        return int(value["shortest_edge"]), None
    if isinstance(value, dict) and {"height", "width"} <= value.keys():
        return None, (int(value["height"]), int(value["width"]))
    if isinstance(value, list | tuple) and len(value) == 2:
        return None, (int(value[0]), int(value[1]))
    return None, None
