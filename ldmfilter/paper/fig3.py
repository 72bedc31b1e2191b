"""Figure 3: self-supervised images by latent distribution matching on plane and sphere, by three entropies, with and
without mutual information between the views.

Small: scikit-learn's digits and a small convolutional network. Paper: CIFAR-10, or CIFAR-100 where the folder holds
that, ResNet-18, 1,000 epochs of each of the twelve cells. Each training is resumed at the epoch at which it was
stopped. A cell takes 3.3e17 floating point operations (0.56 G multiply-adds an image, two views, forward and back): it
is for a GPU, and was never run to its end here.

Which spectrum decays slowest depends on the width of the kernels: the digits are trained with the model's own width and
with Scott's, about twice as large, and the verdict differs between them. So small an experiment cannot judge what the
paper says of CIFAR-10.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors
from ldmfilter.filter.linalg import one_thread
from ldmfilter.images.augment import DIGIT_VIEWS, Views
from ldmfilter.images.networks import ResNet18, SmallConv
from ldmfilter.images.objectives import CELLS
from ldmfilter.images.sources import Images, cifar, digits, split
from ldmfilter.images.training import PairConfig, PairRecord, PairTraining
from ldmfilter.ldm.entropy import scott
from ldmfilter.ldm.spectrum import eigenspectrum
from ldmfilter.paper.experiment import Claim, Outcome, Say

PARAMETRIC = "logdet"
ENTROPY_NAMES = {"kde": "KDE", "logdet": "log det", "knn": "kNN"}
MI_NAMES = {True: "with MI", False: "without MI"}
#: Linear accuracies of the paper's table 2, and their objectives, without mutual information.
PUBLISHED = {"CIFAR-10": ("plane_knn", 0.921), "CIFAR-100": ("plane_logdet", 0.695)}
#: Of a cell of size paper on one core, as tests/benchmarks/image_pairs.py measured it.
CPU_HOURS = 1656
#: Labels at most that a key of colours can tell apart.
MOST_COLOURS = 10


@dataclass(frozen=True)
class Settings:
    """Attributes:
    images: "digits" or "cifar".
    training: settings of each cell; its objective, options and seed are set by the cell.
    width: of the encoder's first layer.
    most: images at most; None takes all.
    held_out: share of the digits that the probes are judged on (CIFAR has a test part of its own).
    shown: test images at most in a t-SNE picture.
    checkpoints: folder of trainings that may be stopped and resumed, next to the output; None: none.
    widths: whether kernel densities are also trained with Scott's width.
    accuracy: lower limit of every cell's linear readout; None for none.
    apart: largest difference of accuracies with and without mutual information.
    """

    images: str
    training: PairConfig
    width: int
    most: int | None = None
    held_out: float = 0.4
    shown: int = 600
    checkpoints: str | None = None
    widths: bool = True
    accuracy: float | None = 0.95
    apart: float = 0.015


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
        images="cifar",
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
        widths=False,
        accuracy=None,
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
        spectrum: eigenvalues of Cov z, of unit vectors on the sphere, as shares of their sum, the largest first.
        decay: exponent a of their fall, lambda_i ~ i^-a, in the upper half.
        features: of the encoder, for t-SNE.
        seconds: of its training, before and after a stop.
    """

    record: PairRecord
    spectrum: np.ndarray
    decay: float
    features: Tensor
    seconds: float

    def numbers(self) -> dict[str, Any]:
        """JSON values by name."""
        return {
            "linear_accuracy": self.record.linear,
            "knn_accuracy": self.record.knn,
            "effective_rank": self.record.effective_rank,
            "spectrum_decay": self.decay,
            "objective_nats": self.record.objective,
            "training_seconds": self.seconds,
            "eigenspectrum": self.spectrum,
        }


#: Trained cells by the name of the objective, and whether it has the mutual information.
Cells = dict[tuple[str, bool], Cell]


def run(settings: Settings, seed: int, say: Say, data: Path | None) -> Outcome:
    """Train every cell and compare them.

    Raises:
        InputError: size small was given data, size paper none, or they are not CIFAR's.
    """
    train, test = _images(settings, seed, data)
    if settings.images != "digits" and not torch.cuda.is_available():
        say(f"no CUDA here: a cell takes about {CPU_HOURS:,} hours on a core, and there are {2 * len(CELLS)}")
    cells: Cells = {}
    wide: Cells = {}
    with one_thread() if settings.images == "digits" else nullcontext():  # the small network is too small for two
        control = PairTraining(replace(settings.training, seed=seed), train, test, _encoder(settings, seed)).evaluate()
        for key in [(name, mutual_information) for name in CELLS for mutual_information in (True, False)]:
            cells[key] = _train(settings, seed, key, {}, train, test, say)
            if settings.widths and key[0].endswith("_kde"):
                wide[key] = _train(settings, seed, key, _scotts(settings, *key), train, test, say)
    numbers: dict[str, Any] = {
        "images": {"train": len(train), "test": len(test), "source": train.source},
        "untrained_encoder": {"linear_accuracy": control.linear, "knn_accuracy": control.knn},
        "objective_nats": "estimates with a bias larger than what they estimate; not to be compared between cells",
        "cells": {_title(*key): cell.numbers() for key, cell in cells.items()},
        "cells_with_scotts_kernels": {_title(*key): cell.numbers() for key, cell in wide.items()},
    }
    found = claims(settings, train.source.split()[0], cells, wide)
    return Outcome(numbers, found, draw(settings, seed, cells, wide, control, test))


def _scotts(settings: Settings, name: str, mutual_information: bool) -> dict[str, float]:
    """Options of a kernel density by Scott's rule for the model's own spread, 1 in each dimension of the plane and
    1 / sqrt(dim) on the sphere."""
    latent = settings.training.latent
    width = scott(settings.training.batch_size, latent if mutual_information else 2 * latent)
    return {"bandwidth": width} if name == "plane_kde" else {"kernel": latent / width**2}


def _images(settings: Settings, seed: int, data: Path | None) -> tuple[Images, Images]:
    if settings.images == "cifar":
        if data is None:
            data = Path("cifar-10-batches-bin")  # the folder of its archive; if it is missing, the refusal names it
        return cifar(data, "train"), cifar(data, "test")
    if data is not None:
        raise InputError(f"{data}: is not used by fig3 small, which takes scikit-learn's digits; leave out --data")
    images = digits()
    if settings.most is not None:
        images, _ = split(images, 1 - settings.most / len(images), seed)
    return split(images, settings.held_out, seed)


def _train(
    settings: Settings,
    seed: int,
    key: tuple[str, bool],
    options: dict[str, float],
    train: Images,
    test: Images,
    say: Say,
) -> Cell:
    name, mutual_information = key
    title = _title(*key) + (", Scott's kernel" if options else "")
    options = {"mutual_information": mutual_information, **options}
    config = replace(settings.training, objective=name, options=options, seed=seed)
    training = PairTraining(config, train, test, _encoder(settings, seed))
    checkpoint = None
    if settings.checkpoints is not None:
        folder = Path(settings.checkpoints)
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        checkpoint = folder / f"{name}_{'with' if mutual_information else 'without'}_mi_seed{seed}.safetensors"
        if checkpoint.exists():
            training.resume(checkpoint)
            say(f"{title}: goes on after epoch {training.epoch}, {checkpoint}")
    while training.epoch < config.epochs:
        record = training.advance()
        if checkpoint is not None:
            training.save(checkpoint)
            accuracy = "" if record is None else f", linear {record.linear:.1%}"
            speed = f"{training.seconds / training.epoch:.0f} s each"
            say(f"{title}: epoch {training.epoch} of {config.epochs}, {speed}{accuracy}")
    features, z = training.encode(test)
    spectrum = eigenspectrum(z).cpu().numpy()
    last = training.history[-1]
    say(
        f"{title}: linear {last.linear:.1%}, kNN {last.knn:.1%}, "
        f"effective rank {last.effective_rank:.1f} of {config.latent}"
    )
    return Cell(last, spectrum, _decay(spectrum), features.cpu(), training.seconds)


def _encoder(settings: Settings, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # all cells begin alike
        return ResNet18(3, settings.width) if settings.images == "cifar" else SmallConv(1, settings.width)


def _decay(spectrum: np.ndarray) -> float:
    """Exponent a of lambda_i ~ i^-a over the upper half of the spectrum, by least squares on logarithms."""
    upper = spectrum[: max(2, len(spectrum) // 2)].clip(1e-12)
    return -float(np.polyfit(np.log(np.arange(1, len(upper) + 1)), np.log(upper), 1)[0])


def _slowest(cells: Cells) -> float:
    """Effective rank of the parametric cell over the larger of the other two, where that is least."""
    ratios = []
    for space in ("plane", "sphere"):
        for mutual_information in (True, False):
            rank = {name: cells[f"{space}_{name}", mutual_information].record.effective_rank for name in ENTROPY_NAMES}
            ratios.append(rank.pop(PARAMETRIC) / max(rank.values()))
    return min(ratios)


def claims(settings: Settings, images: str, cells: Cells, wide: Cells) -> list[Claim]:
    """The statements of figure 3 and table 2, measured."""
    linear = {key: cell.record.linear for key, cell in cells.items()}
    apart = max(abs(linear[name, True] - linear[name, False]) for name in CELLS)
    source = "figure 3, of CIFAR-10"
    if settings.images == "digits":
        source += f"; digits in {settings.training.latent} dimensions cannot judge it, the kernels' width decides"
    text = "Linear readout with and without mutual information, of the cell where they are furthest apart: difference"
    made = [Claim(text, apart, most=settings.apart, source="figure 3")]
    text = (
        "The parametric objective's spectrum decays slowest, kernels as wide as the model's own density: its "
        "effective rank over the larger of the others', least of plane and sphere with and without MI"
    )
    made.append(Claim(text, _slowest(cells), least=1.0, source=source))
    if wide:
        text = (
            "The same, kernels by Scott's rule, about twice as wide: where it differs, the kernel decides and not "
            "the entropy"
        )
        made.append(Claim(text, _slowest(cells | wide), least=1.0, source=source))
    if settings.accuracy is not None:
        aim = "this package's own aim on digits; the paper's are CIFAR-10 and CIFAR-100"
        text = "Linear readout of the worst cell: accuracy"
        made.append(Claim(text, min(linear.values()), least=settings.accuracy, source=aim))
    if images in PUBLISHED:
        name, share = PUBLISHED[images]
        text = f"Linear readout of {_title(name, False)}, {images}, within a point of the published {share:.1%}"
        made.append(Claim(text, linear[name, False], share - 0.01, share + 0.01, "table 2"))
    return made


def _title(name: str, mutual_information: bool) -> str:
    space, entropy = name.split("_")
    return f"{space} {ENTROPY_NAMES[entropy]} {MI_NAMES[mutual_information]}"


def draw(settings: Settings, seed: int, cells: Cells, wide: Cells, control: PairRecord, test: Images) -> Figure:
    """Spectra and readouts above, t-SNE of every cell's features below."""
    few = len(test.classes) <= MOST_COLOURS
    colours = colormaps["tab10" if few else "nipy_spectral"](np.linspace(0, 1, len(test.classes)))
    figure = Figure(figsize=(13, 9.4), layout="constrained")
    figure.suptitle(
        "Above: spectra and readouts. Below: t-SNE of the encoder's features of test images, a colour for each "
        + ("label" if few else f"of {len(test.classes)} labels")
    )
    rows = figure.add_gridspec(2, 1, height_ratios=[1, 1.15])
    top = rows[0].subgridspec(1, 3, width_ratios=[1, 1, 1.25])
    plane, sphere, accuracy = (figure.add_subplot(top[0, i]) for i in range(3))
    for axes, space in ((plane, "plane"), (sphere, "sphere")):
        _spectra(axes, space, cells, wide)
    _accuracies(accuracy, cells, control)
    panels = rows[1].subgridspec(2, len(CELLS))
    for row, mutual_information in enumerate((True, False)):
        for column, name in enumerate(CELLS):
            axes = figure.add_subplot(panels[row, column])
            _tsne(axes, settings, seed, cells[name, mutual_information], test, colours)
            axes.set_title(_title(name, mutual_information), fontsize=9)
    if few:
        for name, colour in zip(test.classes, colours, strict=True):
            axes.scatter([], [], color=colour, label=name)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8, title="label")
    return figure


def _spectra(axes: Axes, space: str, cells: Cells, wide: Cells) -> None:
    lines = [(cells, entropy, f"C{i}", label) for i, (entropy, label) in enumerate(ENTROPY_NAMES.items())]
    if wide:
        lines.append((wide, "kde", "0.6", "KDE, Scott's kernel,"))
    for trained, entropy, colour, label in lines:
        for mutual_information in (True, False):
            cell = trained[f"{space}_{entropy}", mutual_information]
            axes.loglog(
                np.arange(1, len(cell.spectrum) + 1),
                cell.spectrum.clip(1e-9),
                color=colour,
                linestyle="-" if mutual_information else "--",
                label=f"{label} {MI_NAMES[mutual_information]}, rank {cell.record.effective_rank:.1f}",
            )
    axes.set(title=f"{space}: spectrum of Cov z", xlabel="eigenvalue, largest first", ylabel="share of the variance")
    axes.legend(fontsize=7)


def _accuracies(axes: Axes, cells: Cells, control: PairRecord) -> None:
    place = np.arange(len(CELLS))
    values = [100 * control.linear, 100 * control.knn]
    axes.axhline(values[0], color="k", linewidth=0.8, label="linear, untrained encoder")
    axes.axhline(values[1], color="k", linewidth=0.8, linestyle=":", label="kNN, untrained encoder")
    for i, mutual_information in enumerate((True, False)):
        for readout, mark, label in (("linear", "o", "linear"), ("knn", "x", "kNN")):
            found = [100 * getattr(cells[name, mutual_information].record, readout) for name in CELLS]
            label = f"{label}, {MI_NAMES[mutual_information]}"
            axes.plot(place + 0.2 * i - 0.1, found, f"C{i}{mark}", label=label)
            values += found
    labels = [_title(name, True).removesuffix(" with MI").replace(" ", "\n", 1) for name in CELLS]
    axes.set_xticks(place, labels, fontsize=8)
    low = max(0, min(values) - 1)
    axes.set(title="Readouts of the encoder's features", ylabel=f"accuracy, % (from {low:.0f})", ylim=(low, 100.5))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _tsne(axes: Axes, settings: Settings, seed: int, cell: Cell, test: Images, colours: np.ndarray) -> None:
    from sklearn.manifold import TSNE

    shown = np.random.default_rng(seed).permutation(len(test))[: settings.shown]
    x = cell.features[torch.from_numpy(shown)].numpy()
    places = TSNE(init="pca", random_state=seed, perplexity=min(30.0, len(x) / 4)).fit_transform(x / x.std())
    assert test.labels is not None  # both data sets have them
    axes.scatter(places[:, 0], places[:, 1], c=colours[test.labels[torch.from_numpy(shown)].numpy()], s=2)
    axes.set(xticks=[], yticks=[])
