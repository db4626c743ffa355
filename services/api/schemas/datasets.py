"""Responses of /datasets."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from shared.datasets.layouts import Split
from shared.datasets.report import DatasetReport


class DatasetView(BaseModel):
    """A data set. The counts of a folder are by file names in a list, and of readable images in the details."""

    name: str  # in jobs and URLs
    display_name: str
    source: Literal["pushed", "folder"]  # a folder is one below KILN_DATASETS
    classes: tuple[str, ...] = ()
    images: int | None = None  # of all splits; null if the folder cannot be used
    counts: dict[Split, dict[str, int]] = Field(default_factory=dict)  # by split and class
    digest: str | None = None  # SHA-256 of a pushed data set's files
    size_bytes: int | None = None  # of a pushed data set
    pushed_at: datetime | None = None
    problem: str | None = None  # why the folder cannot be used
    links: dict[str, str] = Field(default_factory=dict)


class DatasetDetails(DatasetView):
    """A data set with the report on its images."""

    report: DatasetReport | None  # null for CIFAR-10, and for a folder that cannot be used


class DatasetList(BaseModel):
    """All data sets, in the order of their names."""

    data: list[DatasetView]
