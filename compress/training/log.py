"""What training says while it runs: a line of CSV for each epoch, and scalars for TensorBoard."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from compress.errors import UserError
from compress.files import write_atomically
from compress.training.result import Epoch

COLUMNS = tuple(field.name for field in fields(Epoch) if field.name != "terms")


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """Epochs, as plain data, as CSV with a heading; what is not known is empty. `loss_kd` is what the term kd adds to `loss`."""
    flat = [_flat(row) for row in rows]
    terms = dict.fromkeys(name for row in flat for name in row if name not in columns)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *terms], lineterminator="\n")
    writer.writeheader()
    for row in flat:
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch with a number of its own for each term of the loss."""
    terms = {f"loss_{name}": value for name, value in row.get("terms", {}).items()}
    return {name: value for name, value in row.items() if name != "terms"} | terms


class Log:
    """Writes every epoch as soon as it is done.

    Args:
        path: of the CSV file; None writes none.
        tensorboard: folder of TensorBoard's scalars; None writes none.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path | None, tensorboard: str | None, what: str) -> None:
        self.path, self.what = path, what
        self._writer: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("tensorboard is not installed; pip install 'compress-toolkit[tensorboard]'") from None
            self._writer = SummaryWriter(tensorboard)

    def write(self, epochs: Sequence[Epoch]) -> None:
        """The epochs so far, of which the last is new."""
        if self.path is not None:
            write_atomically(self.path, to_csv([asdict(epoch) for epoch in epochs]).encode())
        if self._writer is not None:
            for name, value in _flat(asdict(epochs[-1])).items():
                if name != "number" and value is not None:
                    self._writer.add_scalar(f"{self.what}/{name}", value, epochs[-1].number)
            self._writer.flush()

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        if self._writer is not None:
            self._writer.close()
