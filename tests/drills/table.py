"""Writes the table of drills in docs/explanation/reliability.md between its two markers.

`python -m tests.drills.table REPORT` reads the JSON lines that `KILN_DRILL_REPORT` collected.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.drills.breaks import BREAKS
from tests.processes import ROOT

PAGE = ROOT / "docs" / "explanation" / "reliability.md"
BEGIN, END = "<!-- table of drills: begin -->", "<!-- table of drills: end -->"
NOTHING = "nothing"


@dataclass
class Row:
    """All records of one drill."""

    broken_by_hand: str
    faults: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        self.faults += record["faults"]
        self.seconds += record["seconds"]
        if record["lost"] != NOTHING:
            self.lost.append(f"{record['lost']} {record['detail']}".strip().splitlines()[0])


def rows_of(report: Path) -> dict[str, Row]:
    """Drill -> its records, by file, and within a file in the order of the report."""
    rows: dict[str, Row] = {}
    records = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    for record in sorted(records, key=lambda record: record["test"].partition("::")[0]):
        row = rows.setdefault(record["drill"], Row(broken_by_hand(record["test"])))
        row.add(record)
    return rows


def broken_by_hand(test: str) -> str:
    """How the test was seen to fail, from its docstring or from breaks.py; "" if unknown."""
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    texts = [ast.get_docstring(node) or "" for node in functions if node.name == name.partition("[")[0]]
    match = re.search(r"^Broken by hand: (.*?)(?:\n\s*\n|\Z)", "\n".join(texts), re.MULTILINE | re.DOTALL)
    return " ".join(match[1].split()) if match else _in_breaks(test)


def _in_breaks(test: str) -> str:
    """The line that breaks.py changes for the test, or for the same test with another parameter."""
    name = test.rpartition("/")[2]
    same = [entry for entry in BREAKS if entry.drill == name] or [
        entry for entry in BREAKS if entry.drill.partition("[")[0] == name.partition("[")[0]
    ]
    return f"`{same[0].file}`: `{' '.join(same[0].old.split())}` -> `{' '.join(same[0].new.split())}`" if same else ""


def table(rows: dict[str, Row]) -> str:
    head = [
        "| drill | faults injected | what was lost | seconds | seen to fail with |",
        "| --- | ---: | --- | ---: | --- |",
    ]
    body = [
        " | ".join([f"| {_cell(name)}", f"{row.faults:,}", _cell("; ".join(row.lost)) or NOTHING, f"{row.seconds:.1f}",
                    f"{_cell(row.broken_by_hand)} |"])
        for name, row in rows.items()
    ]  # fmt: skip
    return "\n".join(head + body)


def machine() -> str:
    """Cores, processor and memory, as Linux names them."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {models[0] if models else 'an unknown processor'}, {memory_gib:.0f} GiB"


def main() -> int:
    rows = rows_of(Path(sys.argv[1]))
    text = table(rows)
    faults, lost = sum(row.faults for row in rows.values()), sum(bool(row.lost) for row in rows.values())
    seconds = sum(row.seconds for row in rows.values())
    measured = (
        f"`make drills`, {datetime.now(UTC):%Y-%m-%d}, {machine()}: {len(rows)} drills, {faults:,} faults injected, "
        f"{lost or 'none'} of the drills lost anything, {seconds / 60:.0f} minutes of drills, three files at a time."
    )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{measured}\n\n{text}\n{END}{after}", encoding="utf-8")
    sys.stdout.write(f"{text}\n\n{measured}\n")
    return 0


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
