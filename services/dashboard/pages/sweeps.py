"""Searches for good settings: how far they are, the best trial, what made the difference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from kiln import _requests as wire
from services.dashboard import sentences
from services.dashboard.curves import search_chart
from services.dashboard.elements import box, button, confirm, curves, heading, link, open_dialog, picture, table, text
from services.dashboard.job_rows import Bar
from services.dashboard.site import Page, Site

Sweep = Mapping[str, Any]


def register(site: Site) -> None:
    @site.page("/sweeps")
    async def sweeps() -> None:
        page = await site.open("Sweeps", "/sweeps")
        await page.load(SweepList(page).build)

    @site.page("/sweeps/{sweep_id}")
    async def sweep(sweep_id: str) -> None:
        page = await site.open("Sweep", "/sweeps")
        await page.load(SweepPage(page, sweep_id).build)


class SweepList:
    def __init__(self, page: Page) -> None:
        self.page = page
        self._known: list[dict[str, Any]] | None = None

    async def build(self) -> None:
        text("A sweep tries settings in many jobs, and learns from each where to look next.", "p", "lead")
        self._list = box("cards")
        await self._look()
        self.page.keep_fresh(self._look, every_s=3.0)

    async def _look(self) -> None:
        found = await self.page.kiln.send(wire.list_sweeps())
        if found == self._known:
            return
        self._known = found
        self._list.clear()
        with self._list:
            for sweep in found:
                with box("card stack", tag="article", **{"aria-label": _name(sweep)}):
                    with box("row between"):
                        with box(tag="h2"):
                            link(_name(sweep), f"/sweeps/{sweep['id']}")
                        text(sweep["status"], "span", f"pill {sweep['status']}")
                    _show_progress(sweep)
            if not found:
                self.page.empty("No sweeps yet. POST /sweeps starts one; the API's /docs has an example to copy.")


class SweepPage:
    def __init__(self, page: Page, sweep_id: str) -> None:
        self.page, self._id = page, sweep_id
        self._known: dict[str, Any] = {}

    async def build(self) -> None:
        self._all = box("stack")
        try:
            await self._look()
        except wire.NotFound:
            self.page.title.text = "No such sweep"
            self.page.empty(f"There is no sweep {self._id}.", "All sweeps", "/sweeps")
            return
        self.page.keep_fresh(self._look, every_s=3.0)

    async def _look(self) -> None:
        sweep = await self.page.kiln.send(wire.get_sweep(self._id))
        if sweep == self._known:
            return
        self._known = sweep
        self.page.title.text = _name(sweep)
        self._all.clear()
        with self._all:
            self._draw(sweep)

    def _draw(self, sweep: Sweep) -> None:
        with box("row between"):
            with box("row"):
                text(sweep["status"], "span", f"pill {sweep['status']}")
                text(f"{sweep['preset']} on {sweep['dataset']}, {sweep['id']}", "span", "soft")
            self._draw_actions(sweep)
        with box("card", tag="section", **{"aria-label": "Progress"}):
            _show_progress(sweep)
        if sweep["error"]:
            with box("card trouble", tag="section", role="alert"):
                text(sweep["error"])
        metric = sweep["objective"]["metric"]
        with box("two"):
            with box("card", tag="section", **{"aria-label": "History"}):
                heading(f"{metric}, trial by trial")
                is_min = sweep["objective"]["direction"] == "minimize"
                values = [(trial["number"], trial["value"]) for trial in sweep["trials"] if trial["value"] is not None]
                curves(search_chart(values, metric, is_min), f"{metric} of each trial")
            with box("card", tag="section", **{"aria-label": "Importances"}):
                heading("What made the difference")
                if len(values) > 1:
                    # The number of trials in the address, so that no browser shows an older picture.
                    url = f"/files/sweeps/{sweep['id']}/importances.png?as=png"
                    picture(f"{url}#{len(values)}", f"Importance of each field for {metric}", "chart-picture")
                else:
                    text("Two trials with a value are the least that can tell.", "p", "soft")
        self._draw_trials(sweep)

    def _draw_actions(self, sweep: Sweep) -> None:
        with box("row"):
            if sweep["best"] and sweep["best"]["model_id"]:
                model_id = sweep["best"]["model_id"]
                link("Try the best", f"/?{urlencode({'model': model_id})}", "button primary")
                asked = confirm("Make the best the default?", f"The model is {model_id}.", "Promote", self._promote)
                button("Promote the best", lambda: open_dialog(asked))
            if sweep["status"] == "running":
                ends = "It ends now, with those of its jobs that are not over. What was found stays."
                cancel = confirm("Cancel this sweep?", ends, "Cancel it", self._cancel, is_dangerous=True)
                button("Cancel", lambda: open_dialog(cancel), "quiet")

    async def _promote(self) -> None:
        if await self.page.ask(self.page.kiln.send(wire.promote_best(self._id))) is not None:
            self.page.say("The best trial's model is the default now.")

    async def _cancel(self) -> None:
        if await self.page.ask(self.page.kiln.send(wire.cancel_sweep(self._id))) is not None:
            await self._look()

    def _draw_trials(self, sweep: Sweep) -> None:
        with box("card", tag="section", **{"aria-label": "Trials"}):
            heading("Trials")
            names = list(sweep["space"])
            rows = [
                (trial["number"], trial["state"], sentences.value(trial["value"]),
                 *(sentences.value(trial["params"].get(name)) for name in names), trial["error"] or "")
                for trial in sweep["trials"]
            ]  # fmt: skip
            table("Trials", ("Trial", "State", sweep["objective"]["metric"], *names, "Told"), rows)
            with box("row"):
                jobs = [trial["job_id"] for trial in sweep["trials"] if trial["job_id"] and trial["value"] is not None]
                if jobs:
                    link("Compare their jobs", f"/compare?{urlencode({'jobs': ','.join(jobs[:8])})}", "button small")
        with box("card", tag="section", **{"aria-label": "Plan"}):
            heading("What is searched")
            rows = [(name, json.dumps(parameter)) for name, parameter in sweep["space"].items()]
            table("The search space", ("Field", "Values"), rows)


def _show_progress(sweep: Sweep) -> None:
    counts = sweep["counts"]
    over = sum(count for state, count in counts.items() if state != "running")
    Bar(f"progress of {_name(sweep)}").show(over / sweep["n_trials"], sweep["status"])
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    text(f"{over} of {sweep['n_trials']} trials over" + (f" ({told})" if told else ""), "p", "help")
    if best := sweep["best"]:
        found = ", ".join(f"{name} {sentences.value(value)}" for name, value in best["params"].items())
        with box("figures"), box("figure"):
            text(sentences.value(best["value"]), "span", "number")
            text(f"best {sweep['objective']['metric']}, with {found}", "span", "eyebrow")


def _name(sweep: Sweep) -> str:
    made = datetime.fromisoformat(sweep["created_at"])
    return str(sweep["name"] or f"{sweep['preset']}, {sentences.ago(made)}")
