"""What every benchmark prints: the machine and the date, a table, and JSON where asked."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any


def machine() -> str:
    """Processor, cores and system, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def present(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], json_path: Path | None = None) -> None:
    """Print a Markdown table; with a path, also write it as JSON."""
    print(f"\n{title}\n{machine()}, {date.today()}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_text(value) for value in row) + " |")
    if json_path is not None:
        content = {
            "title": title,
            "machine": machine(),
            "date": str(date.today()),
            "rows": [dict(zip(columns, row, strict=True)) for row in rows],
        }
        json_path.write_text(json.dumps(content, indent=1) + "\n")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
