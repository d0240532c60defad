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
    """A union-find over atoms, with a reason on every set that must stay.

    The smallest atom stands for its set. All work is on whole axes at once: a network has millions of atoms.
    """

    def __init__(self) -> None:
        self._parent = np.empty(0, np.int64)  # longer than the number of atoms, so that it rarely grows
        self._count = 0
        self._stays = np.empty(0, bool)  # of representatives: whether they have a reason
        self._reason: dict[int, str] = {}
        self._blocks: list[Block] = []

    def new(self, size: int) -> np.ndarray:
        """An axis of fresh atoms."""
        atoms = np.arange(self._count, self._count + size)
        self._count += size
        if self._count > len(self._parent):
            more = max(self._count, 2 * len(self._parent)) - len(self._parent)
            self._parent = np.concatenate([self._parent, np.zeros(more, np.int64)])
            self._stays = np.concatenate([self._stays, np.zeros(more, bool)])
        self._parent[atoms] = atoms
        return atoms

    def roots(self, atoms: np.ndarray) -> np.ndarray:
        """The representative of each."""
        found = self._parent[atoms]
        while ((above := self._parent[found]) != found).any():
            found = above
        self._parent[atoms] = found  # so that the next look is short
        return np.asarray(found)

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """Tie atoms pairwise, shapes broadcast. Where both have a reason to stay, that of `one` is kept."""
        first, second = (x.ravel() for x in np.broadcast_arrays(one, other))
        while True:
            a, b = self.roots(first), self.roots(second)
            apart = a != b
            if not apart.any():
                return
            first, second, a, b = first[apart], second[apart], a[apart], b[apart]
            low, high = np.minimum(a, b), np.maximum(a, b)
            for x, y, to in zip(*(v[self._stays[a] | self._stays[b]].tolist() for v in (a, b, low)), strict=True):
                self._stay(to, self._reason.get(x) or self._reason[y], overwrite=True)
            # One set may be tied to several at once: it joins the smallest, and the next round ties the others to that.
            np.minimum.at(self._parent, high, low)

    def _stay(self, root: int, reason: str, *, overwrite: bool = False) -> None:
        if overwrite or not self._stays[root]:
            self._reason[root] = reason
            self._stays[root] = True

    def fix(self, axis: Axis, reason: str) -> None:
        """These atoms must stay. The reason that was there first is kept."""
        if axis is not None:
            for root in np.unique(self.roots(axis)).tolist():
                self._stay(root, reason)

    def reason(self, atom: int) -> str | None:
        """Why the atom must stay; None where it may go."""
        root = int(self.roots(np.array([atom]))[0])
        return self._reason[root] if self._stays[root] else None

    def fixed(self, axis: np.ndarray) -> bool:
        """Whether any of the atoms must stay."""
        return bool(self._stays[self.roots(axis)].any())

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
        for waiting in self._neighbours():
            blocks = waiting
            while waiting:
                undecided = [block for block in waiting if not self._decide(block, len(self._candidates(block)) < 2)]
                if len(undecided) == len(waiting):
                    self._decide(undecided.pop(0), True)
                waiting = undecided
            # A unit that was fixed through a later block fixes its earlier ones.
            self._spread(blocks)

    def _neighbours(self) -> list[list[Block]]:
        """The blocks, in their order, apart where no unit is in both: a decision reaches no further than this."""
        owner: dict[int, int] = {}  # representative -> the first block that has it
        leader = list(range(len(self._blocks)))

        def find(number: int) -> int:
            while leader[number] != number:
                number = leader[number] = leader[leader[number]]
            return number

        for number, block in enumerate(self._blocks):
            axes = [axis.ravel() for axis in (block.flat, *block.axes) if axis is not None]
            for root in np.unique(self.roots(np.concatenate(axes))).tolist():
                one, other = find(owner.setdefault(root, number)), find(number)
                leader[max(one, other)] = min(one, other)
        found: dict[int, list[Block]] = {}
        for number, block in enumerate(self._blocks):
            found.setdefault(find(number), []).append(block)
        return list(found.values())

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
            roots = self.roots(axis).ravel() if axis is not None else np.empty(0, np.int64)
            staying = roots[self._stays[roots]]
            if len(staying):
                return self._reason[int(staying.min())]
        return "no axis of it can be cut"

    def _spread(self, blocks: list[Block]) -> None:
        changed = True
        while changed:
            changed = False
            for block in blocks:
                axes = [axis for axis in (*block.axes, block.flat) if axis is not None]
                if self._candidates(block) or all(self._stays[self.roots(axis)].all() for axis in axes):
                    continue
                for axis in axes:
                    self.fix(axis, self._why(block))
                changed = True
