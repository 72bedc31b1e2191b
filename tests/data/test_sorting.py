"""Sorters' folders and sortings in memory, against SpikeInterface's own readers where those are safe to run."""

import json
import pickle
import shutil
import warnings
import zipfile

import numpy as np
import pytest

from ldmfilter.data import read_session
from ldmfilter.data.formats.phy import read_phy
from ldmfilter.data.formats.sorting import from_sorting, read_analyzer, read_sorting
from ldmfilter.data.selection import choose_units
from ldmfilter.errors import InputError
from tests.bomb import Bomb

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import spikeinterface.core as sc

RATE = 20_000.0


@pytest.fixture
def spikes():
    """Samples (spike,) in order and clusters (spike,) of 3 units, of which two spike in one sample."""
    rng = np.random.default_rng(4)
    frames = np.sort(rng.integers(0, 200_000, 300)).astype(np.uint64)
    return frames, rng.choice([2, 5, 11], 300).astype(np.int32)


@pytest.fixture
def phy(tmp_path, spikes):
    """A Phy folder: one curated table, one of Kilosort's, one of something else."""
    folder = tmp_path / "phy"
    folder.mkdir()
    frames, clusters = spikes
    np.save(folder / "spike_times.npy", frames[:, None])
    np.save(folder / "spike_clusters.npy", clusters)
    (folder / "params.py").write_text(
        "dat_path = 'C:\\Users\\someone\\raw.dat'\n# sample_rate = 1.\nn_channels_dat = 4\nsample_rate = 20000.\n"
        "hp_filtered = False\n"
    )
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n11\tnoise\n99\tgood\n")
    (folder / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n2\tgood\n5\tmua\n11\tmua\n")
    (folder / "cluster_Amplitude.csv").write_text("cluster_id,Amplitude\n2,10.5\n5,20\n11,30\n")
    (folder / "notes.tsv").write_text("day\twho\n1\tme\n")
    return folder


def line_of(read, path):
    with pytest.raises(InputError) as error:
        read(path)
    line = str(error.value)
    assert "\n" not in line
    return line


def test_phy(phy, spikes):
    with pytest.warns(UserWarning, match="1 of 3 units are labelled noise; the query \"group != 'noise'\""):
        session = read_session(phy)
    frames, clusters = spikes
    assert session.units["unit"].values.tolist() == [2, 5, 11]
    for position, unit in enumerate([2, 5, 11]):
        np.testing.assert_array_equal(session.spikes_of(position), frames[clusters == unit] / 20_000.0)
    assert session.units["group"].values.tolist() == ["good", "unsorted", "noise"]
    assert session.units["quality"].values.tolist() == ["good", "unsorted", "noise"]
    assert session.units["KSLabel"].values.tolist() == ["good", "mua", "mua"]
    assert session.units["Amplitude"].values.tolist() == [10.5, 20.0, 30.0]
    assert session.source.checksum.startswith("sha256:")
    kept, _ = choose_units(session, query="group != 'noise' and Amplitude > 15")
    assert kept.units["unit"].values.tolist() == [5]


def test_phy_as_spikeinterface_reads_it(phy):
    from spikeinterface.extractors import read_phy as theirs

    (phy / "params.py").write_text("sample_rate = 20000.\n")
    (phy / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n5\tmua\n11\tgood\n")
    session = read_session(phy, "kilosort")
    sorting = theirs(phy)
    assert session.units["unit"].values.tolist() == sorting.unit_ids.tolist()
    assert session.units["quality"].values.tolist() == sorting.get_property("quality").tolist()
    for position, unit in enumerate(sorting.unit_ids):
        wanted = sorting.get_unit_spike_train(unit, segment_index=0) / sorting.sampling_frequency
        np.testing.assert_array_equal(session.spikes_of(position), wanted)
    in_memory = from_sorting(sorting)
    np.testing.assert_array_equal(in_memory.spike_times, session.spike_times)


def test_kilosort_without_curation(phy):
    (phy / "cluster_group.tsv").unlink()
    (phy / "spike_clusters.npy").rename(phy / "spike_templates.npy")
    (phy / "params.py").write_text("SAMPLE_RATE=np.float64(20000.0)\n")
    session = read_session(phy)
    assert session.units["quality"].values.tolist() == ["good", "mua", "mua"]
    assert "group" not in session.units


def test_cluster_info_wins(phy):
    (phy / "cluster_info.tsv").write_text("id\tgroup\tn_spikes\n2\tmua\t1\n5\tgood\t1\n11\tgood\t1\n")
    assert read_phy(phy).units["group"].values.tolist() == ["mua", "good", "good"]


def test_params_is_not_executed(phy, marker):
    (phy / "params.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nsample_rate = 30000.0\n")
    with pytest.warns(UserWarning, match="noise"):
        session = read_phy(phy)
    assert session.stop < 200_000 / 30_000


@pytest.mark.parametrize("name", ["spike_times", "spike_clusters"])
def test_pickled_spikes_are_refused(phy, marker, name):
    np.save(phy / f"{name}.npy", np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    assert line_of(read_session, phy).endswith(
        f"{name}.npy: holds pickled objects, refused as they may run code; save numbers, bools or text"
    )
    (phy / f"{name}.npy").write_bytes(pickle.dumps(Bomb(marker)))
    assert f"{name}.npy: is a damaged numpy file (" in line_of(read_session, phy)


def test_files_that_are_not_needed_are_not_opened(phy, marker):
    np.save(phy / "ops.npy", np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    (phy / "sorting.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.warns(UserWarning, match="noise"):
        assert read_phy(phy).n_units == 3


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda p: (p / "params.py").unlink(), "phy: holds no params.py; give a whole Phy or Kilosort folder"),
        (lambda p: (p / "spike_clusters.npy").unlink(), "phy: holds no spike_templates.npy; give a whole"),
        (lambda p: (p / "params.py").write_text("rate = 1\n"), "params.py: states no sample_rate; write it as"),
        (lambda p: (p / "params.py").write_text("sample_rate = rate\n"), "params.py: states no sample_rate; write"),
        (lambda p: (p / "params.py").write_text("sample_rate = -1\n"), "params.py: sample_rate is -1; it must be"),
        (lambda p: np.save(p / "spike_clusters.npy", np.arange(3)), "300 spike times for 3 clusters; copy the folder"),
        (lambda p: np.save(p / "spike_times.npy", np.full(300, -1)), "300 spikes before the recording's start; sort"),
        (lambda p: np.save(p / "spike_times.npy", np.full(300, 0.5)), "holds values that are no whole numbers"),
        (lambda p: np.save(p / "spike_times.npy", np.full(300, "a")), "holds <U1 values, not whole numbers"),
        (lambda p: (p / "spike_times.npy").write_bytes(b"\x93NUMPY\x01"), "spike_times.npy: is a damaged numpy file"),
        (lambda p: (p / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\ta\n2\tb\n"), "cluster_id 2 is given"),
        (lambda p: (p / "cluster_group.tsv").write_bytes(b""), "cluster_group.tsv: is a damaged table"),
        (
            lambda p: [np.save(p / f"spike_{n}.npy", np.empty(0, int)) for n in ("times", "clusters")],
            "has no units; sort",
        ),
    ],
)
def test_phy_folders_that_cannot_be_used(phy, damage, line):
    damage(phy)
    assert line in line_of(read_session, phy)


@pytest.fixture(scope="module")
def sorting():
    rng = np.random.default_rng(5)
    frames = np.sort(rng.integers(0, 100_000, 200))
    sorting = sc.NumpySorting.from_samples_and_labels(
        [frames], [rng.choice(["a", "b", "c"], 200)], RATE, ["a", "b", "c"]
    )
    sorting.set_property("quality", np.array(["good", "mua", "good"]))
    sorting.set_property("depth", np.array([1.0, 2.0, 3.0]))
    sorting.set_property("place", np.zeros((3, 2)))
    return sorting


@pytest.fixture(scope="module")
def recording():
    return sc.generate_recording(num_channels=4, durations=[6.0], sampling_frequency=RATE, seed=1)


def save(sorting, path, **options):
    """As SpikeInterface saves it, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sorting.save(folder=path, **options)


def same(session, sorting, start=0.0):
    """Spikes and columns as SpikeInterface gives them."""
    assert session.units["unit"].values.tolist() == sorting.unit_ids.tolist()
    for position, unit in enumerate(sorting.unit_ids):
        frames = sorting.get_unit_spike_train(unit, segment_index=0)
        np.testing.assert_allclose(session.spikes_of(position), start + frames / RATE, rtol=0, atol=1e-12)
    assert session.units["quality"].values.tolist() == ["good", "mua", "good"]
    assert session.units["depth"].values.tolist() == [1.0, 2.0, 3.0]
    assert "place" not in session.units


def test_sorting_in_memory(sorting):
    session = from_sorting(sorting)
    same(session, sorting)
    kept, _ = choose_units(session, query="quality == 'good' and depth > 1")
    assert kept.units["unit"].values.tolist() == ["c"]


def test_clock_of_the_recording(sorting, recording):
    own, shifted = sorting.clone(), recording.clone()
    shifted.shift_times(10.0)
    own.register_recording(shifted)
    session = from_sorting(own)
    same(session, sorting, start=10.0)
    assert (session.start, session.stop) == pytest.approx((10.0, 16.0))


def test_saved_sortings(sorting, tmp_path):
    save(sorting, tmp_path / "folder")
    save(sorting, tmp_path / "store.zarr", format="zarr")
    for name in ("folder", "store.zarr"):
        same(read_session(tmp_path / name), sorting)
        same(read_session(tmp_path / name, "sorting"), sorting)


@pytest.fixture(scope="module")
def analyzers(sorting, recording, tmp_path_factory):
    """The same analyzer as a folder and in zarr, with a quality metric."""
    folder = tmp_path_factory.mktemp("analyzers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for format, name in (("binary_folder", "folder"), ("zarr", "store.zarr")):
            analyzer = sc.create_sorting_analyzer(
                sorting, recording, format=format, folder=folder / name, sparse=False, progress_bar=False
            )
            analyzer.compute("quality_metrics", metric_names=["firing_rate", "num_spikes"], progress_bar=False)
    return folder


@pytest.mark.parametrize("name", ["folder", "store.zarr"])
def test_analyzers(analyzers, sorting, name):
    session = read_session(analyzers / name)
    same(session, sorting)
    assert (session.start, session.stop) == (0.0, 6.0)
    counts = [len(sorting.get_unit_spike_train(unit, segment_index=0)) for unit in sorting.unit_ids]
    assert session.units["num_spikes"].values.tolist() == counts
    np.testing.assert_allclose(session.units["firing_rate"].values, np.asarray(counts) / 6.0)
    np.testing.assert_allclose(session.rates, np.asarray(counts) / 6.0)
    assert read_session(analyzers / name).source.checksum == session.source.checksum


def test_a_unit_with_two_rows_of_metrics(analyzers, tmp_path):
    shutil.copytree(analyzers / "folder", tmp_path / "folder")
    [table] = (tmp_path / "folder" / "extensions").glob("*/metrics.csv")
    first, *rows = table.read_text().splitlines()
    table.write_text("\n".join([first, *rows, rows[0]]))
    with pytest.raises(InputError) as raised:
        read_session(tmp_path / "folder")
    assert str(raised.value) == f"{table}: a unit is given twice; compute the metrics again"


def test_analyzer_in_memory(sorting, recording):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analyzer = sc.create_sorting_analyzer(sorting, recording, format="memory", sparse=False)
        analyzer.compute("quality_metrics", metric_names=["num_spikes"], progress_bar=False)
    session = from_sorting(analyzer)
    same(session, sorting)
    assert session.stop == 6.0
    assert int(session.units["num_spikes"].sum()) == session.n_spikes


def two_segments():
    return sc.NumpySorting.from_samples_and_labels(
        [np.array([10, 20]), np.array([30])], [np.array([0, 1]), np.array([1])], RATE, [0, 1]
    )


def test_several_segments(tmp_path):
    sorting = two_segments()
    with pytest.raises(InputError, match=r"^memory: has 2 segments, whose clocks are not related; choose one"):
        from_sorting(sorting)
    assert from_sorting(sorting, segment=1).spike_times.tolist() == [30 / RATE]
    with pytest.raises(InputError, match=r"^memory: no segment 2; the sorting has 2, counted from 0$"):
        from_sorting(sorting, segment=2)
    save(sorting, tmp_path / "folder")
    save(sorting, tmp_path / "store.zarr", format="zarr")
    for name in ("folder", "store.zarr"):
        assert f"{name}: has 2 segments, whose clocks are not related" in line_of(read_session, tmp_path / name)


def test_malicious_sorting_folder(sorting, tmp_path, marker):
    folder = tmp_path / "folder"
    save(sorting, folder)
    for name in ("provenance.pkl", "sorting.pickle", "cached.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    # Names of classes that SpikeInterface's loader would import.
    (folder / "si_folder.json").write_text(json.dumps({"class": "os.system", "module": "os", "kwargs": {}}))
    np.save(folder / "properties" / "bomb.npy", np.array([Bomb(marker)] * 3, dtype=object), allow_pickle=True)
    with pytest.warns(UserWarning, match=r"bomb.npy: left out, it is pickled, which may run code"):
        session = read_sorting(folder)
    same(session, sorting)
    np.save(folder / "spikes.npy", np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    assert "spikes.npy: holds pickled objects, refused as they may run code" in line_of(read_session, folder)


def test_malicious_analyzers(analyzers, tmp_path, marker):
    folder = tmp_path / "folder"
    shutil.copytree(analyzers / "folder", folder)
    (folder / "recording.json").unlink()
    for place in ("recording.pickle", "sorting.pickle", "extensions/quality_metrics/metrics.pkl"):
        (folder / place).write_bytes(pickle.dumps(Bomb(marker)))
    assert read_analyzer(folder).n_units == 3

    import numcodecs
    import zarr

    store = tmp_path / "store.zarr"
    shutil.copytree(analyzers / "store.zarr", store)
    root = zarr.open_group(str(store), mode="r+")
    bomb = np.array([Bomb(marker)], dtype=object)
    for place in ("recording", "extensions/bomb"):
        root.create_dataset(place, data=bomb, object_codec=numcodecs.Pickle(), overwrite=True)
    assert read_session(store).n_units == 3
    root.create_dataset("sorting/spikes/sample_index", data=bomb, object_codec=numcodecs.Pickle(), overwrite=True)
    assert "sorting/spikes/sample_index: codec pickle is refused, it may run code" in line_of(read_session, store)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda p: (p / "spikes.npy").unlink(), "holds no spikes.npy; save it again with SpikeInterface"),
        (lambda p: np.save(p / "spikes.npy", np.arange(3)), "spikes.npy: holds no spikes of SpikeInterface"),
        (lambda p: (p / "numpysorting_info.json").write_text("{"), "numpysorting_info.json: is a damaged JSON file"),
        (lambda p: (p / "numpysorting_info.json").write_text("[]"), "numpysorting_info.json: does not describe a"),
        (
            lambda p: (p / "numpysorting_info.json").write_text('{"sampling_frequency": "x"}'),
            "sampling_frequency is 'x'; it must be a positive number of Hz",
        ),
        (
            lambda p: (p / "numpysorting_info.json").write_text('{"sampling_frequency": 1, "unit_ids": 3}'),
            "does not describe a sorting (unit_ids, num_segments); save it again",
        ),
        (
            lambda p: (p / "numpysorting_info.json").write_text('{"sampling_frequency": 1, "unit_ids": [[null], 1]}'),
            "does not describe a sorting (unit_ids, num_segments); save it again",
        ),
        (
            lambda p: (p / "numpysorting_info.json").write_text('{"sampling_frequency": 1, "unit_ids": ["a"]}'),
            "spikes do not fit its 1 units; save it again with SpikeInterface",
        ),
        (lambda p: np.save(p / "properties" / "depth.npy", np.arange(2)), "column 'depth' has 2 rows, not 3"),
    ],
)
def test_sorting_folders_that_cannot_be_used(sorting, tmp_path, damage, line):
    save(sorting, tmp_path / "folder")
    damage(tmp_path / "folder")
    assert line in line_of(read_session, tmp_path / "folder")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda p: (p / "sorting" / "spikes" / "sample_index" / "0").unlink(), "sample_index: 1 chunks are missing"),
        (
            lambda p: (p / "sorting" / "spikes" / "unit_index" / ".zarray").unlink(),
            "holds no sorting/spikes/unit_index",
        ),
        (lambda p: (p / "sorting" / "spikes" / "unit_index" / "0").write_bytes(b"x"), "is a damaged zarr store ("),
        (lambda p: (p / "sorting" / "spikes" / "unit_index" / ".zarray").write_text("{}"), "is a damaged zarr store ("),
        (lambda p: (p / "sorting" / ".zattrs").write_text("{"), ".zattrs: is a damaged JSON file"),
        (lambda p: (p / "sorting" / ".zattrs").unlink(), "holds no sorting of SpikeInterface; save it again"),
        (
            lambda p: (p / "zarr.json").write_text("{}"),
            "is zarr format 3; save it again, with zarr_format=2 or zarr < 3",
        ),
    ],
)
def test_analyzer_stores_that_cannot_be_used(analyzers, tmp_path, damage, line):
    store = tmp_path / "store.zarr"
    shutil.copytree(analyzers / "store.zarr", store)
    damage(store)
    assert line in line_of(read_session, store)


def test_formats_by_name(phy, sorting, tmp_path):
    assert line_of(lambda path: read_session(path, "ply"), phy).endswith(
        "no format 'ply'; the formats are nwb, zarr, phy, kilosort, sorting, analyzer, pynapple, counts"
    )
    save(sorting, tmp_path / "folder")
    assert "folder: holds no spike_times.npy" in line_of(lambda path: read_session(path, "phy"), tmp_path / "folder")
    assert "phy: holds no sorting/numpysorting_info.json" in line_of(lambda path: read_session(path, "analyzer"), phy)
    assert "phy: holds no numpysorting_info.json" in line_of(lambda path: read_session(path, "sorting"), phy)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"")
    assert "a.npz: is a file, which no session of format sorting is; let its content decide" in line_of(
        lambda path: read_session(path, "sorting"), tmp_path / "a.npz"
    )
    assert "phy: is a folder, which no session of format pynapple is" in line_of(
        lambda path: read_session(path, "pynapple"), phy
    )
