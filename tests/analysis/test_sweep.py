"""A sweep does every run once, whoever interrupts it, and ranks them by what they predict."""

import json
import multiprocessing
import sqlite3

import numpy as np
import pytest
import xarray as xr

from ldmfilter import LDMFilter, bin_spikes, reserve
from ldmfilter.analysis.sweep import Sweep, SweepRun, _group, _worker, combinations, draw_scores, plot_scores
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data import read_session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError
from ldmfilter.filter.runs import Run

QUICK = FilterConfig(max_steps=50, hidden=(16,), window=20, batch_size=8)
CONFIG = Config(DataConfig(), QUICK)
GRID: dict[str, list] = {"latent_dim": [3, 2]}
SEEDS = [0, 5]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("session") / "session.zarr"
    return linear_track_session(seed=3, n_units=16, duration=120.0, rest=20.0).to_zarr(path)


@pytest.fixture(scope="module")
def finished(session, tmp_path_factory):
    """A folder with odd characters, in which a sweep has run to its end."""
    folder = tmp_path_factory.mktemp("a {b} %20 #?& é") / "sweep"
    sweep = Sweep.create(folder, session, CONFIG, GRID, SEEDS)
    moves = list(sweep.run())
    return sweep, moves


def test_every_run_is_done_once_and_as_a_training_by_itself(finished, session):
    """Scores and parameters are those of plain trainings with the same options."""
    sweep, moves = finished
    runs = sweep.runs()
    # The first seed of all comes first, so that each combination has a score early.
    assert [(run.options["latent_dim"], run.seed) for run in runs] == [(3, 0), (2, 0), (3, 5), (2, 5)]
    assert [move.run.number for move in moves if move.run.ended] == [0, 1, 2, 3]
    shares = [move.share for move in moves]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    counts = reserve(bin_spikes(read_session(session), 0.1), 0.4)
    for run in (runs[1], runs[2]):
        model = LDMFilter(
            latent_dim=run.options["latent_dim"], seed=run.seed,
            max_steps=50, hidden=(16,), window=20, batch_size=8,
        ).fit(counts)  # fmt: skip
        assert run.score == pytest.approx(max(record.score for record in model.history_))
        assert Run.open(run.folder).model().model_id_ == model.model_id_
        assert run.step == model.kept_step_


def test_the_table_and_the_best(finished):
    sweep, _ = finished
    scores = {}
    for run in sweep.runs():
        scores.setdefault(run.options["latent_dim"], []).append(run.score)
    results = sweep.results()
    medians = [float(np.median(scores[one.options["latent_dim"]])) for one in results]
    assert [one.score for one in results] == pytest.approx(sorted(medians, reverse=True))
    for one in results:
        mine = scores[one.options["latent_dim"]]
        assert (one.lowest, one.highest) == (min(mine), max(mine))
    best = sweep.best()
    assert best.model().history_[-1].step == 50
    of_best = {run.folder.name: run.score for run in results[0].runs}
    assert best.folder.name == max(of_best, key=of_best.get)
    assert (sweep.folder / "best").resolve() == best.folder.resolve()
    assert Run.open(sweep.folder / "best").config == best.config
    # A run like any other: it decodes, and its reserved time was never seen.
    _, counts = best.recording()
    latents = best.model().decode(counts)
    assert isinstance(latents, xr.Dataset)
    assert float(latents["trained"].mean()) == pytest.approx(0.6, abs=0.02)


def test_the_study_holds_numbers_and_json_only(finished):
    sweep, _ = finished
    with sqlite3.connect(sweep.folder / "sweep.db") as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in database.execute(f"select * from {table}"):
                assert all(isinstance(value, int | float | str | None) for value in row)
        rows = database.execute("select trial_id, key, value_json from trial_user_attributes").fetchall()
        values = database.execute("select trial_id, value from trial_values order by trial_id").fetchall()
        names = database.execute("select distinct state from trials").fetchall()
    database.close()
    attributes = {(trial, key): json.loads(text) for trial, key, text in rows}
    assert attributes[1, "options"] == {"latent_dim": 3}
    assert {attributes[trial, "seed"] for trial in range(1, 5)} == set(SEEDS)
    assert [value for _, value in values] == pytest.approx([run.score for run in sweep.runs()])
    assert names == [("COMPLETE",)]


def test_the_same_again_does_nothing_and_another_is_refused(finished, session):
    sweep, _ = finished
    turned = {"latent_dim": [2, 3, 3]}
    again = Sweep.create(sweep.folder, session, CONFIG, turned, [5, 0])
    before = [(path, path.stat().st_mtime_ns) for path in sorted(sweep.folder.glob("0*/*"))]
    assert list(again.run()) == []
    assert [(path, path.stat().st_mtime_ns) for path in sorted(sweep.folder.glob("0*/*"))] == before
    for config, grid, seeds, trials in (
        (CONFIG, GRID, [0], None),
        (CONFIG, {"latent_dim": [3, 4]}, SEEDS, None),
        (CONFIG, GRID, SEEDS, 1),
        (CONFIG.replace(bin_size=0.2), GRID, SEEDS, None),
    ):
        with pytest.raises(InputError, match="holds a sweep of another session or other options"):
            Sweep.create(sweep.folder, session, config, grid, seeds, trials)


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_a_run_left_behind_is_gone_on_with(finished, session, tmp_path, moves, monkeypatch):
    """To the same parameters as undisturbed, wherever it was stopped."""
    monkeypatch.setattr("ldmfilter.filter.runs.CHECKPOINT_EVERY", 0.0)
    Sweep.create(tmp_path / "sweep", session, CONFIG, {"latent_dim": [3, 2]}, [5])
    first = Sweep.open(tmp_path / "sweep").run()
    for _ in range(moves):
        move = next(first)
    assert move.run.state == "started"
    first.close()
    assert [run.state for run in Sweep.open(tmp_path / "sweep").runs()] == ["started", "waiting"]
    rest = []
    for move in Sweep.open(tmp_path / "sweep").run():
        rest.append(move)
        if move.run.ended:
            break
    steps = [round(one.run.trained * 50) for one in rest if one.run.number == 0]
    assert steps[0] == [0, 0, 25][moves - 1]  # at its first move a run has no record yet
    assert {one.run.number for one in rest} == {0}
    undisturbed = finished[0].runs()[2]
    model = Run.open(tmp_path / "sweep" / "000").model()
    assert model.model_id_ == Run.open(undisturbed.folder).model().model_id_


def test_two_at_once_share_the_runs(session, tmp_path):
    """Neither takes what the other is at; each run is done once."""
    config = CONFIG.replace(max_steps=1)
    Sweep.create(tmp_path / "sweep", session, config, {"latent_dim": [2, 3, 4]}, [0])
    pair = [Sweep.open(tmp_path / "sweep").run() for _ in range(2)]
    done: list[list[int]] = [[], []]
    active = {0, 1}
    while active:
        for mine in sorted(active):
            move = next(pair[mine], None)
            if move is None:
                active.remove(mine)
            elif move.run.ended:
                done[mine].append(move.run.number)
    assert sorted(done[0] + done[1]) == [0, 1, 2]
    assert min(map(len, done)) == 1


def test_a_run_that_fails_does_not_end_the_sweep(session, tmp_path):
    """A weight decay that makes numbers infinite in a few steps; a failed run is not tried again."""
    config = CONFIG.replace(max_steps=25)
    sweep = Sweep.create(tmp_path / "sweep", session, config, {"weight_decay": [1e30, 0.01]}, [0])
    ended = [move.run for move in sweep.run() if move.run.ended]
    assert [(run.number, run.state) for run in ended] == [(0, "failed"), (1, "done")]
    failed = sweep.results()[-1]
    assert (failed.options, failed.score) == ({"weight_decay": 1e30}, None)
    assert failed.runs[0].reason.startswith("training diverged at step ")
    assert sweep.best().folder.name == "001"
    assert list(Sweep.open(sweep.folder).run()) == []


def test_no_best_where_all_failed(session, tmp_path):
    sweep = Sweep.create(tmp_path / "sweep", session, CONFIG.replace(max_steps=25), {"weight_decay": [1e30, 2e30]}, [0])
    assert [move.run.state for move in sweep.run() if move.run.ended] == ["failed", "failed"]
    assert sweep.best() is None
    assert not (sweep.folder / "best").exists()


def test_drawn_combinations(session, tmp_path):
    """As many as asked for, none twice, each with all seeds; ended between two seeds, the other is not forgotten."""
    config = CONFIG.replace(max_steps=1)
    grid = {"latent_dim": [2, 3, 4], "hidden": [(8,), (8, 8)]}
    sweep = Sweep.create(tmp_path / "sweep", session, config, grid, [0, 1], trials=3)
    assert sweep.n_runs == 6
    moves = sweep.run()
    for move in moves:
        if move.run.ended:
            break
    moves.close()
    assert len(list(Sweep.open(sweep.folder).run())) > 0
    runs = sweep.runs()
    drawn = [(run.options["latent_dim"], run.options["hidden"]) for run in runs]
    assert len(set(drawn)) == 3
    assert sorted(drawn) == sorted(list(set(drawn)) * 2)
    assert all(run.state == "done" for run in runs)
    assert list(Sweep.open(sweep.folder).run()) == []


def test_a_job_whose_caller_has_ended_begins_nothing(session, tmp_path):
    sweep = Sweep.create(tmp_path / "sweep", session, CONFIG, GRID, SEEDS)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    receiver.close()
    _worker(sweep.folder, None, sender)
    assert sweep.runs() == []


def test_combinations():
    assert combinations(CONFIG, {"latent_dim": [2, 4], "state_dim": [2, 4]}) == [
        {"latent_dim": 2, "state_dim": 2},
        {"latent_dim": 2, "state_dim": 4},
        {"latent_dim": 4, "state_dim": 4},
    ]
    assert combinations(CONFIG, {}) == [{}]
    for grid, words in (
        ({"window": [16, 32]}, "window takes one value"),
        ({"dropout": [0.1, 1.0]}, "dropout is 1.0"),
        ({"latent_dim": [4, 5], "state_dim": [2, 3]}, "state-dim is 2; it must be at least"),
        ({"max_steps": range(1, 1000), "batch_size": range(2, 1000)}, "more than the 100000"),
    ):
        with pytest.raises(InputError, match=words):
            combinations(CONFIG, grid)


def run(number, latent_dim, seed, score, tmp_path):
    state = "done" if score is not None else "failed"
    return SweepRun(number, {"latent_dim": latent_dim}, seed, state, score, 50, 2.0, 1.0, "", tmp_path)


@pytest.fixture
def results(tmp_path):
    table = {2: [0.1, 0.9, 0.5], 4: [2.0, None, 0.4], 8: [None, None, 3.0]}
    rows = [(dim, seed, score) for dim, scores in table.items() for seed, score in enumerate(scores)]
    return _group([run(number, *row, tmp_path) for number, row in enumerate(rows)])


def test_a_failed_seed_counts_as_the_worst(results):
    """Medians by hand: of 0.1, 0.5, 0.9; of -inf, 0.4, 2; of -inf, -inf, 3."""
    assert [(one.options["latent_dim"], one.score) for one in results] == [(2, 0.5), (4, 0.4), (8, None)]
    assert [(one.lowest, one.highest) for one in results] == [(0.1, 0.9), (0.4, 2.0), (3.0, 3.0)]
    assert [run.score for run in results[0].runs] == [0.9, 0.5, 0.1]


def test_the_picture_shows_the_scores(results, finished):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_scores(results, axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["latent-dim 2", "latent-dim 4", "latent-dim 8"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in dots] == [[0.1, 0.5, 0.9], [0.4, 2.0], [3.0]]
    assert [set(line.get_ydata()) for line in dots] == [{0}, {1}, {2}]
    assert [text.get_text() for text in axes.texts] == ["1 of 3 failed", "2 of 3 failed"]
    assert draw_scores(finished[0]).read_bytes().startswith(b"\x89PNG")


def test_folders_that_are_no_sweep(session, finished, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="exists already and is no sweep"):
        Sweep.create(tmp_path / "mine", session, CONFIG, GRID, SEEDS)
    with pytest.raises(InputError, match="is not a sweep folder"):
        Sweep.open(tmp_path / "mine")
    about = json.loads((finished[0].folder / "sweep.json").read_text())
    for text, words in (
        ("{", "sweep.json: damaged"),
        (json.dumps(about | {"format": 99}), "is newer than this package reads"),
        (json.dumps({"format": 1}), "sweep.json: damaged"),
    ):
        (tmp_path / "mine" / "sweep.json").write_text(text)
        with pytest.raises(InputError, match=words):
            Sweep.open(tmp_path / "mine")


def test_a_study_that_is_damaged_and_a_session_that_has_changed(session, tmp_path):
    sweep = Sweep.create(tmp_path / "sweep", session, CONFIG, GRID, SEEDS)
    other = linear_track_session(seed=4, n_units=16, duration=120.0, rest=20.0).to_zarr(tmp_path / "other.zarr")
    with pytest.raises(InputError, match=r"other.zarr: is not the session that .*sweep sweeps over"):
        next(Sweep.open(sweep.folder).run(session=other))
    (sweep.folder / "sweep.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(InputError, match=r"sweep.db: cannot be used \(file is not a database\)"):
        sweep.runs()
