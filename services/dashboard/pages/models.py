"""Published models: what they look like, how good they are and by which measure, which one is the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from kiln import _requests as wire
from kiln._requests import ModelData
from services.dashboard import sentences
from services.dashboard.elements import box, button, confirm, heading, link, open_dialog, picture, table, text
from services.dashboard.site import Page, Site

FIGURES = {
    "fid": ("FID", "lower is better"), "kid": ("KID", "lower is better"), "inception_score": ("Inception Score", ""),
    "precision": ("Precision", ""), "recall": ("Recall", ""), "class_accuracy": ("Class accuracy", ""),
}  # fmt: skip


def register(site: Site) -> None:
    @site.page("/models")
    async def models() -> None:
        page = await site.open("Models", "/models")
        await page.load(ModelsPage(page).build)


class ModelsPage:
    def __init__(self, page: Page) -> None:
        self.page = page
        self._known: list[ModelData] = []

    async def build(self) -> None:
        text("What jobs have made. The default draws whenever nobody asks for another.", "p", "lead")
        self._can_delete = await self.page.site.offers("/models/{model_id}", "delete")
        self._cards = box("cards")
        await self._look()
        self.page.keep_fresh(self._look, every_s=5.0)

    async def _look(self) -> None:
        found = await self.page.kiln.send(wire.list_models())
        if found == self._known and list(self._cards):
            return
        self._known = found
        self._cards.clear()
        with self._cards:
            for model in found:
                self._draw_card(model)
            if not found:
                self.page.empty("No models yet. A job that succeeds publishes one.", "Train one", "/jobs")

    def _draw_card(self, model: ModelData) -> None:
        manifest = model.manifest
        with box("card stack", tag="article", **{"aria-label": f"Model {model.id}"}):
            with box("row between top"):
                heading(model.id, 2, "mono")
                with box("row"):
                    for alias in model.aliases:
                        text(alias, "span", f"pill {'default' if alias == 'default' else ''}")
            if "preview.png" in manifest["files"]:
                url = f"/files/models/{model.id}/preview.png"
                picture(url, f"Ten rows of ten images by {model.id}", "pixels preview")
            if model.refused:
                text(f"It is not served: {model.refused}.", "p", "complaint")
            self._draw_facts(model)
            self._draw_figures(manifest["metrics"])
            self._draw_actions(model)

    def _draw_facts(self, model: ModelData) -> None:
        manifest = model.manifest
        facts = {
            "Preset": manifest["preset"], "Data set": manifest["dataset"],
            "Trained on": f"{sentences.count(manifest['images_seen'])} images in "
            f"{sentences.duration(manifest['wall_seconds'])}, {manifest['device']}",
            "Classes": ", ".join(manifest["classes"]) if manifest["conditional"] else "draws without one",
            "Latent": f"{manifest['latent_dim']} numbers",
            "Parity": f"within {manifest['parity']['max_abs_difference']:.1e} of torch",
        }  # fmt: skip
        if model.provider:
            facts["Served by"] = f"{model.provider.removesuffix('ExecutionProvider')}, now in memory"
        if model.memory_bytes:
            facts["Takes there"] = f"{model.memory_bytes / 1e6:.0f} MB"
        with box("facts", "dl"):
            for name, value in facts.items():
                text(name, "dt")
                text(str(value), "dd")
            text("Job", "dt")
            with box(tag="dd"):
                link(manifest["job_id"], f"/jobs/{manifest['job_id']}")

    def _draw_figures(self, metrics: Mapping[str, Any]) -> None:
        known = {name: metrics.get(name) for name in FIGURES if metrics.get(name) is not None}
        if not known:
            text("Not measured. A job measures its model when eval_images is set.", "p", "help")
            return
        with box("figures"):
            for name, value in known.items():
                with box("figure", title=FIGURES[name][1]):
                    text(sentences.value(float(value)), "span", "number")  # type: ignore[arg-type]
                    text(FIGURES[name][0], "span", "eyebrow")
        protocol = metrics.get("protocol") or {}
        if isinstance(protocol.get("class_accuracy"), Mapping):
            _draw_heat(protocol["class_accuracy"])
        with box("", "details"):
            text("How this was measured", "summary")
            rows = [(name, _protocol(value)) for name, value in protocol.items() if name != "class_accuracy"]
            table("Protocol", ("What", "How"), rows)

    def _draw_actions(self, model: ModelData) -> None:
        with box("row"):
            link("Try it", f"/?{urlencode({'model': model.id})}", "button primary")
            if "default" not in model.aliases:
                consequence = "From now on it draws when nobody asks for another."
                self._draw_action("Promote", model, "Make it the default?", consequence, self._promote)
                if self._can_delete:
                    consequence = "Its files are gone for good. Its job and its curves stay."
                    self._draw_action("Delete", model, "Delete this model?", consequence, self._delete)

    def _draw_action(self, verb: str, model: ModelData, question: str, consequence: str, act: Any) -> None:
        async def yes() -> None:
            await act(model.id)

        asked = confirm(question, f"{consequence} The model is {model.id}.", verb, yes, is_dangerous=verb == "Delete")
        opener = button(verb, lambda: open_dialog(asked), "quiet" if verb == "Delete" else "")
        opener.props["aria-label"] = f"{verb} {model.id}"

    async def _promote(self, model_id: str) -> None:
        if await self.page.does(self.page.kiln.send(wire.promote(model_id, "default"))):
            self.page.say(f"{model_id} is the default now.")
            await self._look()

    async def _delete(self, model_id: str) -> None:
        if await self.page.does(self.page.kiln.send(wire.delete_model(model_id))):
            self.page.say(f"{model_id} is deleted.")
            await self._look()


def _draw_heat(by_class: Mapping[str, float]) -> None:
    """How often the classifier agrees, class by class: the more, the warmer."""
    heading("Class accuracy by class", 3)
    with box("heat", "ul", style="list-style: none; padding: 0; margin: 0"):
        for name, share in by_class.items():
            with box("cell", "li", style=f"--share: {float(share):.3f}"):
                text(f"{100 * float(share):.0f} %", "b")
                text(name, "span")


def _protocol(value: object) -> str:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)
