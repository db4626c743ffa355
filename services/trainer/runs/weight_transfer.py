"""Copies the layers of a trained network that fit into a network for other classes or another resolution.

Layers are matched by name and shape. A network for larger images has more blocks, and those nearest to 4x4 pixels have
the same task: a block is found at the same place of its list, or at the same distance from the end. Tables with a row
per class are copied row by row, by the name of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

_PARAMETRIZED = ".parametrizations."  # spectral norm stores its tensors below this name


@dataclass(frozen=True)
class Classes:
    """The classes of the new network and of the trained one, in the order of their rows."""

    own: Sequence[str]
    trained: Sequence[str]

    @property
    def shared(self) -> list[tuple[int, int]]:
        """(own row, trained row) of each class that both have."""
        rows = {name: row for row, name in enumerate(self.trained)}
        return [(row, rows[name]) for row, name in enumerate(self.own) if name in rows]


@dataclass(frozen=True)
class Transfer:
    """The layers of one network by name: those that were copied, and those that keep their initial weights."""

    copied: list[str]
    new: list[str]


@torch.no_grad()
def transfer(network: nn.Module, saved: Mapping[str, Tensor], classes: Classes, *, is_generator: bool) -> Transfer:
    """Copies from `saved`, a state dict, in place. A layer is copied with all its tensors, or not at all.

    A generator starts at 4x4 pixels, so its layers are matched from the first; a discriminator ends there, so its
    layers are matched from the last. In a generator, the row of a class that the trained network does not know becomes
    the mean of the trained rows: an initial row would fit the scales of no trained layer. In a discriminator it stays.
    """
    state, tables = network.state_dict(), set(_class_tables(network, len(classes.own)))
    lengths = _list_lengths(state), _list_lengths(saved)
    copied: list[str] = []
    new: list[str] = []
    places: list[Callable[[str], str]] = [_same_place, partial(_from_end, lengths=lengths)]
    if not is_generator:
        places.reverse()
    for layer, names in _layers(state).items():
        source = next(_sources(names, state, saved, places, is_table=layer in tables), None)
        (new if source is None else copied).append(layer)
        for name, trained in (source or {}).items():
            if layer not in tables or name.endswith("._v"):  # spectral norm's vector over the columns
                state[name].copy_(trained)
            elif not name.endswith("._u"):  # the one over the rows, which the next step computes
                _copy_rows(state[name], trained, classes, new_rows_are_means=is_generator)
    return Transfer(copied, new)


def _copy_rows(own: Tensor, trained: Tensor, classes: Classes, *, new_rows_are_means: bool) -> None:
    """[own classes, ...] from [trained classes, ...]."""
    if new_rows_are_means:
        own.copy_(trained.mean(0, keepdim=True).expand_as(own))
    for row, trained_row in classes.shared:
        own[row].copy_(trained[trained_row])


def _sources(
    names: Sequence[str],
    state: Mapping[str, Tensor],
    saved: Mapping[str, Tensor],
    places: Sequence[Callable[[str], str]],
    *,
    is_table: bool,
) -> Iterator[dict[str, Tensor]]:
    """The trained tensors that fit all tensors of a layer, by the own names, at each of the places."""
    for place in places:
        trained = {name: saved[place(name)] for name in names if place(name) in saved}
        if len(trained) == len(names) and all(
            _fits(state[name], tensor, is_table=is_table) for name, tensor in trained.items()
        ):
            yield trained


def _fits(own: Tensor, trained: Tensor, *, is_table: bool) -> bool:
    return own.shape == trained.shape or (is_table and own.shape[1:] == trained.shape[1:])


def _layers(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of the tensors by the name of their layer."""
    layers: dict[str, list[str]] = {}
    for name in state:
        layer = name.partition(_PARAMETRIZED)[0] if _PARAMETRIZED in name else name.rpartition(".")[0]
        layers.setdefault(layer, []).append(name)
    return layers


def _class_tables(network: nn.Module, count: int) -> Iterator[str]:
    """The layers with one row per class: embeddings, and class logits."""
    for name, module in network.named_modules():
        is_logits = isinstance(module, nn.Linear) and name.rpartition(".")[2] == "classify"
        if (isinstance(module, nn.Embedding) and module.num_embeddings == count) or is_logits:
            yield name


def _list_lengths(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The length of each list of modules, by its name."""
    lengths: dict[str, int] = {}
    for name in state:
        parts = name.split(".")
        for position, part in enumerate(parts):
            if part.isdecimal():
                owner = ".".join(parts[:position])
                lengths[owner] = max(lengths.get(owner, 0), int(part) + 1)
    return lengths


def _same_place(name: str) -> str:
    return name


def _from_end(name: str, lengths: tuple[Mapping[str, int], Mapping[str, int]]) -> str:
    """The name of the tensor that is as far from the end of its list in the trained network."""
    own, trained = lengths
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdecimal():
            owner, trained_owner = ".".join(name.split(".")[:position]), ".".join(parts[:position])
            parts[position] = str(int(part) + trained.get(trained_owner, 0) - own[owner])
    return ".".join(parts)
