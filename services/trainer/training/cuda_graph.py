"""Records a training iteration as a CUDA graph and replays it, so that the CPU does not launch each kernel.

The graph includes the double backward of the gradient penalty, which torch.compile cannot do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.training.errors import CaptureFailed
from services.trainer.training.state import TrainState
from services.trainer.training.steps import train_iteration
from services.trainer.training.stopwatch import OFF, Stopwatch

WARM_UP = 3  # iterations before the recording, in which libraries choose their algorithms and workspaces

Iterate = Callable[[Tensor, Stopwatch], None]


def make_iteration(state: TrainState, dataset: ImageDataset) -> Iterate:
    """`train_iteration` on this state and data set; recorded and replayed where the runtime captures.

    Raises CaptureFailed, as do calls of the result, when the device or an operation cannot be recorded.
    """
    if state.runtime.capture:
        return CapturedIteration(state, dataset)
    return partial(train_iteration, state, dataset) if dataset.stream is None else partial(_streamed, state, dataset)


def _streamed(state: TrainState, dataset: ImageDataset, chosen: Tensor, watch: Stopwatch = OFF) -> None:
    """An iteration on images that are streamed to the device."""
    with watch.part("data"):
        images = dataset.gather(chosen)
    train_iteration(state, dataset, chosen, watch, images)


class CapturedIteration:
    """Trains the first iterations eagerly, records the next one, and replays that from then on."""

    def __init__(self, state: TrainState, dataset: ImageDataset) -> None:
        self.state, self.dataset = state, dataset
        size = state.config.n_critic * state.config.real_batch_size
        self.chosen = torch.zeros(size, dtype=torch.int64, device=state.device)  # the graph reads its indices here
        self.images: Tensor | None = None  # and its images here, if they are streamed
        if dataset.stream is not None:
            self.images = torch.zeros((size, *dataset.images.shape[1:]), dtype=torch.uint8, device=state.device)
        with _capture_errors():
            self.stream = torch.cuda.Stream(state.device)  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.iterations = 0

    def __call__(self, chosen: Tensor, watch: Stopwatch = OFF) -> None:
        if self.images is not None:
            self.images.copy_(self.dataset.gather(chosen))
        self.chosen.copy_(chosen.pin_memory(), non_blocking=True)
        self.iterations += 1
        if watch is not OFF:
            train_iteration(
                self.state, self.dataset, self.chosen, watch, self.images
            )  # a graph cannot be timed from within
        elif self.graph is not None:
            self.graph.replay()
            self.state.steps_summed += 1
        elif self.iterations <= WARM_UP:
            self._warm_up()
        else:
            with _capture_errors():
                self.graph = self._record()
                self.graph.replay()  # recording computes nothing
                torch.cuda.synchronize(self.state.device)  # errors of a replay appear here

    def _warm_up(self) -> None:
        """An eager iteration, on the stream that will record."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            train_iteration(self.state, self.dataset, self.chosen, images=self.images)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self) -> torch.cuda.CUDAGraph:
        for network in (self.state.generator, self.state.discriminator):
            for parameter in network.parameters():
                parameter.grad = None  # gradients of a recorded step live in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        # Every graph draws from the default generator: replays draw what eager steps would.
        with torch.cuda.graph(graph, stream=self.stream):
            train_iteration(self.state, self.dataset, self.chosen, images=self.images)
        return graph


@contextmanager
def _capture_errors() -> Iterator[None]:
    """Turns every exception into CaptureFailed, because libraries raise errors of many types during a capture."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise CaptureFailed(reason) from error
