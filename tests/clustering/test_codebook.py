"""The file of shared values: bits by hand, every byte counted, and back to the same numbers."""

import io
import zipfile

import numpy as np
import pytest
import torch

from compress.clustering import codebook as module
from compress.clustering.codebook import codes_of, decode, encode, entropy_bits, index_bits, pack, unpack
from compress.clustering.kmeans import share_values


def codes(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def test_bits_of_an_index() -> None:
    assert [index_bits(count) for count in (1, 2, 3, 4, 5, 32, 33, 256)] == [1, 1, 2, 2, 3, 5, 6, 8]


def test_packing_by_hand() -> None:
    # 5, 2 and 7 in three bits are 101 010 111, and the last byte is filled up: 10101011 10000000.
    assert pack(codes(5, 2, 7), 3) == bytes([0b10101011, 0b10000000])
    assert pack(codes(1, 0, 200), 8) == bytes([1, 0, 200])
    assert pack(codes(), 3) == b""


@pytest.mark.parametrize("bits", range(1, 9))
def test_what_was_packed_comes_back(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    for count in (0, 1, 15, 16, 17, 100):
        values = np.random.default_rng(count).integers(0, 2**bits, count).astype(np.uint8)
        packed = pack(values, bits)
        assert len(packed) == (count * bits + 7) // 8
        assert np.array_equal(unpack(packed, bits, count), values)


def test_entropy_by_hand() -> None:
    assert entropy_bits(codes(0, 1, 2, 3)) == 2.0
    assert entropy_bits(codes(0, 0, 1, 2)) == 1.5  # 1/2 * 1 bit + 2 * 1/4 * 2 bits
    assert str(entropy_bits(codes(7, 7))) == "0.0"


def test_codes_by_hand() -> None:
    values, found = codes_of(torch.tensor([[0.5, -1.0], [0.0, 0.5]]))
    assert values.tolist() == [-1.0, 0.0, 0.5]
    assert found.tolist() == [2, 0, 1, 2]


def test_a_tensor_with_too_many_values_is_told() -> None:
    assert len(codes_of(torch.arange(256.0))[0]) == 256
    with pytest.raises(ValueError) as error:
        encode({"weight": torch.arange(257.0)}, ["weight"])
    assert str(error.value) == "257 different values; a codebook holds up to 256"


def kinds(content: bytes) -> list[str]:
    return [name.removesuffix(".npy") for name in zipfile.ZipFile(io.BytesIO(content)).namelist()]


def test_a_state_comes_back() -> None:
    sparse = torch.randn(64, 20) * (torch.rand(64, 20) < 0.1)
    even = torch.arange(32.0).repeat(40)[torch.randperm(1280)]  # all 32 equally often: nothing that deflation could use
    state = {
        "a.weight": share_values(sparse, 5),
        "b.weight": even.view(4, 8, 5, 8),
        "c.weight": torch.tensor(3.0),
        "d": torch.randn(3, 4),
        "steps": torch.tensor(7),
        "half": torch.randn(3).to(torch.bfloat16),
        "none": torch.zeros(0, 2),
    }
    content = encode(state, ["a.weight", "b.weight", "c.weight"])
    # Long runs of zeros deflate best as bytes, even use of all indices is packed.
    assert {"a.weight:bytes", "b.weight:packed"} < set(kinds(content))
    found = decode(content)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor.float() if name == "half" else tensor), name
        assert found[name].dtype == (torch.float32 if name == "half" else tensor.dtype)


def test_the_bytes_are_those_of_the_indices() -> None:
    weight = torch.arange(16.0).repeat(4096)[torch.randperm(16 * 4096)]
    size = len(encode({"w": weight}, ["w"]))
    assert 4 * 4096 * 16 / 8 < size < 4 * 4096 * 16 / 8 + 800  # four bits a weight, and the names
    skewed = torch.where(torch.rand(65536) < 0.9, 0.0, weight)
    bound = entropy_bits(codes_of(skewed)[1]) * 65536 / 8
    assert bound < len(encode({"w": skewed}, ["w"])) < 1.6 * bound < 4 * 65536 / 8


def test_the_same_state_gives_the_same_bytes_and_no_pickle() -> None:
    state = {"w": torch.randn(4, 4)}
    content = encode(state)
    assert content == encode(state)
    assert set(np.load(io.BytesIO(content), allow_pickle=False)) == {"w"}
