"""A sweep does every run once, whoever interrupts it, and ranks them by what they predict."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import xarray as xr

from ldmfilter import LDMFilter, bin_spikes, reserve
from ldmfilter.analysis.combinations import Draws, SweepRun, best_run, combinations, draw_scores, group, plot_scores
from ldmfilter.analysis.sweep import Sweep, run_sweeps
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data import read_session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError
from ldmfilter.filter.runs import Run

SMALL = {"hidden": (16,), "window": 2.0, "batch_size": 8, "dynamics": "fast", "refit": False}
QUICK = FilterConfig(max_steps=50, **SMALL)
CONFIG = Config(DataConfig(), QUICK)
GRID: dict[str, list] = {"latent_dim": [3, 2]}
SEEDS = [0, 5]


def work(sweep):
    """What happens to one sweep; its error is raised."""
    with contextlib.closing(run_sweeps([sweep])) as moves:
        for _, move in moves:
            if isinstance(move, Exception):
                raise move
            yield move


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("session") / "session.zarr"
    return linear_track_session(seed=3, n_units=16, duration=120.0, rest=20.0).to_zarr(path)


@pytest.fixture(scope="module")
def finished(session, tmp_path_factory):
    """A folder with odd characters, in which a sweep has run to its end."""
    folder = tmp_path_factory.mktemp("a {b} %20 #?& é") / "sweep"
    sweep = Sweep.create(folder, session, CONFIG, GRID, SEEDS)
    moves = [(move, sweep.share) for move in work(sweep)]
    return sweep, moves


def test_every_run_is_done_once_and_as_a_training_by_itself(finished, session):
    """Scores and parameters are those of plain trainings with the same options."""
    sweep, moves = finished
    runs = sweep.runs()
    # The first seed of all comes first, so that each combination has a score early.
    assert [(run.options["latent_dim"], run.seed) for run in runs] == [(3, 0), (2, 0), (3, 5), (2, 5)]
    assert [move.number for move, _ in moves if move.ended] == [0, 1, 2, 3]
    assert sweep.ended == 4
    shares = [share for _, share in moves]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    counts = reserve(bin_spikes(read_session(session), 0.1), 0.4)
    for run in (runs[1], runs[2]):
        model = LDMFilter(latent_dim=run.options["latent_dim"], seed=run.seed, max_steps=50, **SMALL).fit(counts)
        assert run.score == pytest.approx(model.kept_.bits_per_spike)
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
    best = Run.open(best_run(results).folder)
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


def test_the_folder_holds_data_only(finished):
    """Tensors, JSON and TOML; what was asked for and what came out stand in the run folders themselves."""
    sweep, _ = finished
    found = {str(path.relative_to(sweep.folder)) for path in sweep.folder.rglob("*") if path.is_file()}
    files = ["run.json", "config.toml", "log.jsonl", "checkpoint.safetensors", "model.safetensors", "outcome.json"]
    places = [f"{number:03d}" for number in range(4)]
    whole = {"sweep.json", *(f"{place}/{file}" for place in places for file in files)}
    assert whole <= found | {"best"}
    assert {path.rpartition("/")[2] for path in found - whole} <= {".lock", "sweep.png"}
    for run in sweep.runs():
        outcome = json.loads((run.folder / "outcome.json").read_text())
        hidden = run.hidden_units
        assert outcome == {"seconds": run.seconds, "ended": True, "reason": "", "hidden_units": hidden}
        assert 0 < hidden < 1
        assert run.seconds > 0
        trained = Run.open(run.folder)
        assert trained.config.filter.latent_dim == run.options["latent_dim"]
        assert trained.config.filter.seed == run.seed
        assert trained.model().kept_.bits_per_spike == pytest.approx(run.score)


def test_the_same_again_does_nothing_and_another_is_refused(finished, session):
    sweep, _ = finished
    turned = {"latent_dim": [2, 3, 3]}
    again = Sweep.create(sweep.folder, session, CONFIG, turned, [5, 0])
    before = [(path, path.stat().st_mtime_ns) for path in sorted(sweep.folder.glob("0*/*"))]
    assert list(work(again)) == []
    assert [(path, path.stat().st_mtime_ns) for path in sorted(sweep.folder.glob("0*/*"))] == before
    for config, grid, seeds, trials in (
        (CONFIG, GRID, [0], None),
        (CONFIG, {"latent_dim": [3, 4]}, SEEDS, None),
        (CONFIG, GRID, SEEDS, 1),
        (CONFIG.replace(bin_size=0.2), GRID, SEEDS, None),
    ):
        with pytest.raises(InputError, match="holds a sweep of another session or other options"):
            Sweep.create(sweep.folder, session, config, grid, seeds, trials)


@pytest.mark.parametrize("moves", [1, 3])
def test_a_run_left_behind_is_gone_on_with(finished, session, tmp_path, moves, monkeypatch):
    """To the same parameters as undisturbed, wherever it was stopped."""
    monkeypatch.setattr("ldmfilter.filter.runs.CHECKPOINT_EVERY", 0.0)
    Sweep.create(tmp_path / "sweep", session, CONFIG, {"latent_dim": [3, 2]}, [5])
    first = work(Sweep.open(tmp_path / "sweep"))
    for _ in range(moves):
        move = next(first)
    assert move.state == "started"
    first.close()
    assert [run.state for run in Sweep.open(tmp_path / "sweep").runs()] == ["started", "waiting"]
    rest = []
    for move in work(Sweep.open(tmp_path / "sweep")):
        rest.append(move)
        if move.ended:
            break
    steps = [round(one.trained * 50) for one in rest if one.number == 0]
    assert steps[0] == {1: 0, 3: 25}[moves]  # at its first move a run has no record yet
    assert {one.number for one in rest} == {0}
    undisturbed = finished[0].runs()[2]
    model = Run.open(tmp_path / "sweep" / "000").model()
    assert model.model_id_ == Run.open(undisturbed.folder).model().model_id_


def test_a_run_of_an_older_version_is_gone_on_with(session, tmp_path):
    """Which wrote the numbers of dimensions into the options of a run that left them open."""
    sweep = Sweep.create(tmp_path / "sweep", session, CONFIG.replace(max_steps=1), {"entropy": ["logdet"]}, [0])
    sized = sweep.config.replace(latent_dim=8, state_dim=8, seed=0)
    Run.create(tmp_path / "sweep" / "000", sized, *sweep.recording())
    assert list(work(sweep))[-1].state == "done"


def test_two_at_once_share_the_runs(session, tmp_path):
    """Neither takes what the other is at; each run is done once."""
    config = CONFIG.replace(max_steps=1)
    Sweep.create(tmp_path / "sweep", session, config, {"latent_dim": [2, 3]}, [0])
    pair = [work(Sweep.open(tmp_path / "sweep")) for _ in range(2)]
    done: list[list[int]] = [[], []]
    active = {0, 1}
    while active:
        for mine in sorted(active):
            move = next(pair[mine], None)
            if move is None:
                active.remove(mine)
            elif move.ended:
                done[mine].append(move.number)
    assert sorted(done[0] + done[1]) == [0, 1]
    assert min(map(len, done)) == 1


def test_a_run_that_fails_does_not_end_the_sweep(session, tmp_path):
    """A weight decay that makes numbers infinite in a few steps; a failed run is not tried again."""
    config = CONFIG.replace(max_steps=25)
    sweep = Sweep.create(tmp_path / "sweep", session, config, {"weight_decay": [1e30, 0.01]}, [0])
    ended = [run for run in work(sweep) if run.ended]
    assert [(run.number, run.state) for run in ended] == [(0, "failed"), (1, "done")]
    failed = sweep.results()[-1]
    assert (failed.options, failed.score) == ({"weight_decay": 1e30}, None)
    assert failed.runs[0].reason.startswith("training diverged at step ")
    assert best_run(sweep.results()).folder.name == "001"
    assert list(work(Sweep.open(sweep.folder))) == []


def test_no_best_where_all_failed(session, tmp_path):
    sweep = Sweep.create(tmp_path / "sweep", session, CONFIG.replace(max_steps=25), {"weight_decay": [1e30, 2e30]}, [0])
    assert [move.state for move in work(sweep) if move.ended] == ["failed", "failed"]
    assert best_run(sweep.results()) is None
    assert not (sweep.folder / "best").exists()


def test_drawn_combinations(session, tmp_path):
    """As many as asked for, none twice, each with all seeds; ended between two seeds, the other is not forgotten."""
    config = CONFIG.replace(max_steps=1)
    grid = {"latent_dim": [2, 3, 4], "hidden": [(8,), (8, 8)]}
    sweep = Sweep.create(tmp_path / "sweep", session, config, grid, [0, 1], trials=2)
    assert sweep.n_runs == 4
    moves = work(sweep)
    for move in moves:
        if move.ended:
            break
    moves.close()
    assert len(list(work(Sweep.open(sweep.folder)))) > 0
    runs = sweep.runs()
    drawn = [(run.options["latent_dim"], run.options["hidden"]) for run in runs]
    assert len(set(drawn)) == 2
    assert sorted(drawn) == sorted(list(set(drawn)) * 2)
    assert all(run.state == "done" for run in runs)
    assert list(work(Sweep.open(sweep.folder))) == []


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
    return SweepRun(number, {"latent_dim": latent_dim}, seed, tmp_path, state, score, 50, 2.0, 1.0)


@pytest.fixture
def results(tmp_path):
    table = {2: [0.1, 0.9, 0.5], 4: [2.0, None, 0.4], 8: [None, None, 3.0]}
    rows = [(dim, seed, score) for dim, scores in table.items() for seed, score in enumerate(scores)]
    return group([run(number, *row, tmp_path) for number, row in enumerate(rows)])


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
    draw_scores(finished[0].results(), "session.nwb", finished[0].folder / "sweep.png")
    assert (finished[0].folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


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
        (
            json.dumps(about | {"format": 99, "package_version": "9.0"}),
            "sweep format 99, made by ldmfilter 9.0, is newer than this package reads",
        ),
        (json.dumps(about | {"format": 1}), "sweep format 1 is not read any more; sweep anew"),
        (json.dumps({"format": 2}), "sweep.json: damaged"),
    ):
        (tmp_path / "mine" / "sweep.json").write_text(text)
        with pytest.raises(InputError, match=words):
            Sweep.open(tmp_path / "mine")


def test_a_session_that_has_changed(session, tmp_path):
    sweep = Sweep.create(tmp_path / "sweep", session, CONFIG, GRID, SEEDS)
    other = linear_track_session(seed=4, n_units=16, duration=120.0, rest=20.0).to_zarr(tmp_path / "other.zarr")
    with pytest.raises(InputError, match=r"other.zarr: is not the session that .*sweep sweeps over"):
        next(work(Sweep.open(sweep.folder, other)))


def test_damaged_files_of_a_sweep(finished, tmp_path):
    sweep = shutil.copytree(finished[0].folder, tmp_path / "sweep", symlinks=True)
    about = json.loads((sweep / "sweep.json").read_text())
    for name, content in (("outcome.json", b'{"seconds": []}'), ("model.safetensors", b"no tensors at all")):
        whole = (sweep / "001" / name).read_bytes()
        (sweep / "001" / name).write_bytes(content)
        with pytest.raises(InputError, match=f"001/{name}: damaged file"):
            Sweep.open(sweep).runs()
        (sweep / "001" / name).write_bytes(whole)
    (sweep / "sweep.json").write_text(json.dumps(about | {"trials": 1}))
    for content in (b"not a journal at all\n" * 9, b'{"op_code": 99}\n', b"[1]\n", b"\xff\n\xff\n"):
        (sweep / "draws.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=r"draws.jsonl: is a damaged journal"):
            Sweep.open(sweep).runs()


def test_draws_of_two_processes_at_once(tmp_path):
    """No combination is drawn twice, and none is lost; the journal holds plain JSON, a line each."""
    grid = {"latent_dim": [2, 3], "hidden": [(8,), (8, 8)]}
    possible = combinations(CONFIG, grid)
    first, second = (Draws(tmp_path / "draws.jsonl", grid, possible) for _ in range(2))
    for draws in (first, second):
        draws.draw([])
    assert first.drawn() == second.drawn()
    second._study.add_trial(first._study.get_trials()[0])  # as where both draw before either sees the other's
    assert len(first._study.get_trials()) == 3
    assert len(first.drawn()) == 2
    for draws, score in ((first, 0.1), (second, 0.2)):
        draws.draw([(options, score) for options in draws.drawn()])
    drawn = Draws(tmp_path / "draws.jsonl", grid, possible).drawn()
    assert len(drawn) == 4
    assert all(options in drawn for options in possible)
    lines = [json.loads(line) for line in (tmp_path / "draws.jsonl").read_text().splitlines()]
    assert all(isinstance(line, dict) for line in lines)
