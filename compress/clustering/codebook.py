"""The file in which shared values take few bytes: for each tensor a codebook, and an index for each weight."""

import io
import zipfile
import zlib
from collections.abc import Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Names of a state dict hold no colon of their own.
CODEBOOK, PACKED, BYTES, SHAPE = ":codebook", ":packed", ":bytes", ":shape"
CHUNK = 2**20  # indices that are unfolded into single bits at a time; a multiple of 8, so that a chunk ends with a byte
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes at any time


def index_bits(count: int) -> int:
    """Bits of an index into a codebook of `count` values, at least 1."""
    return max(1, (count - 1).bit_length())


def codes_of(tensor: Tensor) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """A tensor's different values, sorted, and for each of its n entries the position among them, (n,).

    Raises:
        ValueError: there are more than 256 different values.
    """
    flat = tensor.detach().cpu().flatten()
    values = (flat.float() if flat.dtype == torch.bfloat16 else flat).numpy()  # numpy knows no bfloat16
    codebook = np.unique(values)
    if len(codebook) > 256:
        raise ValueError(f"{len(codebook)} different values; a codebook holds up to 256")
    return codebook, np.searchsorted(codebook, values).astype(np.uint8)


def entropy_bits(codes: NDArray[np.uint8]) -> float:
    """The least bits per index, on average, of any code that looks at each index alone: Shannon's entropy, in [0, 8]."""
    share = np.bincount(codes) / len(codes)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum()) + 0.0  # not -0.0 where there is one value


def pack(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Indices of `bits` bits each, one right behind the other, the highest bit first; the last byte is filled with zeros."""
    parts = []
    for begin in range(0, len(codes), CHUNK):
        single = np.unpackbits(codes[begin : begin + CHUNK, None], axis=1)[:, 8 - bits :]
        parts.append(np.packbits(single).tobytes())
    return b"".join(parts)


def unpack(packed: bytes, bits: int, count: int) -> NDArray[np.uint8]:
    """The reverse of `pack`: (count,)."""
    stream = np.frombuffer(packed, np.uint8)
    parts = []
    for begin in range(0, count, CHUNK):
        many = min(CHUNK, count - begin)
        single = np.unpackbits(stream[begin * bits // 8 :], count=many * bits).reshape(many, bits)
        parts.append(np.packbits(np.pad(single, ((0, 0), (8 - bits, 0))), axis=1).ravel())
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def encode(state: Mapping[str, Tensor], shared: Collection[str] = ()) -> bytes:
    """A state dict as a zip of deflated numpy arrays, which is what `numpy.load` reads.

    Args:
        state: any tensors.
        shared: names of tensors with at most 256 different values each. They are stored as a codebook and indices, which are
            packed, or one to a byte where that deflates better: an index that straddles bytes hides from the deflation what
            is frequent.

    Raises:
        ValueError: a tensor of `shared` has more different values.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, tensor in state.items():
            if name not in shared:
                plain = tensor.detach().cpu()
                _write(file, name, (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
                continue
            codebook, codes = codes_of(tensor)
            packed = pack(codes, index_bits(len(codebook)))
            in_bytes = len(zlib.compress(codes.tobytes())) < len(zlib.compress(packed))
            _write(file, name + CODEBOOK, codebook)
            _write(file, name + SHAPE, np.array(tensor.shape, np.int64))
            if in_bytes:
                _write(file, name + BYTES, codes)
            else:
                _write(file, name + PACKED, np.frombuffer(packed, np.uint8))
    return buffer.getvalue()


def _write(file: zipfile.ZipFile, name: str, array: NDArray[np.generic]) -> None:
    info = zipfile.ZipInfo(f"{name}.npy", LONG_AGO)
    info.compress_type = zipfile.ZIP_DEFLATED
    with file.open(info, "w") as entry:
        np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)


def decode(content: bytes) -> dict[str, Tensor]:
    """The state dict that `encode` was given; bfloat16 comes back as float32."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    state = {}
    for key, array in arrays.items():
        name, colon, kind = key.rpartition(":")
        if not colon:
            state[key] = torch.from_numpy(array)
        elif colon + kind in (PACKED, BYTES):
            codebook, shape = arrays[name + CODEBOOK], arrays[name + SHAPE]
            if colon + kind == PACKED:
                array = unpack(array.tobytes(), index_bits(len(codebook)), int(shape.prod()))
            state[name] = torch.from_numpy(codebook[array].reshape(shape))
    return state
