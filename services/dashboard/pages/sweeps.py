"""/sweeps: hyperparameter sweeps with their progress, best trial, and the importance of each parameter."""

from __future__ import annotations

from urllib.parse import urlencode

from kiln import NotFound, SweepData
from services.dashboard.components.job_rows import ProgressBar
from services.dashboard.connection import Connection
from services.dashboard.elements.charts import Points, trials_chart
from services.dashboard.elements.dialogs import confirmation, open_dialog
from services.dashboard.elements.html import box, button, chart, figure, heading, image, link, table, text
from services.dashboard.page import Page, open_page, page_at
from services.dashboard.text import format_parameter, format_value, time_ago

POLL_S = 3.0


def register(connection: Connection) -> None:
    @page_at("/sweeps")
    async def sweeps() -> None:
        page = await open_page(connection, "Sweeps", "/sweeps")
        await page.build(SweepList(page).draw)

    @page_at("/sweeps/{sweep_id}")
    async def sweep(sweep_id: str) -> None:
        page = await open_page(connection, "Sweep", "/sweeps")
        await page.build(SweepPage(page, sweep_id).draw)


class SweepList:
    def __init__(self, page: Page) -> None:
        self.page = page
        self._sweeps: list[SweepData] | None = None

    async def draw(self) -> None:
        text("A sweep searches for good hyperparameters. Each trial is a job, and guides the next trials.", "p", "lead")
        self._list = box("cards")
        await self._refresh()
        self.page.poll(self._refresh, every_s=POLL_S)

    async def _refresh(self) -> None:
        sweeps = list(await self.page.kiln.sweeps.list())
        if sweeps == self._sweeps:
            return
        self._sweeps = sweeps
        self._list.clear()
        with self._list:
            for sweep in sweeps:
                with box("card stack", tag="article", **{"aria-label": _title(sweep)}):
                    with box("row between"):
                        with box(tag="h2"):
                            link(_title(sweep), f"/sweeps/{sweep.id}")
                        text(sweep.status, "span", f"pill {sweep.status}")
                    _show_progress(sweep)
            if not sweeps:
                self.page.empty_state("No sweeps yet. Start one with `kiln sweep` or POST /sweeps.")


class SweepPage:
    def __init__(self, page: Page, sweep_id: str) -> None:
        self.page, self._id = page, sweep_id
        self._sweep: SweepData | None = None

    async def draw(self) -> None:
        self._content = box("stack")
        try:
            await self._refresh()
        except NotFound:
            self.page.title.text = "Sweep not found"
            self.page.empty_state(f"This Kiln has no sweep {self._id}.", "All sweeps", "/sweeps")
            return
        self.page.poll(self._refresh, every_s=POLL_S)

    async def _refresh(self) -> None:
        sweep = await self.page.kiln.sweeps.get(self._id)
        if sweep == self._sweep:
            return
        self._sweep = sweep
        self.page.title.text = _title(sweep)
        self._content.clear()
        with self._content:
            self._draw(sweep)

    def _draw(self, sweep: SweepData) -> None:
        with box("row between"):
            with box("row"):
                text(sweep.status, "span", f"pill {sweep.status}")
                text(f"{sweep.preset} on {sweep.dataset}, {sweep.id}", "span", "soft")
            self._draw_actions(sweep)
        with box("card", tag="section", **{"aria-label": "Progress"}):
            _show_progress(sweep)
        if sweep.error:
            with box("card trouble", tag="section", role="alert"):
                text(sweep.error)
        with box("two"):
            _draw_charts(sweep)
        _draw_trials(sweep)

    def _draw_actions(self, sweep: SweepData) -> None:
        with box("row"):
            if sweep.best and sweep.best.model_id:
                model_id = sweep.best.model_id
                link("Try the best model", f"/?{urlencode({'model': model_id})}", "button primary")
                question = "Make the best trial's model the default?"
                promote = confirmation(
                    question, f"{model_id}: Requests that name no model will use it.", "Promote", self._promote
                )
                button("Promote the best model", lambda: open_dialog(promote))
            if sweep.status == "running":
                consequence = "Its running jobs are cancelled and no new trials start. Finished trials are kept."
                cancel = confirmation(
                    "Cancel this sweep?", consequence, "Cancel sweep", self._cancel, is_destructive=True
                )
                button("Cancel", lambda: open_dialog(cancel), "quiet")

    async def _promote(self) -> None:
        if await self.page.succeeded(self.page.kiln.sweeps.promote(self._id)):
            self.page.toast("The best trial's model is now the default model.")

    async def _cancel(self) -> None:
        if await self.page.succeeded(self.page.kiln.sweeps.cancel(self._id)):
            await self._refresh()


def _draw_charts(sweep: SweepData) -> None:
    metric = sweep.objective["metric"]
    values: Points = [(trial.number, trial.value) for trial in sweep.trials if trial.value is not None]
    with box("card", tag="section", **{"aria-label": "History"}):
        heading(f"{metric} by trial")
        is_min = sweep.objective["direction"] == "minimize"
        chart(trials_chart(values, metric, is_min), f"{metric} of each trial")
    with box("card", tag="section", **{"aria-label": "Importances"}):
        heading("Parameter importances")
        if len(values) > 1:
            # The number of trials is in the address, so that the browser loads the new picture.
            url = f"/files/sweeps/{sweep.id}/importances.png?as=png"
            image(f"{url}#{len(values)}", f"Importance of each parameter for {metric}", "chart-picture")
        else:
            text("Available after two finished trials.", "p", "soft")


def _draw_trials(sweep: SweepData) -> None:
    with box("card", tag="section", **{"aria-label": "Trials"}):
        heading("Trials")
        names = list(sweep.space)
        rows = [
            (trial.number, trial.state, format_value(trial.value),
             *(format_value(trial.params.get(name)) for name in names), trial.error or "")
            for trial in sweep.trials
        ]  # fmt: skip
        table("Trials", ("Trial", "State", sweep.objective["metric"], *names, "Error"), rows)
        with box("row"):
            jobs = [trial.job_id for trial in sweep.trials if trial.job_id and trial.value is not None]
            if jobs:
                link("Compare the jobs", f"/compare?{urlencode({'jobs': ','.join(jobs[:8])})}", "button small")
    with box("card", tag="section", **{"aria-label": "Search space"}):
        heading("Search space")
        rows = [(name, format_parameter(parameter)) for name, parameter in sweep.space.items()]
        table("Search space", ("Parameter", "Values"), rows)


def _show_progress(sweep: SweepData) -> None:
    counts = sweep.counts
    over = sum(count for state, count in counts.items() if state != "running")
    ProgressBar(f"Progress of {_title(sweep)}").show(over / sweep.n_trials, sweep.status)
    by_state = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    text(f"{over} of {sweep.n_trials} trials finished" + (f" ({by_state})" if by_state else ""), "p", "help")
    if best := sweep.best:
        params = ", ".join(f"{name} {format_value(value)}" for name, value in best.params.items())
        with box("figures"):
            figure(format_value(best.value), f"best {sweep.objective['metric']}, with {params}")


def _title(sweep: SweepData) -> str:
    return sweep.name or f"{sweep.preset}, {time_ago(sweep.created_at)}"
