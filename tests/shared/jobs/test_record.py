"""The transitions of jobs, status by status. They are pure functions, so tables describe them completely."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import IllegalTransition, KilnError, StaleFence
from shared.jobs.record import TERMINAL, TRANSITIONS, Job, JobStatus, Progress, Reason, RequestedAction, new_job_id
from shared.jobs.transitions import claim, enqueued, expire, finish, release, renew, request_action, resume
from tests.shared.examples import FENCE, LEASE_S, NOW, a_job, job_in

LATE = NOW + timedelta(seconds=LEASE_S)  # the moment at which the lease of `job_in(RUNNING)` expires
REQUESTS: tuple[RequestedAction, ...] = get_args(RequestedAction)

Change = Callable[[Job, datetime], Job]

claim_job = partial(claim, worker="w2", lease_s=LEASE_S)
renew_lease = partial(renew, fence=FENCE, lease_s=LEASE_S)
expire_lease = partial(expire, max_attempts=3)

CALLS: dict[str, tuple[Change, datetime]] = {
    "claim": (claim_job, NOW),
    "claim-late": (claim_job, LATE),
    "renew": (renew_lease, NOW),
    "renew-late": (renew_lease, LATE),
    "expire": (expire_lease, NOW),
    "expire-late": (expire_lease, LATE),
    "expire-last": (partial(expire, max_attempts=1), LATE),
    "request-cancel": (partial(request_action, request="cancel"), NOW),
    "request-pause": (partial(request_action, request="pause"), NOW),
    "request-finish": (partial(request_action, request="finish"), NOW),
    "resume": (resume, NOW),
    "enqueued": (enqueued, LATE),
    **{f"finish-{status}": (partial(finish, fence=FENCE, status=status), NOW) for status in JobStatus},
    **{f"release-{status}": (partial(release, fence=FENCE, status=status), NOW) for status in JobStatus},
}

# The status of a job in the status of the column after the call of the row. "same": no field changes;
# "refused": IllegalTransition; "stale": StaleFence.
TABLE = """
                     queued     running    paused     succeeded  failed     lost       cancelled
claim                running    refused    refused    refused    refused    refused    refused
claim-late           running    running    refused    refused    refused    refused    refused
renew                stale      same       stale      stale      stale      stale      stale
renew-late           stale      running    stale      stale      stale      stale      stale
expire               same       same       same       same       same       same       same
expire-late          same       queued     same       same       same       same       same
expire-last          same       lost       same       same       same       same       same
request-cancel       cancelled  running    cancelled  same       same       same       same
request-pause        paused     running    same       same       same       same       same
request-finish       queued     running    queued     same       same       same       same
resume               same       same       queued     refused    refused    queued     refused
enqueued             queued     same       same       same       same       same       same
finish-queued        stale      refused    stale      stale      stale      stale      stale
finish-running       stale      refused    stale      stale      stale      stale      stale
finish-paused        stale      refused    stale      stale      stale      stale      stale
finish-succeeded     stale      succeeded  stale      stale      stale      stale      stale
finish-failed        stale      failed     stale      stale      stale      stale      stale
finish-lost          stale      lost       stale      stale      stale      stale      stale
finish-cancelled     stale      cancelled  stale      stale      stale      stale      stale
release-queued       stale      queued     stale      stale      stale      stale      stale
release-running      stale      refused    stale      stale      stale      stale      stale
release-paused       stale      paused     stale      stale      stale      stale      stale
release-succeeded    stale      refused    stale      stale      stale      stale      stale
release-failed       stale      refused    stale      stale      stale      stale      stale
release-lost         stale      refused    stale      stale      stale      stale      stale
release-cancelled    stale      refused    stale      stale      stale      stale      stale
"""
HEADER, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = [
    pytest.param(name, JobStatus(status), outcome, id=f"{name}-when-{status}")
    for name, *outcomes in ROWS
    for status, outcome in zip(HEADER, outcomes, strict=True)
]
ERRORS: dict[str, type[KilnError]] = {"refused": IllegalTransition, "stale": StaleFence}


def test_the_table_is_complete() -> None:
    assert [JobStatus(status) for status in HEADER] == list(JobStatus)
    assert {name for name, *_ in ROWS} == set(CALLS)


@pytest.mark.parametrize(("name", "status", "outcome"), CELLS)
def test_each_transition_in_each_status(name: str, status: JobStatus, outcome: str) -> None:
    call, now = CALLS[name]
    before = job_in(status)

    if outcome in ERRORS:
        with pytest.raises(ERRORS[outcome], match=before.id):
            call(before, now)
    elif outcome == "same":
        assert call(before, now) == before
    else:
        after = call(before, now)
        assert after.status == outcome
        assert after != before


def test_the_table_of_transitions_matches_the_functions() -> None:
    moves: set[tuple[JobStatus, JobStatus]] = set()
    for call, now in CALLS.values():
        for status in JobStatus:
            before = job_in(status)
            try:
                after = call(before, now)
            except KilnError:
                continue
            if after.status is not before.status or after.fence != before.fence:
                moves.add((before.status, after.status))

    assert moves == {(before, after) for before, reachable in TRANSITIONS.items() for after in reachable}


def test_a_job_is_over_in_the_terminal_statuses() -> None:
    over = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.LOST, JobStatus.CANCELLED}

    assert over == TERMINAL
    assert {status for status in JobStatus if job_in(status).is_over} == over
    assert {status for status in over if TRANSITIONS[status]} == {JobStatus.LOST}


# Claims and leases


def test_a_claim_gives_the_job_to_a_worker_with_a_lease() -> None:
    job = claim(a_job(), NOW, worker="w1", lease_s=LEASE_S)

    assert (job.status, job.worker, job.started_at, job.lease_until) == (JobStatus.RUNNING, "w1", NOW, LATE)
    assert (job.fence, job.attempt, job.crashes) == (1, 1, 0)


def test_a_live_lease_is_not_taken_over() -> None:
    just_before = LATE - timedelta(microseconds=1)

    with pytest.raises(IllegalTransition, match="is running on w1"):
        claim_job(job_in(JobStatus.RUNNING), just_before)


def test_an_expired_lease_is_taken_over_and_counts_as_a_crash() -> None:
    before = job_in(JobStatus.RUNNING)

    after = claim_job(before, LATE)

    assert (after.worker, after.fence) == ("w2", before.fence + 1)
    assert (after.attempt, after.crashes) == (before.attempt + 1, before.crashes + 1)
    assert after.lease_until == LATE + timedelta(seconds=LEASE_S)
    assert after.started_at == before.started_at


@pytest.mark.parametrize("name", ["renew", *(f"{f}-{s}" for f in ("finish", "release") for s in JobStatus)])
@pytest.mark.parametrize("true_fence", [FENCE - 1, FENCE + 1])
def test_a_worker_with_another_fence_changes_nothing(name: str, true_fence: int) -> None:
    call, now = CALLS[name]

    with pytest.raises(StaleFence, match=f"under fence {true_fence}; the writer holds fence {FENCE}"):
        call(job_in(JobStatus.RUNNING, fence=true_fence), now)


def test_a_worker_that_lost_its_job_to_another_is_refused() -> None:
    mine = claim(a_job(), NOW, worker="w1", lease_s=LEASE_S)
    theirs = claim(mine, LATE, worker="w2", lease_s=LEASE_S)

    with pytest.raises(StaleFence):
        renew(theirs, LATE, fence=mine.fence, lease_s=LEASE_S)
    assert renew(theirs, LATE, fence=theirs.fence, lease_s=LEASE_S).worker == "w2"


def test_a_late_worker_that_still_owns_the_job_may_renew_its_lease() -> None:
    after = renew_lease(job_in(JobStatus.RUNNING), LATE)

    assert (after.worker, after.fence) == ("w1", FENCE)
    assert after.lease_until == LATE + timedelta(seconds=LEASE_S)


def test_a_renewal_stores_progress_and_metrics() -> None:
    progress, metrics = Progress.at(10, 100, 5.0), {"nimg": 10.0, "loss_d": 0.5}

    after = renew_lease(job_in(JobStatus.RUNNING), NOW, progress=progress, metrics=metrics)

    assert (after.progress, after.metrics) == (progress, metrics)


def test_a_renewal_without_new_values_keeps_progress_metrics_and_request() -> None:
    before = job_in(JobStatus.RUNNING, progress=Progress.at(10, 100), metrics={"nimg": 10.0}, request="cancel")

    after = renew_lease(before, LATE)

    assert (after.progress, after.metrics, after.request) == (before.progress, before.metrics, "cancel")


def test_the_training_time_is_summed_over_attempts_without_waiting_time() -> None:
    first = renew_lease(job_in(JobStatus.RUNNING), NOW + timedelta(seconds=4))
    waiting = release(first, NOW + timedelta(seconds=5), fence=FENCE, status=JobStatus.PAUSED)

    second = claim_job(resume(waiting, NOW), NOW + timedelta(hours=1))
    second = renew(second, NOW + timedelta(hours=1, seconds=3), fence=FENCE + 1, lease_s=LEASE_S)

    assert second.trained_s == 4 + 3


# Ends


def test_a_finished_job_has_a_result_and_no_worker() -> None:
    before = job_in(JobStatus.RUNNING, request="finish")

    after = finish(before, LATE, fence=FENCE, status=JobStatus.SUCCEEDED, model_id="tiny-1")

    assert (after.status, after.finished_at, after.model_id) == (JobStatus.SUCCEEDED, LATE, "tiny-1")
    assert (after.lease_until, after.worker, after.request) == (None, None, None)


def test_a_failed_job_has_a_reason_and_an_error() -> None:
    after = finish(
        job_in(JobStatus.RUNNING),
        NOW,
        fence=FENCE,
        status=JobStatus.FAILED,
        reason=Reason.DIVERGED,
        error="loss is nan",
    )

    assert (after.reason, after.error, after.model_id) == (Reason.DIVERGED, "loss is nan", None)


@pytest.mark.parametrize(("crashed", "crashes"), [(False, 1), (True, 2)])
def test_a_released_job_is_unsent(crashed: bool, crashes: int) -> None:
    before = job_in(JobStatus.RUNNING, crashes=1, enqueued_at=NOW)

    after = release(before, NOW, fence=FENCE, status=JobStatus.QUEUED, crashed=crashed)

    assert (after.status, after.crashes) == (JobStatus.QUEUED, crashes)
    assert (after.lease_until, after.worker, after.enqueued_at, after.finished_at) == (None, None, None, None)


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PAUSED])
def test_a_cancel_takes_effect_when_the_worker_releases_the_job(status: JobStatus) -> None:
    after = release(job_in(JobStatus.RUNNING, request="cancel"), NOW, fence=FENCE, status=status)

    assert (after.status, after.reason, after.finished_at) == (JobStatus.CANCELLED, Reason.CANCELLED_BY_USER, NOW)


def test_a_finish_request_survives_the_loss_of_the_worker() -> None:
    requested = job_in(JobStatus.RUNNING, request="finish")

    assert release(requested, NOW, fence=FENCE, status=JobStatus.QUEUED, crashed=True).request == "finish"
    assert expire_lease(requested, LATE).request == "finish"


def test_a_released_pause_clears_the_request() -> None:
    requested = job_in(JobStatus.RUNNING, request="pause")

    assert release(requested, NOW, fence=FENCE, status=JobStatus.PAUSED).request is None


# The reaper


@pytest.mark.parametrize("crashes", [0, 1])
def test_a_job_with_an_expired_lease_is_queued_again(crashes: int) -> None:
    before = job_in(JobStatus.RUNNING, crashes=crashes, enqueued_at=NOW)

    after = expire(before, LATE, max_attempts=3)

    assert (after.status, after.crashes, after.fence) == (JobStatus.QUEUED, crashes + 1, FENCE)
    assert (after.lease_until, after.worker, after.enqueued_at, after.finished_at) == (None, None, None, None)


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_a_job_that_loses_its_worker_too_often_is_lost(max_attempts: int) -> None:
    before = job_in(JobStatus.RUNNING, crashes=max_attempts - 1)

    after = expire(before, LATE, max_attempts=max_attempts)

    assert (after.status, after.reason, after.finished_at) == (JobStatus.LOST, Reason.WORKER_LOST, LATE)
    assert after.error == f"the job lost its worker {max_attempts} times; the last worker was w1"


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_cancel_takes_effect_when_the_worker_is_lost(max_attempts: int) -> None:
    after = expire(job_in(JobStatus.RUNNING, request="cancel"), LATE, max_attempts=max_attempts)

    assert (after.status, after.reason, after.crashes) == (JobStatus.CANCELLED, Reason.CANCELLED_BY_USER, 1)


def test_the_fence_grows_with_every_claim() -> None:
    job, now, fences = a_job(), NOW, [0]
    for _ in range(3):
        job = claim(job, now, worker="w", lease_s=LEASE_S)
        fences.append(job.fence)
        now += timedelta(seconds=LEASE_S)
        job = expire(job, now, max_attempts=10)

    assert fences == [0, 1, 2, 3]
    assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, 3, 3)


# Requests of users


@pytest.mark.parametrize("pending", [None, *REQUESTS])
@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("status", JobStatus)
def test_a_request_is_idempotent(status: JobStatus, request_: RequestedAction, pending: RequestedAction | None) -> None:
    before = job_in(status, request=pending)

    once = request_action(before, NOW, request=request_)

    assert request_action(once, LATE, request=request_) == once


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_running_job_only_stores_the_request(request_: RequestedAction) -> None:
    before = job_in(JobStatus.RUNNING)

    after = request_action(before, NOW, request=request_)

    assert after == before.model_copy(update={"request": request_})


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PAUSED])
def test_a_job_that_does_not_run_is_cancelled_at_once(status: JobStatus) -> None:
    after = request_action(job_in(status), NOW, request="cancel")

    assert (after.status, after.reason, after.finished_at) == (JobStatus.CANCELLED, Reason.CANCELLED_BY_USER, NOW)


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PAUSED])
def test_a_trained_job_that_is_not_running_is_finished_by_the_next_worker(status: JobStatus) -> None:
    after = request_action(job_in(status, enqueued_at=NOW), NOW, request="finish")

    assert (after.status, after.request) == (JobStatus.QUEUED, "finish")
    assert after.is_unsent == (status is JobStatus.PAUSED)
    assert claim_job(after, LATE).request == "finish"


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PAUSED])
def test_a_job_that_was_never_trained_cannot_be_finished(status: JobStatus) -> None:
    with pytest.raises(IllegalTransition, match="never trained"):
        request_action(job_in(status, attempt=0), NOW, request="finish")


def test_resuming_a_lost_job_resets_its_number_of_crashes() -> None:
    lost = job_in(JobStatus.LOST, reason=Reason.WORKER_LOST, error="gone", crashes=3, finished_at=NOW, enqueued_at=NOW)

    after = resume(lost, LATE)

    assert (after.status, after.is_unsent, after.crashes) == (JobStatus.QUEUED, True, 0)
    assert (after.reason, after.error, after.finished_at) == (None, None, None)
    assert after.fence == lost.fence


def test_a_resumed_job_is_unsent() -> None:
    after = resume(job_in(JobStatus.PAUSED, enqueued_at=NOW), LATE)

    assert (after.status, after.enqueued_at) == (JobStatus.QUEUED, None)


def test_resuming_withdraws_a_pause_request() -> None:
    requested = request_action(job_in(JobStatus.RUNNING), NOW, request="pause")

    assert resume(requested, NOW) == job_in(JobStatus.RUNNING, id=requested.id)


@pytest.mark.parametrize("request_", ["cancel", "finish"])
def test_resuming_withdraws_no_other_request(request_: RequestedAction) -> None:
    requested = request_action(job_in(JobStatus.RUNNING), NOW, request=request_)

    assert resume(requested, NOW) == requested


def test_resuming_clears_a_pause_request_that_a_lost_worker_never_followed() -> None:
    # Given a running job with a pause request, whose worker stopped responding before it paused
    queued = expire(request_action(job_in(JobStatus.RUNNING), NOW, request="pause"), LATE, max_attempts=3)

    # When it is paused while it is queued, and resumed
    resumed = resume(request_action(queued, LATE, request="pause"), LATE)

    # Then its next worker gets no pause request
    assert (resumed.status, resumed.request) == (JobStatus.QUEUED, None)


def test_only_a_queued_job_is_marked_as_sent() -> None:
    assert enqueued(job_in(JobStatus.QUEUED), LATE).enqueued_at == LATE
    assert enqueued(job_in(JobStatus.RUNNING), LATE).enqueued_at is None


# Records


def test_a_job_is_frozen() -> None:
    job = a_job()
    with pytest.raises(ValidationError, match="frozen"):
        job.status = JobStatus.RUNNING  # type: ignore[misc]


@pytest.mark.parametrize("status", JobStatus)
def test_a_job_is_unchanged_after_a_round_trip_through_json(status: JobStatus) -> None:
    job = job_in(status, progress=Progress.at(1, 3, 0.1), metrics={"nimg": 1.0}, request="pause", reason=Reason.STALLED)

    assert Job.model_validate_json(job.model_dump_json()) == job


moments = st.datetimes(datetime(2000, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))
gaps = st.sampled_from([10**n for n in range(14)]) | st.integers(1, 10**14)


@given(moments, gaps)
def test_ids_sort_by_time(earlier: datetime, gap_us: int) -> None:
    later = earlier + timedelta(microseconds=gap_us)

    assert new_job_id(earlier) < new_job_id(later)


def test_ids_are_readable() -> None:
    job_id = new_job_id(datetime(2026, 11, 21, 21, 34, 55, 0xABCDE, tzinfo=UTC))

    assert job_id.startswith("20261121-213455-abcde")
    assert len(job_id) == len("20261121-213455-9c4d1f7a")


def test_ids_of_one_microsecond_differ_at_random() -> None:
    ids = {new_job_id(NOW) for _ in range(100)}

    assert len(ids) > 80  # of 4096 there are: 99 are expected


def test_progress_matches_a_calculation_by_hand() -> None:
    # 25 of 100 thousand images are a quarter; the other 75 thousand take 150 s at 500 images/s.
    assert Progress.at(25_000, 100_000, 500.0) == Progress(
        fraction=0.25, images_seen=25_000, images_total=100_000, images_per_second=500.0, eta_seconds=150.0
    )


def test_progress_never_exceeds_one() -> None:
    # The last step of a run may overshoot the budget.
    progress = Progress.at(1_040, 1_000, 10.0)

    assert (progress.fraction, progress.eta_seconds, progress.images_seen) == (1.0, 0.0, 1_040)


@pytest.mark.parametrize("images_per_second", [None, 0.0])
def test_progress_without_a_rate_has_no_remaining_time(images_per_second: float | None) -> None:
    assert Progress.at(0, 10, images_per_second).eta_seconds is None
