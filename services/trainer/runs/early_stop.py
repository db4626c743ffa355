"""Stops a run when a metric no longer improves, and keeps the weights with the best value of it."""

from __future__ import annotations

from services.trainer.training.state import Best, TrainState
from shared.jobs.trainer_messages import SendEvent

LOWER_IS_BETTER = {"fid"}


class EarlyStopping:
    """Watches the metrics series of a run. Its memory is part of the state, so a resumed run continues with it."""

    def __init__(self, state: TrainState, send_event: SendEvent) -> None:
        self._state, self._send_event = state, send_event
        self.has_converged = is_patience_spent(state)

    def on_metrics(self) -> None:
        """Call it after each row of the metrics series; rows without the metric are skipped."""
        update_best(self._state)
        rule, best = self._state.config.early_stop, self._state.best
        if rule is None or best is None or self.has_converged or not is_patience_spent(self._state):
            return
        self.has_converged = True
        message = (
            f"{rule.metric} was {best.value:.4g} after {best.nimg:,} images and has not improved by more than "
            f"{rule.minimum:g} in {rule.patience} measurements; training stops here"
        )
        self._send_event("early_stop", message, nimg=self._state.cur_nimg, best=best.nimg)


def update_best(state: TrainState) -> None:
    """Keeps the averaged generator if its newest row improves on the best one by more than the rule's minimum."""
    rule, row = state.config.early_stop, state.metrics[-1]
    if rule is None or rule.metric not in row:
        return
    value, best = row[rule.metric], state.best
    sign = -1 if rule.metric in LOWER_IS_BETTER else 1
    if best is None or sign * (value - best.value) > rule.minimum:
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.ema.state_dict().items()}
        state.best = Best(state.cur_nimg, value, weights)


def is_patience_spent(state: TrainState) -> bool:
    """Whether the best measurement was followed by as many others as the rule's patience."""
    rule, best = state.config.early_stop, state.best
    if rule is None or best is None:
        return False
    later = sum(rule.metric in row and row["nimg"] > best.nimg for row in state.metrics)
    return later >= rule.patience


def restore_best(state: TrainState, send_event: SendEvent) -> int:
    """Loads the best weights into the averaged generator, if any were kept; returns the images seen by then."""
    if state.best is None or state.config.early_stop is None:
        return state.cur_nimg
    state.ema.load_state_dict(state.best.weights)
    metric, best = state.config.early_stop.metric, state.best
    send_event("best", f"exporting the model after {best.nimg:,} images: {metric} {best.value:.4g}", nimg=best.nimg)
    return best.nimg
