"""Records the result of each drill as a JSON line in the file that `KILN_DRILL_REPORT` names."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

NOTHING = "nothing"


class Drill:
    """Collects the records of one test and writes them when the test has passed or failed."""

    def __init__(self, test: str) -> None:
        self._test, self._started_s = test, time.monotonic()
        self._records: list[dict[str, Any]] = []

    @property
    def has_recorded(self) -> bool:
        return bool(self._records)

    def record(self, name: str, faults: int, lost: str = NOTHING, detail: str = "") -> None:
        """Records how many faults were injected and what was lost. Fails the test if anything was lost."""
        self._records.append({"drill": name, "faults": faults, "lost": lost, "detail": detail})
        assert lost == NOTHING, f"{name}: lost {lost} {detail}"

    def close(self, failure: str = "") -> None:
        """Appends the records to the report, with the duration of the test; a failed test counts as a failed drill."""
        file = os.environ.get("KILN_DRILL_REPORT")
        if not file:
            return
        records = self._records or [{"drill": self._test.rpartition("::")[2], "faults": 0, "lost": "", "detail": ""}]
        seconds = round(time.monotonic() - self._started_s, 1)
        with Path(file).open("a", encoding="utf-8") as report:
            for record in records:
                if failure and record["lost"] in ("", NOTHING):
                    record |= {"lost": "THE DRILL FAILED", "detail": failure}
                print(json.dumps(record | {"seconds": seconds, "test": self._test}), file=report)
