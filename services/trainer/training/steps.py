"""One iteration of training: n_critic discriminator steps and a generator step.

No step waits for the device or changes the place of a tensor that outlives it, so that a CUDA graph can replay the
iteration: cuda_graph.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.trainer.data.augment import augment
from services.trainer.data.datasets import ImageDataset
from services.trainer.training.losses import LOSSES, class_loss, gradient_penalty
from services.trainer.training.state import TrainState
from services.trainer.training.stopwatch import OFF, Stopwatch


@dataclass(frozen=True)
class Generated:
    """Images [N, 3, H, W] of G, their classes [N], and what the frozen part of D makes of them, after augmentation."""

    images: Tensor
    labels: Tensor
    features: Tensor


def train_iteration(
    state: TrainState,
    dataset: ImageDataset,
    chosen: Tensor,
    watch: Stopwatch = OFF,
    images: Tensor | None = None,
) -> None:
    """Trains on the images at the indices `chosen` [n_critic * real batch], and adds the losses to `state.sums`.

    `images`: those images [n_critic * real batch, C, H, W], if they are on the device already.
    """
    losses_d, shared, real_batch = [], None, state.config.real_batch_size
    for step, indices in enumerate(chosen.to(dataset.device).view(state.config.n_critic, real_batch)):
        with watch.part("data"):
            batch = dataset.images[indices] if images is None else images[step * real_batch : (step + 1) * real_batch]
            real = state.ranks.local_shard(augment(batch, state.config))
            labels = state.ranks.local_shard(dataset.labels[indices])
        if state.config.g_batch == "shared":
            with watch.part("forward"), state.autocast():
                shared = generate(state, state.draw_latents(), labels)
        losses_d.append(discriminator_step(state, real, labels, watch, shared))
    drawn_from = dataset.present_labels if state.config.balance_classes else dataset.labels
    losses_g = generator_step(state, drawn_from, watch, shared).double()
    mean_d = torch.stack(losses_d).double().mean(0)
    state.sums.add_(torch.cat([mean_d[:1], losses_g[:1], mean_d[1:], losses_g[1:]]))  # in the order of SUMMED
    state.steps_summed += 1


def generate(state: TrainState, z: Tensor, labels: Tensor) -> Generated:
    """Images of the generator for latents [N, latent] and classes [N], as the discriminator sees them."""
    images = state.generate(z, labels)
    return Generated(images, labels, state.discriminator.features(state.diffaugment(images)))


def discriminator_step(
    state: TrainState, real: Tensor, labels: Tensor, watch: Stopwatch = OFF, generated: Generated | None = None
) -> Tensor:
    """Trains D on real images [N, 3, H, W] in [-1, 1] and as many generated images of the same classes.

    -> [5]: loss_d, gradient_penalty, d_accuracy_real, d_accuracy_fake, class_loss_d
    """
    config, adversarial = state.config, LOSSES[state.config.loss]
    with watch.part("forward"), state.autocast():
        with torch.no_grad(), frozen_norms(state.generator, state):
            fake = generated or generate(state, state.draw_latents(config.real_batch_size), labels)
            features = state.discriminator.features(state.diffaugment(real))
        real_scores, fake_scores, logits = score_real_and_fake(
            state, features, fake.features.detach().to(features.dtype), labels
        )
        loss = adversarial.discriminator(real_scores, fake_scores).mean()
        classification = penalty = loss.new_zeros(())
        if logits is not None:
            classification = class_loss(logits, labels).mean()
        if config.gp_weight:
            images = fake.images.detach().float()
            penalty = gradient_penalty(state.discriminator, real, images, labels, state.draw_mix()).mean()
            # Compiled or captured code that lost the second derivative would train on without a penalty.
            assert penalty.requires_grad
    total = loss + config.gp_weight * penalty + config.class_weight * classification
    _descend(state, total, state.discriminator, state.opt_d, watch)
    with torch.no_grad():
        threshold = adversarial.threshold(real_scores, fake_scores)
        accuracies = (real_scores > threshold).float().mean(), (fake_scores <= threshold).float().mean()
        return torch.stack([loss, penalty, *accuracies, classification]).detach()


def score_real_and_fake(
    state: TrainState, real: Tensor, fake: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """D's scores of the features of real and fake images, N each, in fp32, and the real images' class logits.

    One call scores both halves, except with batch norm, which would mix their statistics. `stacked_half` mixes them
    on purpose. Spectral norm needs the single call: it allows one per step.
    """
    is_stacked = state.config.d_batch == "stacked_half"
    if not is_stacked and any(isinstance(module, nn.BatchNorm2d) for module in state.discriminator.modules()):
        real_scores, logits = state.discriminate(real, labels)
        return real_scores.float(), state.discriminate(fake, labels)[0].float(), logits
    scores, logits = state.discriminate(torch.cat([real, fake]), torch.cat([labels, labels]))
    real_scores, fake_scores = scores.float().chunk(2)
    return real_scores, fake_scores, None if logits is None else logits[: len(real)]


def generator_step(
    state: TrainState, data_labels: Tensor, watch: Stopwatch = OFF, generated: Generated | None = None
) -> Tensor:
    """Trains G on `generated`, or on new images of classes in the proportions of `data_labels`.

    -> [2]: loss_g, class_loss_g
    """
    config = state.config
    state.discriminator.requires_grad_(False)  # compiled code would compute its gradients as well
    with watch.part("forward"), state.autocast(), frozen_norms(state.discriminator, state):
        fake = generated or generate(state, state.draw_latents(), state.draw_labels(data_labels))
        scores, logits = state.discriminate(fake.features, fake.labels)
        loss = LOSSES[config.loss].generator(scores.float()).mean()
        classification = loss.new_zeros(()) if logits is None else class_loss(logits, fake.labels).mean()
    _descend(state, loss + config.class_weight * classification, state.generator, state.opt_g, watch)
    state.discriminator.requires_grad_(True)
    return torch.stack([loss, classification]).detach()


@contextmanager
def frozen_norms(network: nn.Module, state: TrainState) -> Iterator[None]:
    """Batch norm of a network that the step does not train, by its running statistics where the config says so.

    Keras does that for a frozen network and in `predict`. Dropout stays on, as in Keras' `train_on_batch`.
    """
    if state.config.frozen_norm == "batch":
        yield
        return
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    yield
    for norm in norms:
        norm.train()


def _descend(
    state: TrainState, loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, watch: Stopwatch
) -> None:
    """One step of the optimizer along the gradient of `loss` with respect to the network's parameters."""
    parameters = list(network.parameters())
    with watch.part("backward"):
        optimizer.zero_grad(set_to_none=True)
        # Without `inputs` the penalty's images would get a gradient too, which takes time and is not used.
        loss.backward(inputs=parameters)  # type: ignore[no-untyped-call]
        state.ranks.average_gradients(parameters)
    with watch.part("optimizer"):
        optimizer.step()
