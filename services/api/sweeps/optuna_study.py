"""Optuna, asked afresh each time: a study in memory, made from a sweep's record and forgotten with the answer.

Optuna's own storages would be a second truth beside the record, and the one over Redis keeps pickles. Built anew, the
study is a pure function of the record: it survives whatever the record survives, and any replica of the API may ask.
Optuna is imported with the first question, for it takes memory that an API without sweeps does not need.
"""

from __future__ import annotations

import json
from typing import Any

from shared.sweeps.record import Choice, FloatRange, Parameter, Sweep, SweepSpec, Trial, TrialState

STARTUP_TRIALS = 10  # drawn at random, a quarter of a short sweep's; after them TPE has something to go by
PRUNING_NEEDS = 4  # trials to compare with, or as many as a quarter of a short sweep's
WARMUP_PERCENT = 10  # of the budget, before which nobody is judged


def propose(sweep: Sweep) -> dict[str, Any]:
    """Values for the next trial. The same record gives the same values."""
    plan = sweep.plan
    trial = _study(sweep).ask({name: _distribution(parameter) for name, parameter in plan.space.items()})
    return {name: _from_optuna(plan.space[name], value) for name, value in trial.params.items()}


def should_prune(sweep: Sweep, number: int, reported: dict[int, float]) -> bool:
    """Whether a trial that runs is worse so far than the median of the others at the same share of their budgets."""
    judged = sweep.trials[number].model_copy(update={"reported": reported})
    trials = (*sweep.trials[:number], judged, *sweep.trials[number + 1 :])
    study = _study(sweep.model_copy(update={"trials": trials}))
    return bool(study.pruner.prune(study, study.trials[number]))


def importances(sweep: Sweep) -> dict[str, float]:
    """Share of each parameter in what separates good trials from the rest (PED-ANOVA, arXiv:2304.10255).

    The largest first; {} as long as no trial is better than another.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(set(sweep.values.values())) < 2:
        return {}
    found = get_param_importances(_study(sweep), evaluator=PedAnovaImportanceEvaluator())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _study(sweep: Sweep) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan, few = sweep.plan, max(1, sweep.plan.n_trials // 4)
    study = optuna.create_study(
        direction=plan.objective.direction,
        # Each question has a generator of its own, or a sweep that was interrupted would repeat itself.
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=min(STARTUP_TRIALS, few), seed=(plan.seed + len(sweep.trials)) % 2**32
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=min(PRUNING_NEEDS, few), n_warmup_steps=WARMUP_PERCENT),
    )
    study.add_trials([_as_optuna(trial, plan) for trial in sweep.trials])
    return study


def _as_optuna(trial: Trial, plan: SweepSpec) -> Any:
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    states = {
        TrialState.RUNNING: State.RUNNING, TrialState.COMPLETE: State.COMPLETE, TrialState.PRUNED: State.PRUNED,
        TrialState.FAILED: State.FAIL,
    }  # fmt: skip
    return create_trial(
        state=states[trial.state],
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params={name: _to_optuna(plan.space[name], value) for name, value in trial.params.items()},
        distributions={name: _distribution(plan.space[name]) for name in trial.params},
        intermediate_values=dict(trial.reported),
    )


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choice):
        return CategoricalDistribution([json.dumps(value) for value in parameter.choices])
    if isinstance(parameter, FloatRange):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    return IntDistribution(parameter.low, parameter.ends["high"], log=parameter.log, step=parameter.step)


def _to_optuna(parameter: Parameter, value: Any) -> Any:
    return json.dumps(value) if isinstance(parameter, Choice) else value  # its choices are words and numbers only


def _from_optuna(parameter: Parameter, value: Any) -> Any:
    return json.loads(value) if isinstance(parameter, Choice) else value
