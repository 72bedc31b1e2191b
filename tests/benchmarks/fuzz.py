"""Damaged and made-up files before every command that reads some: used or refused in one line, nothing else.

    python tests/benchmarks/fuzz.py [--cases 2000] [--seed 0] [--kinds nwb,zarr] [--keep FOLDER] [--json FILE]

What a case is, how files are damaged and what is judged: tests/fuzzing.py. A case is its kind, its number and the
seed; `--only KIND:NUMBER` does one again. What was wrong stays in the folder of --keep, with a line in faults.jsonl.
"""

import argparse
import collections
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present
from tests.fuzzing import KINDS, run_cases

ENDS = ("used", "refused", "training failed", "fault")


def main() -> None:
    """Run the cases, print a table by kind; exit code 1 where anything was wrong."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--cases", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--kinds", default=",".join(KINDS))
    arguments.add_argument("--only", metavar="KIND:NUMBER")
    arguments.add_argument("--keep", type=Path)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    kinds = given.kinds.split(",")
    cases = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(given.cases)]
    if given.only:
        kind, _, number = given.only.partition(":")
        kinds, cases = [kind], [(kind, int(number))]
    folder = given.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    ends: collections.Counter[tuple[str, str]] = collections.Counter()
    seconds: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    for case in run_cases(cases, given.seed, folder):
        now = time.monotonic()
        seconds[case.kind] += now - began  # type: ignore[assignment]
        began = now
        ends[case.kind, case.end] += 1
        if case.fault:
            about = {
                "case": f"{case.kind}:{case.number}", "seed": given.seed, "fault": case.fault, "damage": case.damage,
                "words": case.words, "code": case.code, "out": case.out[-500:], "err": case.err[-2000:],
            }  # fmt: skip
            print(json.dumps(about), flush=True)
            with (folder / "faults.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(about) + "\n")
    rows = [[kind, *(ends[kind, end] for end in ENDS), seconds[kind]] for kind in kinds]
    rows.append(["all", *(sum(ends[kind, end] for kind in kinds) for end in ENDS), sum(seconds.values())])
    present(f"{len(cases)} files, seed {given.seed}", ["kind", *ENDS, "seconds"], rows, given.json)
    if given.keep is None:
        shutil.rmtree(folder)
    if rows[-1][1 + ENDS.index("fault")]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
