"""Figure 3: self-supervised images by latent distribution matching on plane and sphere, by three entropies, with and
without mutual information between the views.

Small: scikit-learn's digits and a small convolutional network. Paper: CIFAR-10 from a folder, ResNet-18, 1,000 epochs
of each of the twelve cells, each a training that is taken up again where it was stopped. A cell takes 3.3e17 floating
point operations (0.56 G multiply-adds an image, two views, forward and back): it is for a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors
from ldmfilter.filter.linalg import one_thread
from ldmfilter.images.augment import DIGIT_VIEWS, Views
from ldmfilter.images.networks import ResNet18, SmallConv
from ldmfilter.images.objectives import CELLS
from ldmfilter.images.sources import Images, cifar10, digits, split
from ldmfilter.images.training import PairConfig, PairRecord, PairTraining
from ldmfilter.ldm.spectrum import eigenspectrum
from ldmfilter.paper.experiment import Claim, Outcome, Say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARAMETRIC = "logdet"
ENTROPY_NAMES = {"kde": "KDE", "logdet": "log det", "knn": "kNN"}
MI_NAMES = {True: "with MI", False: "without MI"}


@dataclass(frozen=True)
class Settings:
    """What is trained and judged.

    Attributes:
        images: "digits" or "cifar10".
        training: how each cell learns; objective, its options and the seed are the cell's.
        width: of the encoder's first layer.
        most: images at most; None takes all.
        held_out: share of the digits that the probes are judged on (CIFAR-10 has a test part of its own).
        shown: test images at most in a t-SNE picture.
        checkpoints: folder, from where one stands, of trainings that may be stopped and taken up again; None: none.
        accuracy: that every cell's linear readout must reach; None where nobody says so.
        apart: accuracies at most apart with and without mutual information.
        published: linear accuracy of plane kNN in the paper, where it has one.
    """

    images: str
    training: PairConfig
    width: int
    most: int | None = None
    held_out: float = 0.4
    shown: int = 600
    checkpoints: str | None = None
    accuracy: float | None = 0.95
    apart: float = 0.015
    published: float | None = None


SMALL = Settings(
    images="digits",
    training=PairConfig(
        epochs=16,
        batch_size=128,
        learning_rate=2e-3,
        warmup=1,
        hidden=256,
        latent=32,
        evaluate_every=16,
        views=DIGIT_VIEWS,
    ),
    width=16,
)
SIZES: dict[str, Settings] = {
    "small": SMALL,
    "paper": Settings(
        images="cifar10",
        training=PairConfig(
            epochs=1000,
            batch_size=512,
            learning_rate=1e-3,
            warmup=10,
            hidden=2048,
            latent=128,
            precision="bf16",
            evaluate_every=50,
            views=Views(),
        ),
        width=64,
        shown=2000,
        checkpoints="fig3_checkpoints",
        accuracy=None,
        published=0.921,
    ),
    "tiny": replace(
        SMALL,
        training=replace(SMALL.training, epochs=1, batch_size=64, warmup=0, hidden=32, latent=8),
        width=4,
        most=300,
        shown=60,
    ),
}


@dataclass(frozen=True)
class Cell:
    """A trained cell, on test images.

    Attributes:
        record: its last evaluation.
        spectrum: eigenvalues of Cov z as shares of their sum, the largest first.
        decay: exponent a of their fall, lambda_i ~ i^-a, in the upper half.
        features: of the encoder, for t-SNE.
    """

    record: PairRecord
    spectrum: np.ndarray
    decay: float
    features: Tensor


def run(settings: Settings, seed: int, data: Path | None, say: Say) -> Outcome:
    """Train every cell and compare them.

    Raises:
        InputError: size small was given data, size paper none, or they are not CIFAR-10's.
    """
    train, test = _images(settings, seed, data)
    cells: dict[tuple[str, bool], Cell] = {}
    with one_thread() if settings.images == "digits" else nullcontext():  # the small network is too small for two
        control = PairTraining(replace(settings.training, seed=seed), train, test, _encoder(settings, seed)).evaluate()
        for name in CELLS:
            for mutual_information in (True, False):
                cell = _train(settings, seed, name, mutual_information, train, test, say)
                cells[name, mutual_information] = cell
                say(
                    f"{_title(name, mutual_information)}: linear {cell.record.linear:.1%}, kNN {cell.record.knn:.1%}, "
                    f"effective rank {cell.record.effective_rank:.1f} of {settings.training.latent}"
                )
    numbers: dict[str, Any] = {
        "images": {"train": len(train), "test": len(test), "source": train.source},
        "untrained_encoder": {"linear_accuracy": control.linear, "knn_accuracy": control.knn},
        "cells": {
            _title(*key): {
                "linear_accuracy": cell.record.linear,
                "knn_accuracy": cell.record.knn,
                "effective_rank": cell.record.effective_rank,
                "spectrum_decay": cell.decay,
                "objective_nats": cell.record.objective,
                "eigenspectrum": cell.spectrum,
            }
            for key, cell in cells.items()
        },
    }
    return Outcome(numbers, _claims(settings, cells), _draw(settings, seed, cells, control, test))


def _images(settings: Settings, seed: int, data: Path | None) -> tuple[Images, Images]:
    if settings.images == "cifar10":
        if data is None:
            data = Path("cifar-10-batches-bin")  # where its archive unpacks to; if it is not here, its absence is told
        return cifar10(data, "train"), cifar10(data, "test")
    if data is not None:
        raise InputError(f"{data}: is not used by fig3 small, which takes scikit-learn's digits; leave out --data")
    images = digits()
    if settings.most is not None:
        images, _ = split(images, 1 - settings.most / len(images), seed)
    return split(images, settings.held_out, seed)


def _train(
    settings: Settings, seed: int, name: str, mutual_information: bool, train: Images, test: Images, say: Say
) -> Cell:
    config = replace(settings.training, objective=name, options={"mutual_information": mutual_information}, seed=seed)
    training = PairTraining(config, train, test, _encoder(settings, seed))
    checkpoint = None
    if settings.checkpoints is not None:
        folder = Path(settings.checkpoints)
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        checkpoint = folder / f"{name}_{'with' if mutual_information else 'without'}_mi_seed{seed}.safetensors"
        if checkpoint.exists():
            training.resume(checkpoint)
            say(f"{_title(name, mutual_information)}: goes on after epoch {training.epoch}, {checkpoint}")
    for record in training.run():
        if checkpoint is not None:
            training.save(checkpoint)
            say(f"{_title(name, mutual_information)}: epoch {record.epoch}, linear {record.linear:.1%}")
    features, z = training.encode(test)
    spectrum = eigenspectrum(z).cpu().numpy()
    return Cell(training.history[-1], spectrum, _decay(spectrum), features.cpu())


def _encoder(settings: Settings, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # all cells begin alike
        return ResNet18(3, settings.width) if settings.images == "cifar10" else SmallConv(1, settings.width)


def _decay(spectrum: np.ndarray) -> float:
    """Exponent a of lambda_i ~ i^-a over the upper half of the spectrum, by least squares on logarithms."""
    upper = spectrum[: max(2, len(spectrum) // 2)].clip(1e-12)
    return -float(np.polyfit(np.log(np.arange(1, len(upper) + 1)), np.log(upper), 1)[0])


def _claims(settings: Settings, cells: dict[tuple[str, bool], Cell]) -> list[Claim]:
    linear = {key: cell.record.linear for key, cell in cells.items()}
    slowest = []
    for space in ("plane", "sphere"):
        for mutual_information in (True, False):
            rank = {name: cells[f"{space}_{name}", mutual_information].record.effective_rank for name in ENTROPY_NAMES}
            slowest.append(rank.pop(PARAMETRIC) / max(rank.values()))
    claims = [
        Claim(
            "Linear readout with and without mutual information, of the cell where they are furthest apart: difference",
            max(abs(linear[name, True] - linear[name, False]) for name in CELLS),
            most=settings.apart,
            source="figure 3",
        ),
        Claim(
            "The parametric objective's spectrum decays slowest: its effective rank over the larger of the others', "
            "least of plane and sphere with and without MI",
            min(slowest),
            least=1.0,
            source="figure 3",
        ),
    ]
    if settings.accuracy is not None:
        claims.append(
            Claim(
                "Linear readout of the worst cell: accuracy",
                min(linear.values()),
                least=settings.accuracy,
                source="this package's own aim on digits; the paper's are CIFAR-10 and CIFAR-100",
            )
        )
    if settings.published is not None:
        claims.append(
            Claim(
                f"Linear readout of plane kNN without MI, within a point of the published {settings.published:.1%}",
                linear["plane_knn", False],
                least=settings.published - 0.01,
                source="table 2",
            )
        )
    return claims


def _title(name: str, mutual_information: bool) -> str:
    space, entropy = name.split("_")
    return f"{space} {ENTROPY_NAMES[entropy]} {MI_NAMES[mutual_information]}"


def _draw(
    settings: Settings, seed: int, cells: dict[tuple[str, bool], Cell], control: PairRecord, test: Images
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    figure.suptitle("Above: spectra and readouts. Below: t-SNE of the encoder's features of test images, by label")
    rows = figure.add_gridspec(2, 1, height_ratios=[1, 1.15])
    top = rows[0].subgridspec(1, 3, width_ratios=[1, 1, 1.25])
    plane, sphere, accuracy = (figure.add_subplot(top[0, i]) for i in range(3))
    for axes, space in ((plane, "plane"), (sphere, "sphere")):
        _spectra(axes, space, cells)
    _accuracies(accuracy, cells, control)
    panels = rows[1].subgridspec(2, len(CELLS))
    for row, mutual_information in enumerate((True, False)):
        for column, name in enumerate(CELLS):
            axes = figure.add_subplot(panels[row, column])
            _tsne(axes, settings, seed, cells[name, mutual_information], test)
            axes.set_title(_title(name, mutual_information), fontsize=9)
    return figure


def _spectra(axes: Axes, space: str, cells: dict[tuple[str, bool], Cell]) -> None:
    for i, (entropy, label) in enumerate(ENTROPY_NAMES.items()):
        for mutual_information in (True, False):
            cell = cells[f"{space}_{entropy}", mutual_information]
            axes.loglog(
                np.arange(1, len(cell.spectrum) + 1),
                cell.spectrum.clip(1e-9),
                color=f"C{i}",
                linestyle="-" if mutual_information else "--",
                label=f"{label} {MI_NAMES[mutual_information]}, rank {cell.record.effective_rank:.1f}",
            )
    axes.set(title=f"{space}: spectrum of Cov z", xlabel="eigenvalue, largest first", ylabel="share of the variance")
    axes.legend(fontsize=7)


def _accuracies(axes: Axes, cells: dict[tuple[str, bool], Cell], control: PairRecord) -> None:
    place = np.arange(len(CELLS))
    values = [100 * control.linear, 100 * control.knn]
    axes.axhline(values[0], color="k", linewidth=0.8, label="linear, untrained encoder")
    axes.axhline(values[1], color="k", linewidth=0.8, linestyle=":", label="kNN, untrained encoder")
    for i, mutual_information in enumerate((True, False)):
        linear = [100 * cells[name, mutual_information].record.linear for name in CELLS]
        knn = [100 * cells[name, mutual_information].record.knn for name in CELLS]
        axes.bar(
            place + 0.4 * i - 0.2,
            linear,
            0.36,
            color=f"C{i}",
            alpha=0.7,
            label=f"linear, {MI_NAMES[mutual_information]}",
        )
        axes.plot(place + 0.4 * i - 0.2, knn, "k_" if i else "k+", label=f"kNN, {MI_NAMES[mutual_information]}")
        values += linear + knn
    axes.set_xticks(
        place, [_title(name, True).removesuffix(" with MI").replace(" ", "\n", 1) for name in CELLS], fontsize=8
    )
    axes.set(title="Readouts of the encoder's features", ylabel="accuracy, %", ylim=(max(0, min(values) - 3), 100))
    axes.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _tsne(axes: Axes, settings: Settings, seed: int, cell: Cell, test: Images) -> None:
    from sklearn.manifold import TSNE

    shown = np.random.default_rng(seed).permutation(len(test))[: settings.shown]
    x = cell.features[torch.from_numpy(shown)].numpy()
    places = TSNE(init="pca", random_state=seed, perplexity=min(30.0, len(x) / 4)).fit_transform(x / x.std())
    assert test.labels is not None  # both data sets have them
    axes.scatter(places[:, 0], places[:, 1], c=test.labels[torch.from_numpy(shown)].numpy(), cmap="tab10", s=2)
    axes.set(xticks=[], yticks=[])
