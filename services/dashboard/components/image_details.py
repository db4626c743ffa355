"""The dialog for one generated image: enlarged, with its provenance, other classes and neighbouring latents."""

from __future__ import annotations

from dataclasses import replace

from kiln import ModelData
from services.dashboard.elements.dialogs import close_dialog, dialog, open_dialog
from services.dashboard.elements.html import box, button, facts, heading, link, text
from services.dashboard.elements.image_grid import ImageGrid, show_tile

SMALLER_FILES = {"webp": "WebP", "jpeg": "JPEG"}
STEPS = 10  # of each interpolation towards a neighbour


class ImageDetails:
    def __init__(self) -> None:
        self._dialog = dialog("Image", "wide")
        with self._dialog:
            self._content = box("stack")

    def show(self, grid: ImageGrid, index: int, model: ModelData) -> None:
        """Opens the dialog for tile `index` of the grid."""
        self._content.clear()
        with self._content:
            self._draw_image(grid, index, model)
            if model.manifest["conditional"]:  # in other models, the class changes which latents are used
                _draw_same_latent(grid, index, model.manifest["classes"])
                _draw_neighbours(grid, index)
        open_dialog(self._dialog)

    def _draw_image(self, grid: ImageGrid, index: int, model: ModelData) -> None:
        query = grid.query
        with box("inspect"):
            show_tile(grid, index, f"Image {index}, enlarged", "big")
            with box("stack"):
                facts({
                    "Class": query.get("class", "none"), "Seed": query["seed"], "Index": index,
                    "Truncation": query.get("truncation", "off"), "Model": query["model"],
                    "SHA-256": f"{model.manifest['files']['generator.onnx'][:16]}…",
                })  # fmt: skip
                with box("row"):
                    name = f"{query.get('class', 'image')}-{query['seed']}-{index}"
                    link("Download PNG", grid.tile_url(index), "button primary", download=f"{name}.png")
                    for form, label in SMALLER_FILES.items():
                        link(label, grid.tile_url(index, form), "button", download=f"{name}.{form}")
                    button("Close", lambda: close_dialog(self._dialog), "quiet")


def _draw_same_latent(grid: ImageGrid, index: int, classes: list[str]) -> None:
    heading("The same latent in every class", 3)
    with box("strip"):
        for label in classes:
            same_latent = replace(grid, query={**grid.query, "class": label})
            show_tile(same_latent, index, label, "tile", title=label)


def _draw_neighbours(grid: ImageGrid, index: int) -> None:
    """Interpolations from this latent towards three others of the seed."""
    heading("Neighbours in latent space", 3)
    text("Each row interpolates from this image to another image of the same seed.", "p", "help")
    query = grid.query
    for other in [(index + ahead) % max(grid.n, 4) for ahead in (1, 2, 3)]:
        path = {
            "from": query["class"], "to": query["class"], "from_index": str(index), "to_index": str(other),
            "steps": str(STEPS), "seed": query["seed"], "model": query["model"],
            "truncation": query.get("truncation", ""),
        }  # fmt: skip
        row = ImageGrid("interpolate", {name: value for name, value in path.items() if value}, STEPS, STEPS)
        with box("strip"):
            for step in range(STEPS):
                show_tile(row, step, f"Step {step} towards image {other}", "tile")
