"""Client of Kiln: `from kiln import Kiln, AsyncKiln`, and the command `kiln`."""

from kiln._version import __version__
from kiln.async_client import AsyncJob, AsyncKiln
from kiln.client import Job, Kiln
from kiln.errors import (
    ApiError,
    Conflict,
    InvalidInput,
    InvalidSetting,
    KilnError,
    NotFound,
    Unauthorized,
    Unavailable,
)
from kiln.types import (
    DatasetData,
    Event,
    JobData,
    JobStatus,
    ModelData,
    Progress,
    SweepData,
    TrialData,
    VerificationData,
)

__all__ = [
    "ApiError",
    "AsyncJob",
    "AsyncKiln",
    "Conflict",
    "DatasetData",
    "Event",
    "InvalidInput",
    "InvalidSetting",
    "Job",
    "JobData",
    "JobStatus",
    "Kiln",
    "KilnError",
    "ModelData",
    "NotFound",
    "Progress",
    "SweepData",
    "TrialData",
    "Unauthorized",
    "Unavailable",
    "VerificationData",
    "__version__",
]
