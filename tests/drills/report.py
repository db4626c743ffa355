"""What each drill found: one JSON line per record, in the file that `KILN_DRILL_REPORT` names."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

NOTHING = "nothing"


class Drill:
    """One test's notes. They are written when the test is over, for only then it is known whether they are true."""

    def __init__(self, test: str) -> None:
        self._test, self._began_s = test, time.monotonic()
        self._records: list[dict[str, Any]] = []

    @property
    def has_recorded(self) -> bool:
        return bool(self._records)

    def record(self, name: str, faults: int, lost: str = NOTHING, detail: str = "") -> None:
        """Notes how many faults were injected and what was lost. Fails the test when that is not nothing."""
        self._records.append({"drill": name, "faults": faults, "lost": lost, "detail": detail})
        assert lost == NOTHING, f"{name}: lost {lost} {detail}"

    def close(self, failure: str = "") -> None:
        """Appends the notes to the report, with the seconds the test took; a test that failed has shown nothing."""
        file = os.environ.get("KILN_DRILL_REPORT")
        if not file:
            return
        records = self._records or [{"drill": self._test.rpartition("::")[2], "faults": 0, "lost": "", "detail": ""}]
        seconds = round(time.monotonic() - self._began_s, 1)
        with Path(file).open("a", encoding="utf-8") as report:
            for record in records:
                if failure and record["lost"] in ("", NOTHING):
                    record |= {"lost": "THE DRILL FAILED", "detail": failure}
                print(json.dumps(record | {"seconds": seconds, "test": self._test}), file=report)
