"""Which positions of which axes can only be cut together.

Every position of every axis of a parameter is an atom, a number. The tracing rules tie atoms that must go together, and fix
those that must stay, with a reason. What is tied in the end is a unit: one channel of a convolution with its batch norm and
the inputs of its readers, or one head of an attention layer.
"""

from dataclasses import dataclass

import numpy as np

# One atom per position of an axis; None for an axis that no parameter knows, such as the batch or the pixels.
Axis = np.ndarray | None


@dataclass(frozen=True)
class Block:
    """A flat axis that the model also sees as several: (heads, width of a head), or (channels, pixels).

    Only whole rows along one of these axes can be cut, or the tensor would not be rectangular any more. Which one is decided
    by `Units.resolve`, when all is known.
    """

    flat: np.ndarray  # of the shape of the block
    axes: tuple[Axis, ...]  # of that block's axes


class Units:
    """A union-find over atoms, with a reason on every set that must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}
        self._blocks: list[Block] = []
        self._flat: np.ndarray | None = None  # the parents with all paths shortened; None once something was tied

    def new(self, size: int) -> np.ndarray:
        """An axis of fresh atoms."""
        first = len(self._parent)
        self._parent.extend(range(first, first + size))
        self._flat = None
        return np.arange(first, first + size)

    def find(self, atom: int) -> int:
        """The representative of the atom's unit."""
        root = atom
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[atom] != root:
            self._parent[atom], atom = root, self._parent[atom]
        return root

    def roots(self, atoms: np.ndarray) -> np.ndarray:
        """The representative of each."""
        if self._flat is None:  # all paths at once: a lookup for each atom costs seconds on a large transformer
            flat = np.array(self._parent, np.int64)
            while (flat[flat] != flat).any():
                flat = flat[flat]
            self._flat = flat
        return np.asarray(self._flat[atoms])

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """Tie atoms pairwise, shapes broadcast."""
        for a, b in zip(*(x.ravel().tolist() for x in np.broadcast_arrays(one, other)), strict=True):
            first, second = self.find(a), self.find(b)
            if first != second:
                self._parent[second] = first
                self._flat = None
                if second in self._reason:
                    self._reason.setdefault(first, self._reason.pop(second))

    def fix(self, axis: Axis, reason: str) -> None:
        """These atoms must stay. The reason that was there first is kept."""
        if axis is not None:
            for root in np.unique(self.roots(axis)).tolist():
                self._reason.setdefault(root, reason)

    def reason(self, atom: int) -> str | None:
        """Why the atom must stay; None where it may go."""
        return self._reason.get(self.find(atom))

    def fixed(self, axis: np.ndarray) -> bool:
        """Whether any of the atoms must stay."""
        return any(root in self._reason for root in np.unique(self.roots(axis)).tolist())

    def join(self, axes: tuple[Axis, ...], sizes: tuple[int, ...]) -> Axis:
        """The axis that flattening several gives."""
        if all(axis is None for axis in axes):
            return None
        flat = self.new(int(np.prod(sizes)))
        self.relate(flat.reshape(sizes), axes)
        return flat

    def split(self, axis: Axis, sizes: tuple[int, ...]) -> tuple[Axis, ...]:
        """The axes that one is split into; those of size 1 are None."""
        if axis is None:
            return tuple(None for _ in sizes)
        axes = tuple(self.new(size) if size > 1 else None for size in sizes)
        self.relate(axis.reshape(sizes), axes)
        return axes

    def relate(self, flat: np.ndarray, axes: tuple[Axis, ...]) -> None:
        """Remember that the atoms of `flat` are the product of the axes."""
        self._blocks.append(Block(flat, axes))

    def resolve(self) -> None:
        """Decide for every block along which of its axes it is cut, until nothing changes.

        An axis that must stay is no candidate. Of several candidates an axis whose rows are tied already is taken, else the
        first: heads stand before the width of a head.
        """
        waiting = self._blocks
        while waiting:
            undecided = [block for block in waiting if not self._decide(block, len(self._candidates(block)) < 2)]
            if len(undecided) == len(waiting):
                self._decide(undecided.pop(0), True)
            waiting = undecided
        # A unit that was fixed through a later block fixes its earlier ones.
        self._spread()

    def _candidates(self, block: Block) -> list[int]:
        return [
            position
            for position, axis in enumerate(block.axes)
            if axis is not None and not self.fixed(axis) and not self.fixed(block.flat)
        ]

    def _decide(self, block: Block, force: bool) -> bool:
        candidates = self._candidates(block)
        tied = [position for position in candidates if self._rows_are_tied(block, position)]
        if not candidates:
            for axis in (*block.axes, block.flat):
                self.fix(axis, self._why(block))
            return True
        if not tied and not force:
            return False
        chosen = (tied or candidates)[0]
        axis = block.axes[chosen]
        assert axis is not None
        self.tie(np.moveaxis(block.flat, chosen, -1), axis)
        for position, other in enumerate(block.axes):
            if position != chosen:
                self.fix(other, "the model sees it as one axis of several, and another of them is cut")
        return True

    def _rows_are_tied(self, block: Block, position: int) -> bool:
        rows = np.moveaxis(self.roots(block.flat), position, 0).reshape(block.flat.shape[position], -1)
        return bool((rows == rows[:, :1]).all())

    def _why(self, block: Block) -> str:
        for axis in (*block.axes, block.flat):
            for root in np.unique(self.roots(axis)).tolist() if axis is not None else ():
                if root in self._reason:
                    return self._reason[root]
        return "no axis of it can be cut"

    def _spread(self) -> None:
        changed = True
        while changed:
            changed = False
            for block in self._blocks:
                if self._candidates(block):
                    continue
                before = len(self._reason)
                for axis in (*block.axes, block.flat):
                    self.fix(axis, self._why(block))
                changed = changed or len(self._reason) > before
