"""Where each tile of an image grid is, and the address of a single image."""

from __future__ import annotations

from services.dashboard.elements.image_grid import ImageGrid


def test_a_grid_knows_the_position_and_the_address_of_each_tile() -> None:
    grid = ImageGrid("generate", {"class": "cat", "seed": "7", "n": "6", "columns": "3"}, 6, 3)

    assert "--x: 100.0000%; --y: 100.0000%" in grid.tile_style(5)
    assert "--x: 50.0000%; --y: 0.0000%" in grid.tile_style(1)
    assert grid.tile_url(5) == "/files/generate?class=cat&seed=7&n=1&columns=1&first_index=5&format=png"
