"""Stopping when a figure no longer improves, and keeping the model that was best by it."""

from __future__ import annotations

from collections.abc import Callable

from services.trainer.training.state import Best, TrainState

FEWER_IS_BETTER = {"fid"}

Tell = Callable[..., None]  # (kind of event, message, **data)


class Convergence:
    """Watches the rows of a run. What it knows is in the state, so that a run that is taken up again knows it, too."""

    def __init__(self, state: TrainState, tell: Tell) -> None:
        self._state, self._tell = state, tell
        self.is_reached = is_converged(state)

    def look(self) -> None:
        """Call it after each row of the metrics series; only those with the figure count."""
        keep_best(self._state)
        rule, best = self._state.config.early_stop, self._state.best
        if rule is None or best is None or self.is_reached or not is_converged(self._state):
            return
        self.is_reached = True
        what = f"{rule.metric} was {best.value:.4g} after {best.nimg:,} images"
        since = f"has not improved by more than {rule.minimum:g} in {rule.patience} measurements"
        self._tell("early_stop", f"{what} and {since}; training stops here", nimg=self._state.cur_nimg, best=best.nimg)


def keep_best(state: TrainState) -> None:
    """Keeps the averaged generator if its newest row is the best, by more than the minimum that counts."""
    rule, row = state.config.early_stop, state.metrics[-1]
    if rule is None or rule.metric not in row:
        return
    value, best = row[rule.metric], state.best
    sign = -1 if rule.metric in FEWER_IS_BETTER else 1
    if best is None or sign * (value - best.value) > rule.minimum:
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.ema.state_dict().items()}
        state.best = Best(state.cur_nimg, value, weights)


def is_converged(state: TrainState) -> bool:
    """Whether as many measurements as the patience have come and gone since the best one."""
    rule, best = state.config.early_stop, state.best
    if rule is None or best is None:
        return False
    since = sum(rule.metric in row and row["nimg"] > best.nimg for row in state.metrics)
    return since >= rule.patience


def take_best(state: TrainState, tell: Tell) -> int:
    """Puts the best generator into the place of the averaged one, if there is one; returns the images it has seen."""
    if state.best is None or state.config.early_stop is None:
        return state.cur_nimg
    state.ema.load_state_dict(state.best.weights)
    metric, best = state.config.early_stop.metric, state.best
    tell("best", f"the model after {best.nimg:,} images is exported: {metric} {best.value:.4g}", nimg=best.nimg)
    return best.nimg
