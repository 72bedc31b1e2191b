"""The configuration: typed, validated, and written as TOML. One field here is one option of the command line."""

import dataclasses
import math
import numbers
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmfilter.errors import InputError

DYNAMICS = ("auto", "slow", "fast")
ENTROPIES = ("logdet", "knn", "stopgrad", "kde")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
#: Beyond these a slip of the finger is likelier than a machine that holds it.
MOST = {
    "latent_dim": 1024, "state_dim": 1024, "hidden": 2**16, "batch_size": 2**16, "max_steps": 2**31,
}  # fmt: skip


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataConfig:
    """Which spikes are used, and in which bins."""

    bin_size: float = _option(0.1, "Width of a time bin, s.")
    interval: str | None = _option(None, "Interval table and tag, as epochs=run; a table alone takes all its rows.")
    spans: tuple[tuple[float, float], ...] = _option(
        (), "Spans of time to use, s; with an interval, what lies in both."
    )
    units: str | None = _option(None, "Expression on unit columns, as \"quality == 'good'\".")
    min_rate: float = _option(0.0, "Lowest mean rate of a unit that is used, Hz; silent units are always left out.")
    reserve: float = _option(
        0.4, "Share of the time, in blocks, that training never sees: there the filter is judged; 0 trains on all."
    )

    def validate(self) -> None:
        """Check what can be checked without a session.

        Raises:
            InputError: a value is of another type or outside its range; names the option and what it must be.
        """
        _check_types(self, DataConfig)
        _require(
            math.isfinite(self.bin_size) and self.bin_size > 0,
            "bin_size",
            self.bin_size,
            "a positive number of seconds",
        )
        _require(
            math.isfinite(self.min_rate) and self.min_rate >= 0,
            "min_rate",
            self.min_rate,
            "a rate of 0 Hz or more",
        )
        _require(0 <= self.reserve <= 0.8, "reserve", self.reserve, "a share from 0 to 0.8")
        for start, stop in self.spans:
            _require(
                stop > start,
                "span", f"{start}:{stop}", "START:STOP in seconds with STOP after START",
            )  # fmt: skip


@dataclass
class FilterConfig:
    """Shape of the filter and the settings of its training."""

    latent_dim: int = _option(16, "Dimensions of the pseudo-observation z.")
    state_dim: int | None = _option(None, "Dimensions of the hidden state h; without it those of z, the fewest.")
    dynamics: str = _option(
        "auto",
        "Where the dynamics begin: slow, fast, or auto, which trains both and keeps what predicts spikes better.",
    )
    frame: float | None = _option(
        None, "Length of the counts that the encoder sees at once, s; without it 0.5 (slow) or 0.1 (fast)."
    )
    entropy: str = _option("logdet", "Estimator of the entropy that prevents collapse: " + ", ".join(ENTROPIES) + ".")
    seed: int = _option(0, "Seed of everything random.")
    max_steps: int = _option(600, "Training steps; held-out time chooses the step that is kept.")
    learning_rate: float = _option(1e-3, "Highest step size of AdamW, which rises in 50 steps and falls as a cosine.")
    batch_size: int = _option(64, "Windows of each session in a training step.")
    window: float | None = _option(None, "Length of a training window, s; without it 32 frames.")
    warmup: float | None = _option(
        None, "First part of a window, s, which warms the filter up and carries no loss; without it a quarter."
    )
    hidden: tuple[int, ...] = _option((128, 128), "Widths of the encoder's hidden layers.")
    dropout: float = _option(0.1, "Share of units and activations dropped in training.")
    weight_decay: float = _option(0.01, "Weight decay of the encoder.")
    held_out: float = _option(0.15, "Share of the time, in blocks, that is held out to choose the step.")
    refit: bool = _option(
        False,
        "After training, fit noise with a memory to the encoder, by maximum likelihood: truer predictions.",
    )
    device: str = _option("auto", "Where to compute: " + ", ".join(DEVICES) + ".")
    precision: str = _option("32-true", "Precision of the encoder: " + ", ".join(PRECISIONS) + ".")

    @property
    def states(self) -> int:
        """Dimensions of the hidden state, resolved."""
        return self.latent_dim if self.state_dim is None else self.state_dim

    def validate(self) -> None:
        """Check every field and how they fit together.

        Raises:
            InputError: a value is of another type or outside its range; names the option and what it must be.
        """
        _check_types(self, FilterConfig)
        for name in ("latent_dim", "max_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of 1 or more")
        for name, most in MOST.items():
            value = getattr(self, name)
            for size in value if isinstance(value, tuple | list) else () if value is None else (value,):
                _require(size <= most, name, size, f"at most {most:,}")
        _require(
            self.states >= self.latent_dim,
            "state_dim",
            self.states,
            f"at least latent_dim, {self.latent_dim}",
        )
        for name in ("frame", "window", "warmup"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, name, value, "a positive number of seconds")
        if self.window is not None and self.warmup is not None:
            _require(self.window > self.warmup, "window", self.window, f"longer than warmup, {self.warmup:g}")
        _require(self.dynamics in DYNAMICS, "dynamics", self.dynamics, "one of " + ", ".join(DYNAMICS))
        _require(self.entropy in ENTROPIES, "entropy", self.entropy, "one of " + ", ".join(ENTROPIES))
        _require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to 2^63 - 1")
        _require(
            self.batch_size >= 2,
            "batch_size",
            self.batch_size,
            "a whole number of 2 or more",
        )
        _require(
            0 < self.learning_rate <= 1,
            "learning_rate",
            self.learning_rate,
            "a number above 0 and up to 1",
        )
        _require(all(size >= 1 for size in self.hidden), "hidden", list(self.hidden), "widths of 1 or more")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "a share from 0 to below 1")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "a number of 0 or more")
        _require(0 < self.held_out <= 0.5, "held_out", self.held_out, "a share above 0 and up to 0.5")
        _require(self.device in DEVICES, "device", self.device, "one of " + ", ".join(DEVICES))
        _require(self.precision in PRECISIONS, "precision", self.precision, "one of " + ", ".join(PRECISIONS))


@dataclass(frozen=True)
class Config:
    """Everything a run was made with."""

    data: DataConfig
    filter: FilterConfig

    def validate(self) -> None:
        """Raises: InputError, as its parts do."""
        self.data.validate()
        self.filter.validate()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain types only, as TOML and JSON take them; options that are None are left out."""
        return {
            "data": settings(self.data),
            "filter": settings(self.filter),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str) -> "Config":
        """The reverse of `to_dict`; missing options take their defaults.

        Raises:
            InputError: an unknown table or option, or a value of the wrong type; `where` names the file.
        """
        unknown = sorted(set(raw) - {"data", "filter"})
        if unknown:
            raise InputError(f"{where}: unknown table [{unknown[0]}]; the tables are [data] and [filter]")
        config = cls(
            _build(DataConfig, raw.get("data", {}), f"{where}: [data]"),
            _build(FilterConfig, raw.get("filter", {}), f"{where}: [filter]"),
        )
        try:
            config.validate()
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return config

    def to_toml(self) -> str:
        """As a TOML text that `read` reads back to an equal configuration."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    @classmethod
    def read(cls, path: str | Path) -> "Config":
        """Read a TOML file.

        Raises:
            InputError: the file is missing, is not TOML, or holds an option that does not exist or does not fit.
        """
        return cls.from_dict(read_toml(path), str(path))

    def replace(self, **options: Any) -> "Config":
        """A copy with some options replaced, each by its field name, wherever the field lies."""
        data = {k: v for k, v in options.items() if k in _names(DataConfig)}
        rest = {k: v for k, v in options.items() if k not in data}
        return Config(dataclasses.replace(self.data, **data), dataclasses.replace(self.filter, **rest))


def settings(part: DataConfig | FilterConfig) -> dict[str, Any]:
    """A configuration's fields as plain types (tuples as lists), without those that are None."""
    base = DataConfig if isinstance(part, DataConfig) else FilterConfig
    values = {name: getattr(part, name) for name in _names(base)}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def build_filter_config(raw: Any, where: str) -> FilterConfig:
    """A validated `FilterConfig` from plain types. Raises: InputError, naming `where`."""
    config: FilterConfig = _build(FilterConfig, raw, where)
    config.validate()
    return config


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises: InputError when it is missing or not TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error}); see config.toml in a run folder for an example") from None


def _require(ok: bool, name: str, value: Any, wanted: str) -> None:
    if not ok:
        raise InputError(f"{name.replace('_', '-')} is {value}; it must be {wanted}")


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    # numpy's numbers are known neither to TOML nor to JSON
    return value.item() if isinstance(value, numbers.Number) and hasattr(value, "item") else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _build(cls: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise InputError(f"{where}: must be a table of options")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for name, value in raw.items():
        key = name.replace("-", "_")
        if key not in fields:
            raise InputError(f"{where}: unknown option {name!r}; the options are {', '.join(fields)}")
        values[key] = _checked(fields[key], _frozen(value), f"{where}: {name}")
    return cls(**values)


def _check_types(part: DataConfig | FilterConfig, base: type) -> None:
    for spec in dataclasses.fields(base):
        value = getattr(part, spec.name)
        if value is not None or "None" not in str(spec.type):
            _checked(spec, _frozen(value), spec.name.replace("_", "-"))


def _checked(spec: dataclasses.Field, value: Any, where: str) -> Any:
    kind = str(getattr(spec.type, "__name__", spec.type)).removesuffix(" | None")
    if kind not in _KINDS:
        kind = spec.name
    wanted, fits, convert = _KINDS[kind]
    if not fits(value):
        shown = " ".join(repr(_plain(value)).split())
        raise InputError(f"{where} is {shown[:60]}; it must be {wanted}")
    return convert(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_spans(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(span, tuple) and len(span) == 2 and all(map(_is_number, span)) for span in value
    )


# What a field of a type, or of a name where its type is a tuple, must be; how to see it; what it becomes.
_KINDS: dict[str, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    "bool": ("true or false", lambda value: isinstance(value, bool), bool),
    "int": ("a whole number", _is_whole, int),
    "float": ("a number", _is_number, float),
    "str": ("text", lambda value: isinstance(value, str), str),
    "hidden": ("whole numbers", lambda value: isinstance(value, tuple) and all(map(_is_whole, value)), tuple),
    "spans": (
        "pairs of numbers",
        _is_spans,
        lambda value: tuple((float(start), float(stop)) for start, stop in value),
    ),
}
