"""Latent vectors by counter: image i of seed s is the same whatever else is drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from services.generator.latents import MAX_SEED, Latent, draw_latents, stream_of


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.integers(0, MAX_SEED), st.lists(st.integers(0, 1023), min_size=1, max_size=6), st.integers(1, 130))
def test_an_image_does_not_depend_on_its_neighbours(seed: int, indices: list[int], latent_dim: int) -> None:
    together = draw_latents(stream_of(seed, indices), latent_dim)
    alone = np.concatenate([draw_latents([Latent(seed, index)], latent_dim) for index in indices])

    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, alone)


def test_a_smaller_count_gives_the_first_vectors_of_a_larger_one() -> None:
    sixteen = draw_latents(stream_of(7, range(16)), 100)
    np.testing.assert_array_equal(draw_latents(stream_of(7, range(4)), 100), sixteen[:4])


def test_seeds_and_indices_differ_from_one_another() -> None:
    drawn = np.concatenate([draw_latents(stream_of(seed, range(50)), 3) for seed in range(20)])

    assert len(np.unique(drawn, axis=0)) == len(drawn)
    # Seed and index are not interchangeable
    assert not np.array_equal(draw_latents([Latent(1, 2)], 8), draw_latents([Latent(2, 1)], 8))


def test_the_vectors_are_standard_normal() -> None:
    z = draw_latents(stream_of(0, range(1000)), 100)

    assert abs(z.mean()) < 4 / np.sqrt(z.size)  # four standard errors
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * z.size)


def test_truncation_keeps_the_values_inside_and_draws_the_others_again() -> None:
    free, cut = (draw_latents(stream_of(3, range(50), truncation), 64) for truncation in (None, 0.7))

    assert np.abs(cut).max() <= 0.7
    inside = np.abs(free) <= 0.7
    np.testing.assert_array_equal(cut[inside], free[inside])


def test_a_published_seed_still_gives_its_vector() -> None:
    """Frozen: a NumPy that draws differently would silently change the images of every published seed."""
    np.testing.assert_array_equal(draw_latents([Latent(42, 5)], 3)[0], np.array(FROZEN, dtype=np.float32))


FROZEN = [-0.25133100152015686, -0.6597299575805664, 0.7255331873893738]
