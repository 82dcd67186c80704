"""What networks run in where latency is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from torch import Tensor, nn

from lissom.errors import MeasureError
from lissom.export.onnx import Chains, export_onnx
from lissom.measure.operation import Operation

Call = Callable[[], object]
Samples = Callable[[], list[list[float]]]


@dataclass(frozen=True, slots=True)
class Runnable:
    """A network as it can be run: the module, its ONNX file, or both.

    Attributes:
        network: In eval mode; None where there is the file alone.
        file: In ONNX; None: who needs it exports the network.
    """

    network: nn.Module | None = None
    file: Path | None = None

    @contextmanager
    def as_file(self, inputs: Sequence[Tensor], chains: Chains = "merged") -> Iterator[Path]:
        """Give an ONNX file that stays as long as the block runs.

        Args:
            inputs: Of the network, batch in front.
            chains: As for ``export_onnx``.

        Raises:
            ExportError: The network can't be exported.
        """
        if self.file is not None:
            yield self.file
            return
        assert self.network is not None
        with TemporaryDirectory(prefix="lissom-run-") as folder:
            path = Path(folder) / "network.onnx"
            export_onnx(self.network, inputs, path, chains=chains)
            yield path

    @property
    def module(self) -> nn.Module:
        """Give the module.

        Raises:
            MeasureError: There is the file alone.
        """
        if self.network is None:
            raise MeasureError(
                f"latency.runtime: torch can't run {self.file}, which ONNX describes; take "
                "onnxruntime or openvino"
            )
        return self.network


class Runtime(Protocol):
    """Runs networks, and tells what single operations take in it.

    Attributes:
        label: Name, version and number format, as reports and caches have it.
    """

    label: str

    def call(self, given: Runnable, inputs: Sequence[Tensor], threads: int) -> Call:
        """Load a network and give one run of it.

        Raises:
            ExportError: The runtime can't run it.
            MeasureError: The runtime can't run anything of this kind.
        """

    def samples(self, operations: Sequence[Operation], batch: int, threads: int) -> Samples:
        """Prepare to time operations that are run one after another.

        Returns:
            A function that times all of them several times and gives, per operation, samples in
            microseconds; none where the runtime says nothing of one. Operations that have run
            before may be in memory, and what the first run alone does is left out.
        """

    def start_up(self, threads: int) -> int:
        """Give the nanoseconds that it takes to start one operation, beside its samples."""
