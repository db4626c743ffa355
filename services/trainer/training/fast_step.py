"""The fast iteration: what training_loop.reference_iteration computes, with nothing on the path but arithmetic.

All that a step reads lies in buffers of fixed size and place. On CUDA the whole iteration (every discriminator step,
the generator step, both optimizers) is therefore recorded once as a CUDA graph and then replayed, which includes the
double backward of the gradient penalty that torch.compile cannot do. On the CPU the same function runs as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from services.trainer.data.augment import augment
from services.trainer.data.datasets import ImageDataset
from services.trainer.networks import Judge, dcgan, judge_of, resnet
from services.trainer.networks.cpu import fast_dcgan, fast_resnet
from services.trainer.training.losses import LOSSES, class_loss, gradient_penalty
from services.trainer.training.state import TrainState
from services.trainer.training.stopwatch import OFF, Stopwatch

WARM_UP = 3  # iterations before the recording: libraries choose their algorithms and workspaces meanwhile

Forward = Callable[[Tensor, Tensor], Tensor]
Part = TypeVar("Part", Forward, Judge)


class FastIteration:
    """`iterate(chosen)` takes one iteration on the images of these indices [n_critic * batch]; changes `state`."""

    def __init__(self, state: TrainState, dataset: ImageDataset) -> None:
        self.state, self.dataset = state, dataset
        config = state.config
        self.loss = LOSSES[config.loss]
        self.generate, self.judge = _fast_forward(state.generator, state), _fast_judge(state.discriminator, state)
        plain = self.judge
        # What is differentiated twice cannot be compiled. Shapes are few and fixed: each has its own code.
        self.score: Forward = lambda images, labels: plain(images, labels)[0]
        if state.runtime.compile:
            self.generate, self.judge = _compiled(self.generate), _compiled(self.judge)
        self.g_parameters = list(state.generator.parameters())
        self.d_parameters = list(state.discriminator.parameters())
        # Batch norm would mix the statistics of the real and the fake half; spectral norm allows but one call a step.
        self.is_split = any(isinstance(module, nn.BatchNorm2d) for module in state.discriminator.modules())
        self.chosen = torch.zeros(config.n_critic, config.batch_size, dtype=torch.int64, device=state.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(state.device) if state.runtime.capture else None  # type: ignore[no-untyped-call]
        self.iterations = 0

    def iterate(self, chosen: Tensor, watch: Stopwatch = OFF) -> None:
        if self.state.device.type == "cuda":
            chosen = chosen.pin_memory()
        self.chosen.copy_(chosen.view_as(self.chosen), non_blocking=True)
        if self.stream is None or watch is not OFF:
            self._step(watch)  # a graph cannot be timed from within
        elif self.graph is not None:
            self.graph.replay()
        else:
            self._warm_up_or_record(self.stream)
        self.state.steps_summed += 1
        self.iterations += 1

    def _warm_up_or_record(self, stream: torch.cuda.Stream) -> None:
        """The first iterations are trained as they are, on the recording stream; then one is recorded, and replayed."""
        if self.iterations < WARM_UP:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step(OFF)
            torch.cuda.current_stream().wait_stream(stream)
            return
        for parameter in (*self.g_parameters, *self.d_parameters):
            parameter.grad = None  # the recorded ones live in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        # The default generator is registered with every graph: replays draw what eager steps would.
        with torch.cuda.graph(graph, stream=stream):
            self._step(OFF)
        self.graph = graph
        graph.replay()  # recording computes nothing

    def _step(self, watch: Stopwatch) -> None:
        state, config = self.state, self.state.config
        sums = []
        for indices in self.chosen:
            with watch.part("data"):
                real = state.ranks.share(augment(self.dataset.images[indices], config))
                labels = state.ranks.share(self.dataset.labels[indices])
            sums.append(self._discriminator_step(real, labels, watch))
        loss_g = self._generator_step(watch)
        mean_d, loss_g = torch.stack(sums).double().mean(0), loss_g.double()
        state.sums.add_(torch.cat([mean_d[:1], loss_g[:1], mean_d[1:], loss_g[1:]]))  # in the order of SUMMED

    def _discriminator_step(self, real: Tensor, labels: Tensor, watch: Stopwatch) -> Tensor:
        """-> loss_d, gradient_penalty, d_accuracy_real, d_accuracy_fake, class_loss_d"""
        state, config = self.state, self.state.config
        with watch.part("forward"), state.autocast():
            with torch.no_grad():
                fake = self.generate(state.draw_latents(), labels).float()
            real_scores, fake_scores, logits = self._judge_pair(real, fake, labels)
            loss = self.loss.discriminator(real_scores, fake_scores).mean()
            guessing = penalty = loss.new_zeros(())
            if logits is not None:
                guessing = class_loss(logits, labels).mean()
            if config.gp_weight:
                penalty = gradient_penalty(self.score, real, fake, labels, state.draw_mix()).mean()
                # A compiled or captured path that lost the second derivative would train on without a penalty.
                assert penalty.requires_grad
        with watch.part("backward"):
            total = loss + config.gp_weight * penalty + config.class_weight * guessing
            grads = torch.autograd.grad(total, self.d_parameters, allow_unused=True)
            _keep(self.d_parameters, grads, state)
        with watch.part("optimizer"):
            state.opt_d.step()
        with torch.no_grad():
            threshold = self.loss.threshold(real_scores, fake_scores)
            accuracies = (real_scores > threshold).float().mean(), (fake_scores <= threshold).float().mean()
            return torch.stack([loss, penalty, *accuracies, guessing]).detach()

    def _judge_pair(self, real: Tensor, fake: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.is_split:
            real_scores, logits = self.judge(real, labels)
            return real_scores.float(), self.judge(fake, labels)[0].float(), logits
        scores, logits = self.judge(torch.cat([real, fake]), torch.cat([labels, labels]))
        real_scores, fake_scores = scores.float().chunk(2)
        return real_scores, fake_scores, None if logits is None else logits[: len(real)]

    def _generator_step(self, watch: Stopwatch) -> Tensor:
        """-> loss_g, class_loss_g"""
        state = self.state
        if state.runtime.compile:  # compiled code computes every gradient that it could be asked for
            _set_requires_grad(self.d_parameters, wanted=False)
        with watch.part("forward"), state.autocast():
            z = state.draw_latents()
            labels = state.draw_labels(len(self.dataset.classes))
            scores, logits = self.judge(self.generate(z, labels), labels)
            loss = self.loss.generator(scores.float()).mean()
            guessing = loss.new_zeros(()) if logits is None else class_loss(logits, labels).mean()
        with watch.part("backward"):
            # Only towards the generator: the discriminator's gradients would be thrown away.
            total = loss + state.config.class_weight * guessing
            _keep(self.g_parameters, torch.autograd.grad(total, self.g_parameters, allow_unused=True), state)
        with watch.part("optimizer"):
            state.opt_g.step()
        if state.runtime.compile:
            _set_requires_grad(self.d_parameters, wanted=True)
        return torch.stack([loss, guessing]).detach()


def _set_requires_grad(parameters: list[nn.Parameter], *, wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(wanted)


def _keep(parameters: list[nn.Parameter], grads: tuple[Tensor | None, ...], state: TrainState) -> None:
    for parameter, grad in zip(parameters, grads, strict=True):
        # The fused optimizer walks weight and gradient through memory side by side.
        if grad is not None and grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(grad)
        else:
            parameter.grad = grad
    state.ranks.average_gradients(parameters)


def _fast_forward(network: nn.Module, state: TrainState) -> Forward:
    """The network's fast forward pass where it has one, else its own."""
    if state.runtime.winograd and type(network) is dcgan.Generator:
        return lambda z, labels: fast_dcgan.generate(network, z, labels)
    if state.runtime.resample and type(network) is resnet.Generator:
        return lambda z, labels: fast_resnet.generate(network, z, labels)
    return cast(Forward, network)


def _fast_judge(network: nn.Module, state: TrainState) -> Judge:
    if state.runtime.winograd and type(network) is dcgan.Discriminator:
        return lambda images, labels: fast_dcgan.judge(network, images, labels)
    if state.runtime.resample and type(network) is resnet.Discriminator:
        return lambda images, labels: fast_resnet.judge(network, images, labels)
    return judge_of(network)


def _compiled(part: Part) -> Part:
    # Random numbers as eager code draws them.
    return cast(Part, torch.compile(part, dynamic=False, options={"fallback_random": True}))


def check_compiler(state: TrainState, num_classes: int) -> str | None:
    """Why torch.compile does not work on this machine, or None. Leaves the state and the random numbers alone."""
    if not state.runtime.compile:
        return None
    config, device = state.config, state.device
    # The shapes of training: what is compiled here is found in the compiler's cache there.
    z = state.ranks.share(torch.zeros(config.batch_size, config.latent_dim, device=device))
    labels = torch.zeros(len(z), dtype=torch.int64, device=device) % num_classes
    generate = _compiled(_fast_forward(copy.deepcopy(state.generator), state))
    judge = _compiled(_fast_judge(copy.deepcopy(state.discriminator), state))
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), state.autocast():
            judge(generate(z, labels).float(), labels)[0].sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # a missing C++ compiler or Triton, or what the compiler cannot do: all are reported
        return str(error).strip().partition("\n")[0][:300] or type(error).__name__
    return None
