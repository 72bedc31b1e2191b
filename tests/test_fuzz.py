"""Two hundred damaged and made-up files: used or refused in one line. tests/benchmarks/fuzz.py runs thousands."""

import pytest

from tests.fuzzing import KINDS, Worker, judge, put, run_case, write_run_seeds, write_seeds

SEED, EACH = 0, 11  # cases of every kind


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def seeds(worker, tmp_path_factory):
    made = write_seeds(tmp_path_factory.mktemp("seeds") / "seeds")
    write_run_seeds(made, worker.run)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_used_or_refused_in_one_line(kind, worker, seeds, tmp_path):
    cases = [run_case(worker, seeds, kind, number, SEED, tmp_path / str(number)) for number in range(EACH)]
    assert [f"{case.number}: {case.fault}: {case.damage}: {case.err}" for case in cases if case.fault] == []


def test_sound_files_are_used(worker, seeds, tmp_path):
    """The files are sound before they are damaged: else every refusal would be the same."""
    places = {"RUN": str(seeds["run"]), "ZARR": str(seeds["zarr"])}
    for kind, about in KINDS.items():
        words = put(about.commands[0], {"IN": str(seeds[kind]), **places})
        folder = tmp_path / kind
        folder.mkdir()
        code, out, err = worker.run([*words, "--quiet"], folder, seeds[kind] if kind == "stream" else None)
        assert (code, err, judge(words, code, out, err, set(), folder)) == (0, "", ""), kind


@pytest.mark.parametrize(
    ("code", "out", "err", "new", "fault"),
    [
        (-11, "", "", set(), "crashed (SIGSEGV)"),
        (-24, "", "", set(), "endless (SIGXCPU)"),
        (70, "", "Traceback (most recent call last):", set(), "exit code 70"),
        (1, "", "ldmfilter: failed (KeyError: 3); --debug shows where", set(), "a failure of ours"),
        (3, "", "ldmfilter: a: b\nldmfilter: c", set(), "2 lines"),
        (3, "", "ldmfilter: a\x1b[31m", set(), "control characters"),
        (3, "", "ldmfilter: a: is damaged; copy it again", {"out.zarr"}, "left behind out.zarr"),
        (0, "", "warning: from somewhere", set(), "chatter"),
        (0, "", "", set(), ""),
        (3, "", "ldmfilter: a: is damaged; copy it again", set(), ""),
    ],
)
def test_the_judge(tmp_path, code, out, err, new, fault):
    assert judge(["inspect", "x"], code, out, err, new, tmp_path) == fault
