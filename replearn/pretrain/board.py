"""A run in TensorBoard: the numbers of the log as curves, for who has the package tensorboard."""

from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = "tensorboard"  # in the folder of a run


class TensorBoard:
    """A callback of `replearn.pretrain.pretrain` that writes every record as event files.

    Use it as a context, so that the last records are on the disk at the end::

        with TensorBoard("runs/shapes/tensorboard") as board:
            pretrain(recipe, images, folder="runs/shapes", callback=board)

    Args:
        folder: For the event files. A resumed run goes on in it: what an earlier process wrote
            about steps that are made again is hidden.

    Raises:
        ValueError: The package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "tensorboard: expected the package to be installed; run pip install tensorboard, "
                "or leave --tensorboard out: log.jsonl has the same numbers"
            ) from error
        self.folder = Path(folder).expanduser()
        self._open_writer = SummaryWriter
        self._writer = None

    def __call__(self, record: dict[str, Any], history: list[dict]) -> None:
        """Write the numbers of the newest record.

        Args:
            record: The newest record of the log.
            history: All records so far; they are in the log.
        """
        if self._writer is None:
            self._writer = self._open_writer(str(self.folder), purge_step=record["step"])
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
