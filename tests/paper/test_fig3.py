"""Figure 3 in its smallest form: every cell is trained, what is said follows from the numbers, a stop costs nothing."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ldmfilter.errors import InputError
from ldmfilter.images import sources
from ldmfilter.images.training import PairRecord, PairTraining
from ldmfilter.paper import fig3
from ldmfilter.paper.experiment import reproduce


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return reproduce("fig3", "tiny", tmp_path_factory.mktemp("fig3"))


def test_all_cells_are_told(done):
    cells = json.loads(done.record.read_text())["numbers"]["cells"]
    assert len(cells) == 12
    for cell in cells.values():
        assert len(cell["eigenspectrum"]) == 8
        assert sum(cell["eigenspectrum"]) == pytest.approx(1)
        assert cell["eigenspectrum"] == sorted(cell["eigenspectrum"], reverse=True)
        assert 1 <= cell["effective_rank"] <= 8
        assert 0.3 < cell["linear_accuracy"] <= 1  # a tenth is chance
    assert done.picture.read_bytes()[:4] == b"\x89PNG"


def test_claims_are_the_numbers(done):
    content = json.loads(done.record.read_text())
    cells = content["numbers"]["cells"]
    linear = {name: cell["linear_accuracy"] for name, cell in cells.items()}
    apart = max(abs(linear[name] - linear[name.replace("with", "without")]) for name in linear if "with MI" in name)
    rank = {name: cell["effective_rank"] for name, cell in cells.items()}
    wide = {name: cell["effective_rank"] for name, cell in content["numbers"]["cells_with_scotts_kernels"].items()}
    assert sorted(wide) == sorted(name for name in cells if "KDE" in name)
    assert [rank[name] for name in wide] != list(wide.values())
    with_scotts = least(rank | wide)
    values = [claim["value"] for claim in content["claims"]]
    assert values == pytest.approx([apart, least(rank), with_scotts, min(linear.values())])


def least(rank):
    return min(
        rank[f"{space} log det {mi}"] / max(rank[f"{space} KDE {mi}"], rank[f"{space} kNN {mi}"])
        for space in ("plane", "sphere")
        for mi in ("with MI", "without MI")
    )


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Two cells, with checkpoints, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fig3, "draw", lambda *args: None)
    monkeypatch.setattr(fig3, "claims", lambda *args: [])
    monkeypatch.setattr(fig3, "CELLS", {"plane_knn": fig3.CELLS["plane_knn"]})
    return dataclasses.replace(fig3.SIZES["tiny"], checkpoints="kept")


def test_taken_up_again(kept):
    said: list[str] = []
    first = fig3.run(kept, 0, said.append, None)
    assert len(list(Path("kept").iterdir())) == 2
    assert not any("goes on" in line for line in said)
    again = fig3.run(kept, 0, said.append, None)
    assert sum("goes on after epoch 1" in line for line in said) == 2
    for one, other in zip(first.numbers["cells"].values(), again.numbers["cells"].values(), strict=True):
        assert one["linear_accuracy"] == other["linear_accuracy"]
        assert one["eigenspectrum"].tolist() == other["eigenspectrum"].tolist()
        assert one["training_seconds"] == other["training_seconds"] > 0  # nothing was left to train


def test_every_epoch_is_kept_beside_the_output(kept, tmp_path, monkeypatch):
    """A training that dies in its second epoch goes on after the first, though nothing was evaluated yet."""
    settings = dataclasses.replace(kept, training=dataclasses.replace(kept.training, epochs=3, evaluate_every=3))
    monkeypatch.setitem(fig3.SIZES, "brief", settings)
    (tmp_path / "out").mkdir()
    real, done = PairTraining.one_epoch, []

    def dies(self):
        done.append(self.epoch)
        if len(done) == 2:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(PairTraining, "one_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        reproduce("fig3", "brief", tmp_path / "out")
    said: list[str] = []
    monkeypatch.setattr(fig3, "draw", lambda *args: Figure())
    reproduce("fig3", "brief", tmp_path / "out", say=said.append)
    assert any("goes on after epoch 1" in line for line in said)
    assert done == [0, 1, 1, 2, 0, 1, 2]
    assert len(list((tmp_path / "out" / "kept").iterdir())) == 2
    assert not Path("kept").exists()


def test_data_that_are_not_used(tmp_path):
    with pytest.raises(InputError, match="is not used by fig3 small"):
        fig3.run(fig3.SIZES["small"], 0, print, tmp_path)


@pytest.mark.parametrize("given", [True, False])
def test_data_that_are_missing(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz"):
        fig3.run(fig3.SIZES["paper"], 0, print, tmp_path if given else None)


def test_paper_size_begins_on_cifar10(kept, monkeypatch):
    """The published sizes' settings with few images and epochs: from files of the binary version to a readout."""
    paper = fig3.SIZES["paper"]
    assert (paper.training.epochs, paper.width, paper.images) == (1000, 64, "cifar")
    colours = sources.digits().take(torch.arange(80))
    pixels = colours.pixels.repeat(1, 3, 4, 4)
    images = sources.Images(pixels, colours.labels, colours.classes, "CIFAR-10")
    monkeypatch.setattr(fig3, "cifar", lambda folder, part: images)
    short = dataclasses.replace(
        paper,
        training=dataclasses.replace(paper.training, epochs=1, warmup=0, batch_size=40, hidden=16, latent=8),
        width=4,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said: list[str] = []
    outcome = fig3.run(short, 0, said.append, None)
    assert sum("no CUDA here" in line for line in said) == 1
    assert len(outcome.numbers["cells"]) == 2


@pytest.mark.parametrize(("images", "name", "published"), [
    ("CIFAR-10", "plane_knn", 0.921), ("CIFAR-100", "plane_logdet", 0.695)
])  # fmt: skip
@pytest.mark.parametrize("off", [-0.02, 0.0, 0.02])
def test_within_a_point_of_the_published(images, name, published, off):
    def cell(linear):
        return fig3.Cell(PairRecord(1, 0.0, 2.0, linear, 0.5), np.ones(2), 1.0, torch.zeros(1), 1.0)

    cells = {(other, mi): cell(0.5) for other in fig3.CELLS for mi in (True, False)}
    cells[name, False] = cell(published + off)
    claims = fig3.claims(fig3.SIZES["paper"], images, cells, {})
    (claim,) = [claim for claim in claims if claim.source == "table 2"]
    assert images in claim.text
    assert claim.holds == (off == 0.0)
