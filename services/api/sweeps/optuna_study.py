"""Suggests trial values, prunes trials and ranks parameters with Optuna, from a sweep's record alone.

Each call builds an Optuna study in memory and discards it. An Optuna storage would be a second source of truth beside
the record, and its Redis backend stores pickles. Because a study is a pure function of the record, every replica of the
API can build it, and it is never lost. Optuna is imported on first use, to save memory in an API without sweeps.
"""

from __future__ import annotations

import json
from typing import Any

from shared.sweeps.record import Choice, FloatRange, Parameter, Sweep, SweepSpec, Trial, TrialState

# TPE needs some random trials first, and pruning some complete trials to compare with; a short sweep uses a quarter.
STARTUP_TRIALS = 10
PRUNING_STARTUP_TRIALS = 4
WARMUP_PERCENT = 10  # of the budget; no trial is pruned before it


def suggest(sweep: Sweep) -> dict[str, Any]:
    """Values for the next trial. The same record gives the same values."""
    spec = sweep.spec
    trial = _study(sweep).ask({name: _distribution(parameter) for name, parameter in spec.space.items()})
    return {name: _from_optuna(spec.space[name], value) for name, value in trial.params.items()}


def should_prune(sweep: Sweep, number: int, intermediate_values: dict[int, float]) -> bool:
    """Whether a running trial is worse than the median of the others at the same percentage of the budget."""
    running = sweep.trials[number].model_copy(update={"intermediate_values": intermediate_values})
    trials = (*sweep.trials[:number], running, *sweep.trials[number + 1 :])
    study = _study(sweep.model_copy(update={"trials": trials}))
    return bool(study.pruner.prune(study, study.trials[number]))


def importances(sweep: Sweep) -> dict[str, float]:
    """How well each parameter separates good trials from the rest (PED-ANOVA, arXiv:2304.10255), largest first.

    Empty while all trials have the same value.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(set(sweep.values.values())) < 2:
        return {}
    shares = get_param_importances(_study(sweep), evaluator=PedAnovaImportanceEvaluator())
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _study(sweep: Sweep) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec, few = sweep.spec, max(1, sweep.spec.n_trials // 4)
    study = optuna.create_study(
        direction=spec.objective.direction,
        # A new seed for each trial: with one seed, a study built anew would suggest the same values again.
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=min(STARTUP_TRIALS, few), seed=(spec.seed + len(sweep.trials)) % 2**32
        ),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=min(PRUNING_STARTUP_TRIALS, few), n_warmup_steps=WARMUP_PERCENT
        ),
    )
    study.add_trials([_as_optuna(trial, spec) for trial in sweep.trials])
    return study


def _as_optuna(trial: Trial, spec: SweepSpec) -> Any:
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    states = {
        TrialState.RUNNING: State.RUNNING, TrialState.COMPLETE: State.COMPLETE, TrialState.PRUNED: State.PRUNED,
        TrialState.FAILED: State.FAIL,
    }  # fmt: skip
    return create_trial(
        state=states[trial.state],
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params={name: _to_optuna(spec.space[name], value) for name, value in trial.params.items()},
        distributions={name: _distribution(spec.space[name]) for name in trial.params},
        intermediate_values=dict(trial.intermediate_values),
    )


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choice):
        return CategoricalDistribution([json.dumps(value) for value in parameter.choices])
    if isinstance(parameter, FloatRange):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    return IntDistribution(parameter.low, parameter.ends["high"], log=parameter.log, step=parameter.step)


def _to_optuna(parameter: Parameter, value: Any) -> Any:
    # Optuna's choices are strings and numbers only; Kiln's may be null or lists.
    return json.dumps(value) if isinstance(parameter, Choice) else value


def _from_optuna(parameter: Parameter, value: Any) -> Any:
    return json.loads(value) if isinstance(parameter, Choice) else value
