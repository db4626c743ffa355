"""Hyper-parameter sweeps: submits each trial as a job and records the objective value of the finished job."""
