"""A training iteration written as plainly as possible, which the trainer's own iteration is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from services.trainer.data.augment import augment
from services.trainer.data.datasets import ImageDataset
from services.trainer.training.losses import LOSSES, class_loss, gradient_penalty
from services.trainer.training.state import SUMMED, TrainState
from services.trainer.training.steps import frozen_norms


def reference_iteration(state: TrainState, dataset: ImageDataset, chosen: Tensor) -> None:
    """n_critic discriminator steps on the images at these indices [n_critic * real batch], and a generator step."""
    shared = None
    for indices in chosen.view(-1, state.config.real_batch_size):
        real, labels = augment(dataset.images[indices], state.config), dataset.labels[indices]
        if state.config.g_batch == "shared":
            with state.autocast():
                images = state.generator(state.draw_latents(), labels)
                shared = state.discriminator.features(state.diffaugment(images)), labels
        _discriminator_step(state, real, labels, shared)
    _generator_step(state, dataset.labels, shared)
    state.steps_summed += 1


def _discriminator_step(state: TrainState, real: Tensor, labels: Tensor, shared: tuple[Tensor, Tensor] | None) -> None:
    config, loss = state.config, LOSSES[state.config.loss]
    with state.autocast():
        with torch.no_grad(), frozen_norms(state.generator, state):
            if shared is None:
                fake = state.generator(state.draw_latents(config.real_batch_size), labels).float()
                fake = state.discriminator.features(state.diffaugment(fake))
            else:
                fake = shared[0].detach()
            real = state.discriminator.features(state.diffaugment(real))
        if config.d_batch == "full" and any(
            isinstance(module, nn.BatchNorm2d) for module in state.discriminator.modules()
        ):
            real_scores, logits = state.discriminator.forward_with_logits(real, labels)
            fake_scores, _ = state.discriminator.forward_with_logits(fake, labels)
        else:
            both = torch.cat([real, fake]), torch.cat([labels, labels])
            scores, logits = state.discriminator.forward_with_logits(*both)
            real_scores, fake_scores = scores.chunk(2)
            logits = None if logits is None else logits[: len(real)]
        real_scores, fake_scores = real_scores.float(), fake_scores.float()
        losses = loss.discriminator(real_scores, fake_scores)
        classification = torch.zeros(()) if logits is None else class_loss(logits, labels).mean()
        penalty = torch.zeros(())
        if config.gp_weight:
            penalty = gradient_penalty(state.discriminator, real, fake, labels, state.draw_mix()).mean()
    _descend(
        losses.mean() + config.gp_weight * penalty + config.class_weight * classification,
        state.discriminator,
        state.opt_d,
    )
    threshold = loss.threshold(real_scores, fake_scores)
    _add_to_sums(
        state,
        1 / config.n_critic,
        loss_d=losses.mean(),
        gradient_penalty=penalty,
        d_accuracy_real=(real_scores > threshold).double().mean(),
        d_accuracy_fake=(fake_scores <= threshold).double().mean(),
        class_loss_d=classification,
    )


def _generator_step(state: TrainState, data_labels: Tensor, shared: tuple[Tensor, Tensor] | None) -> None:
    with state.autocast(), frozen_norms(state.discriminator, state):
        if shared is None:
            z, labels = state.draw_latents(), state.draw_labels(data_labels)
            features = state.discriminator.features(state.diffaugment(state.generator(z, labels)))
        else:
            features, labels = shared
        scores, logits = state.discriminator.forward_with_logits(features, labels)
        losses = LOSSES[state.config.loss].generator(scores.float())
        classification = torch.zeros(()) if logits is None else class_loss(logits, labels).mean()
    _descend(losses.mean() + state.config.class_weight * classification, state.generator, state.opt_g)
    _add_to_sums(state, 1.0, loss_g=losses.mean(), class_loss_g=classification)


def _descend(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = list(network.parameters())
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        # Adam reads weights and gradients in the order of their memory.
        parameter.grad = None if grad is None else torch.empty_like(parameter).copy_(grad)
    optimizer.step()


def _add_to_sums(state: TrainState, weight: float, **values: Tensor) -> None:
    for name, value in values.items():
        state.sums[SUMMED.index(name)] += weight * value.detach().double()
