"""Training on pairs of views: one record an evaluation, nothing printed; it can be stopped and resumed."""

import dataclasses
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from ldmfilter.errors import InputError
from ldmfilter.images import objectives
from ldmfilter.images.augment import Views, augmentation
from ldmfilter.images.networks import PairNetwork, ResNet18
from ldmfilter.images.optim import LARS, parameter_groups, rate
from ldmfilter.images.options import check
from ldmfilter.images.probes import knn_probe, linear_probe
from ldmfilter.images.sources import Images
from ldmfilter.ldm.objectives import Objective
from ldmfilter.ldm.spectrum import effective_rank
from ldmfilter.tensors import below, damaged, digest, read_tensors, write_tensors
from ldmfilter.trainer import Trainer

#: Objectives of two views, and those that need a predictor.
PAIRS: dict[str, Callable[..., Objective]] = {
    **objectives.CELLS,
    "simclr": objectives.simclr,
    "vicreg": objectives.vicreg,
    "categorical": objectives.categorical,
}
PREDICTED: dict[str, Callable[..., Objective]] = {
    "plane_stopgrad": objectives.plane_stopgrad,
    "sphere_stopgrad": objectives.sphere_stopgrad,
}
#: Objectives that bring z to unit length.
SPHERES = ("sphere_kde", "sphere_logdet", "sphere_knn", "sphere_stopgrad", "simclr")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "lars": LARS}
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # Fabric's names
FEATURE_ROWS = 512  # images that are encoded at a time for the probes


@dataclass(frozen=True)
class PairConfig:
    """The settings of a training.

    Attributes:
        objective: a key of `PAIRS` or `PREDICTED`.
        options: further arguments of the objective, such as `mutual_information`.
        epochs: passes over the images.
        batch_size: images a step, each in two views.
        optimizer: a key of `OPTIMIZERS`.
        learning_rate: the highest.
        warmup: epochs over which the rate rises; then it falls half a cosine.
        weight_decay: of weights; biases and norms have none.
        hidden: width of the projector's and predictor's hidden layers.
        latent: dimensions of z.
        precision: of the network: "32", "bf16" or "16" (CUDA alone). The objective is always computed in 32 bits.
        evaluate_every: epochs between evaluations; the last epoch is always one.
        views: how the two views are drawn.
        seed: of everything random.
    """

    objective: str = "plane_knn"
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 100
    batch_size: int = 256
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    warmup: float = 10.0
    weight_decay: float = 1e-4
    hidden: int = 2048
    latent: int = 128
    precision: str = "32"
    evaluate_every: int = 10
    views: Views = field(default_factory=Views)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: InputError for a value out of its range."""
        functions = {**PAIRS, **PREDICTED}
        for name, choices in (("objective", functions), ("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)}; choose one of {', '.join(choices)}")
        for name in ("epochs", "batch_size", "hidden", "latent", "evaluate_every", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value}; it must be a whole number from {least}")
        for name, holds, range_ in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or above"),
            ("warmup", 0 <= self.warmup < self.epochs, f"from 0 to below the {self.epochs} epochs"),
        ):
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {range_}")
        parameters = inspect.signature(functions[self.objective]).parameters.values()
        known = [one.name for one in parameters if one.default is not inspect.Parameter.empty]
        if unknown := sorted(set(self.options) - set(known)):
            raise InputError(f"options: {self.objective} knows no {unknown[0]}; choose of {', '.join(known)}")
        check((self.batch_size, self.latent), self.objective in SPHERES, **self.options)


@dataclass(frozen=True)
class PairRecord:
    """The results of one evaluation.

    Attributes:
        epoch: passes done.
        objective: mean since the last evaluation, nats per pair (NaN before the first step). Its bias is larger than
            what it estimates (see `objectives`): compare it along one training, not between objectives.
        effective_rank: of z of test images, of unit length for the objectives in `SPHERES`.
        linear: accuracy of a linear readout of the encoder's features, test images; NaN without labels.
        knn: accuracy of a vote of nearest neighbours, likewise.
    """

    epoch: int
    objective: float
    effective_rank: float
    linear: float
    knn: float


class PairTraining:
    """One training, with everything it needs to go on after a stop.

    Args:
        config: its settings.
        train: images to learn from; their labels are used by the probes alone.
        test: images that the probes are judged on, and z is measured on.
        encoder: images -> (sample, feature), any module; None makes a ResNet-18 from the seed.
        device: "cuda", "cpu", or None for CUDA where there is one.

    Raises:
        InputError: fewer images than a batch; half precision without CUDA; kornia is not installed.
    """

    def __init__(
        self,
        config: PairConfig,
        train: Images,
        test: Images,
        encoder: nn.Module | None = None,
        device: str | None = None,
    ):
        self.config = config
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if config.precision == "16" and self.device == "cpu":
            raise InputError("precision is 16, which needs CUDA; use bf16 or 32 on the CPU")
        if len(train) < config.batch_size:
            raise InputError(f"{train.source}: {len(train)} images are fewer than a batch of {config.batch_size}")
        channels, height, width = train.pixels.shape[1:]
        self._augment = augmentation(config.views, channels, height, width)
        self._train, self._test = train, test
        with self._random(0):
            encoder = ResNet18(channels) if encoder is None else encoder
            features = _count_features(encoder, train)
            predict = config.objective in PREDICTED
            self.network = PairNetwork(encoder, features, config.hidden, config.latent, predict)
        self.steps_per_epoch = len(train) // config.batch_size
        steps, warmup = config.epochs * self.steps_per_epoch, round(config.warmup * self.steps_per_epoch)
        self._trainer = Trainer(
            self.network,
            OPTIMIZERS[config.optimizer](parameter_groups(self.network, config.weight_decay), config.learning_rate),
            lambda step: rate(step, steps, warmup),
            f"by {config.objective}",
            remedy=f"try a learning rate below {config.learning_rate:g}",
            device=self.device,
            precision=PRECISIONS[config.precision],
        )
        self._pixels = self._trainer.fabric.to_device(train.pixels)
        self.epoch = 0
        self.seconds = 0.0  # of training and evaluation, before and after a stop
        self.history: list[PairRecord] = []
        self._since: list[float] = []  # mean objective of each epoch since the last evaluation

    def run(self) -> Iterator[PairRecord]:
        """Train to the last epoch; one record an evaluation.

        Raises:
            TrainingError: the objective is not finite any more.
        """
        while self.epoch < self.config.epochs:
            record = self.advance()
            if record is not None:
                yield record

    def advance(self) -> PairRecord | None:
        """Train one epoch, and evaluate where that is due.

        Raises:
            TrainingError: the objective is not finite any more.
        """
        started = time.perf_counter()
        self._since.append(self.one_epoch())
        record = None
        if self.epoch % self.config.evaluate_every == 0 or self.epoch == self.config.epochs:
            record = self.evaluate(sum(self._since) / len(self._since))
            self._since = []
            self.history.append(record)
        self.seconds += time.perf_counter() - started
        return record

    def one_epoch(self) -> float:
        """Train over all images once; the objective's mean over the steps."""
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(len(self._pixels))
        values = []
        self.network.train()
        for index in torch.from_numpy(order).split(self.config.batch_size)[: self.steps_per_epoch]:
            with self._random(1 + self._trainer.step):
                batch = self._pixels[index.to(self._pixels.device)].float() / 255
                values.append(self._trainer.advance(batch, self._objective))
        self.epoch += 1
        return float(torch.stack(values).mean())

    def _objective(self, x: Float[Tensor, "sample channel height width"]) -> Tensor:
        with torch.no_grad():
            first, second = self._augment(x), self._augment(x)
        # One after the other: a batch norm sees one view at a time, as in the published methods.
        (z, p), (z2, p2) = self._trainer.module(first), self._trainer.module(second)
        name, options = self.config.objective, self.config.options
        if p is None:
            return PAIRS[name](z, z2, **options).value
        return PREDICTED[name](z, z2, p, p2, **options).value

    def evaluate(self, objective: float = math.nan) -> PairRecord:
        """Spectrum and probes of the present network; `objective` is passed on to the record."""
        test, z = self.encode(self._test)
        linear = knn = math.nan
        if self._train.labels is not None and self._test.labels is not None:
            labels, truth = self._trainer.fabric.to_device((self._train.labels, self._test.labels))
            train, _ = self.encode(self._train)
            linear = linear_probe(train, labels, test, truth)
            knn = knn_probe(train, labels, test, truth)
        return PairRecord(self.epoch, objective, effective_rank(z), linear, knn)

    @torch.no_grad()
    def encode(self, images: Images) -> tuple[Float[Tensor, "sample feature"], Float[Tensor, "sample latent"]]:
        """The encoder's features of images without views; z, of unit length for the objectives in `SPHERES`."""
        self.network.eval()
        features, latents = [], []
        for pixels in images.pixels.split(FEATURE_ROWS):
            with self._trainer.fabric.autocast():
                feature = self.network.encoder(self._trainer.fabric.to_device(pixels).float() / 255)
                latents.append(self.network.projector(feature).float())
            features.append(feature.float())
        z = torch.cat(latents)
        return torch.cat(features), normalize(z, dim=1) if self.config.objective in SPHERES else z

    @contextmanager
    def _random(self, number: int) -> Iterator[None]:
        """Seed torch's global generators, which views and dropout draw from, by the seed and a number, for the block:
        a resumed training draws what it would have drawn, and a caller's random numbers are not disturbed."""
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self.device == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([self.config.seed, number]).generate_state(1)[0]))
            yield

    @cached_property
    def _images(self) -> dict[str, Any]:
        """Number and digest of the images, which a checkpoint is compared by."""
        parts = {"train": self._train, "test": self._test}
        return {name: {"count": len(part), "pixels": digest({"": part.pixels})} for name, part in parts.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that `resume` needs to go on to the same result; a file there is replaced at once.

        Raises:
            InputError: the disk refuses.
        """
        tensors, scaler = self._trainer.state()
        values = {
            "config": dataclasses.asdict(self.config),
            "images": self._images,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "since": self._since,
            "scaler": scaler,
            "history": [dataclasses.asdict(record) for record in self.history],
        }
        write_tensors(Path(path), tensors, values)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on where `save` was called.

        Raises:
            InputError: the file is missing, damaged, or of another training or encoder.
        """
        path = Path(path)
        tensors, values = read_tensors(path)
        for name, own, what in (
            ("config", dataclasses.asdict(self.config), "settings"),
            ("images", self._images, "images"),
        ):
            if values.get(name) != own:
                raise InputError(f"{path}: is of a training with other {what}; remove it or write elsewhere")
        found = {k: v.shape for k, v in below("network.", tensors).items()}
        if found != {k: v.shape for k, v in self.network.state_dict().items()}:
            raise InputError(f"{path}: is of another encoder; give the one that it was trained with")
        try:
            self._trainer.load(tensors, values["scaler"], values["epoch"] * self.steps_per_epoch)
            self.epoch, self.seconds, self._since = values["epoch"], values["seconds"], values["since"]
            self.history = [PairRecord(**record) for record in values["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(path, error) from None


def load_encoder(path: str | os.PathLike[str], encoder: nn.Module) -> nn.Module:
    """Put the encoder of a checkpoint into a module of the same architecture.

    Raises:
        InputError: the file is missing or damaged, or the module is another.
    """
    tensors, _ = read_tensors(Path(path))
    prefix = "network.encoder."
    try:
        encoder.load_state_dict(below(prefix, tensors))
    except RuntimeError as error:
        raise InputError(f"{path}: holds another encoder ({str(error).splitlines()[0]})") from None
    return encoder


def _count_features(encoder: nn.Module, images: Images) -> int:
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        shape = encoder(images.pixels[:2].float() / 255).shape
    encoder.train(training)
    if len(shape) != 2:
        raise InputError(f"the encoder makes {tuple(shape)} of two images; it must make (2, features)")
    return int(shape[1])
