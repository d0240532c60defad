"""Small networks, each around one construction that pruning tools trip over.

All give 5 logits of 3x32x32 images if not said otherwise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Classifier(nn.Module):
    """Global pooling and a linear layer."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Each layer reads the concatenation of all before it (Huang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 16, 2)
        self.layers = nn.ModuleList(convolution(16 + 8 * i, 8) for i in range(3))
        self.transition = convolution(40, 24, kernel=1)
        self.head = Classifier(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.transition(x))


class Grouped(nn.Module):
    """Convolutions in four groups (ResNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = convolution(3, 32, 2)
        self.grouped = convolution(32, 32, groups=4)
        self.expand = convolution(32, 64, kernel=1)
        self.head = Classifier(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.expand(self.grouped(self.reduce(x))))


class Depthwise(nn.Module):
    """Depthwise separable convolutions, one of them with two outputs for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 16, 2)
        self.depthwise = convolution(16, 16, groups=16)
        self.pointwise = convolution(16, 32, kernel=1)
        self.multiplier = convolution(32, 64, groups=32)
        self.project = convolution(64, 32, kernel=1)
        self.head = Classifier(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.project(self.multiplier(self.pointwise(self.depthwise(self.stem(x))))))


class SqueezeExcite(nn.Module):
    """Channels scaled by what all channels say (Hu et al. 2018), and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 2)
        self.squeeze = nn.Conv2d(32, 8, 1)
        self.excite = nn.Conv2d(8, 32, 1)
        self.body = convolution(32, 32)
        self.head = Classifier(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(self.body(x * scale) + x)


class Shuffle(nn.Module):
    """Grouped convolutions with a channel shuffle between them (Zhang et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 2)
        self.first = convolution(32, 32, groups=4, kernel=1)
        self.second = convolution(32, 32, groups=4, kernel=1)
        self.wide = convolution(32, 64)
        self.head = Classifier(64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(self.wide(self.second(x)))


class UNet(nn.Module):
    """Down, up with a transposed convolution, and a skip; gives 5 channels of 32x32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = convolution(3, 16), convolution(16, 32, 2)
        self.middle = convolution(32, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.merge = convolution(32, 16)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        x = self.up(self.middle(self.down2(skip)))
        return self.out(self.merge(torch.cat([x, skip], 1)))


class LSTMHead(nn.Module):
    """Convolutions, then an LSTM over the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 16, 2)
        self.body = convolution(16, 32, 2)
        self.lstm = nn.LSTM(32, 16, batch_first=True)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.body(self.stem(x)).mean(2).transpose(1, 2)
        return self.linear(self.lstm(columns)[0][:, -1])


class TiedAutoencoder(nn.Module):
    """The decoder multiplies by the transposed weight of the encoder. Takes and gives (batch, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 48)
        self.encoder = nn.Linear(48, 24)
        self.last = nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.encoder(torch.relu(self.first(x))))
        return self.last(torch.relu(F.linear(code, self.encoder.weight.t())))


class TwoInputs(nn.Module):
    """An image, and (batch, 8) numbers that are added to its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 2)
        self.numbers = nn.Linear(8, 32)
        self.body = convolution(32, 48)
        self.head = Classifier(48)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        x = self.stem(image) + self.numbers(numbers)[:, :, None, None]
        return self.head(self.body(x))


class SeveralOutputs(nn.Module):
    """Gives a tuple: logits, and the features (batch, 24, 16, 16) that they are computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 2)
        self.middle = convolution(32, 32)
        self.features = convolution(32, 24)
        self.head = Classifier(24)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(self.middle(self.stem(x)))
        return self.head(features), features


class DictOutput(nn.Module):
    """Gives a dict: boxes (batch, 4) and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 2)
        self.body = convolution(32, 32)
        self.logits = Classifier(32)
        self.boxes = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(self.stem(x))
        return {"logits": self.logits(x), "boxes": self.boxes(x.mean((2, 3)))}


class GroupNormed(nn.Module):
    """Group norm with groups of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 32, 3, 2, 1), nn.GroupNorm(4, 32)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 3, 1, 1), nn.GroupNorm(8, 64)
        self.head = Classifier(64)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.head(F.relu(self.norm2(self.conv2(x))))


class Flattened(nn.Module):
    """A linear layer that reads every pixel of every channel (VGG)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(convolution(3, 16, 2), convolution(16, 32, 2), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32 * 4 * 4, 48), nn.ReLU(), nn.Linear(48, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class FusedAttention(nn.Module):
    """A vision transformer with one linear layer for query, key and value, as timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.position = nn.Parameter(torch.randn(1, 17, 32) * 0.02)
        self.token = nn.Parameter(torch.randn(1, 1, 32) * 0.02)
        self.layers = nn.Sequential(*[FusedLayer(32, 4) for _ in range(2)])
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.layers(x))[:, 0])


class FusedLayer(nn.Module):
    """Attention and feed-forward, each behind a layer norm."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), FusedQKV(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class FusedQKV(nn.Module):
    """Self-attention over (batch, tokens, width)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query, key, value = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class TorchTransformer(nn.Module):
    """torch's own encoder layers. Takes (batch, tokens, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(32, 32)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))
