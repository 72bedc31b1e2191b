"""The configuration: typed, validated, and written as TOML.

A field here is an option of the command line, a key of the TOML file and, of `FilterConfig`, a setting of `LDMFilter`.
To add an option, add a field.
"""

import dataclasses
import math
import numbers
import operator
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from ldmfilter.errors import InputError

DYNAMICS = ("auto", "slow", "fast")
ENTROPIES = ("logdet", "knn", "stopgrad", "kde")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

# Groups of options in the help of the command line.
TIME, UNITS, MODEL, TRAINING = "Time", "Units", "Model", "Training"


# Bounds of a number, by their names in `option`: in words, and how a value is compared.
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "least": ("of {:,} or more", operator.ge),
    "above": ("above {:,}", operator.gt),
    "most": ("up to {:,}", operator.le),
    "below": ("below {:,}", operator.lt),
}


def option(default: Any, help: str, panel: str, **more: Any) -> Any:
    """A field that is an option.

    Args:
        help: one sentence, with the unit.
        panel: its group in the help of the command line.
        **more: `least`, `above`, `most`, `below`: bounds of a number, or of each of several; `choices`: the allowed
            texts; `noun`: a value in words, as "a share"; `metavar` and `flag`: its value and its name on the command
            line, where they do not follow from its type and name; `rare`: a long help leaves it out.
    """
    return field(default=default, metadata={"help": help, "panel": panel, **more})


@dataclass(frozen=True)
class DataConfig:
    """Which spikes, or which signal, are used, and in which bins."""

    bin_size: float = option(
        0.1, "Width of a time bin, s; of a signal a frame.", TIME, noun="a number of seconds", above=0
    )
    interval: str | None = option(
        None, "Rows of an interval table, as epochs=run; a table alone takes all.", TIME, metavar="TABLE=TAG"
    )
    spans: tuple[tuple[float, float], ...] = option(
        (), "Seconds; repeatable; an end may be left open. With --interval, what lies in both.",
        TIME, flag="span", metavar="START:STOP",
    )  # fmt: skip
    series: str | None = option(
        None, "Signal in place of spikes, by its path or the last part of it, as dff; `inspect` lists them.",
        UNITS, metavar="PATH",
    )  # fmt: skip
    units: str | None = option(None, "Expression on unit columns, as \"quality == 'good'\".", UNITS, metavar="QUERY")
    min_rate: float = option(
        0.0, "Lowest mean rate of a unit that is used, Hz; silent units are always left out.",
        UNITS, metavar="HZ", noun="a rate in Hz", least=0, rare=True,
    )  # fmt: skip
    reserve: float = option(
        0.4, "Share of the time, in blocks, that training never sees: there the filter is judged; 0 trains on all.",
        TIME, noun="a share", least=0, most=0.8,
    )  # fmt: skip

    sort_times: bool = option(
        False, "Take times that fall back (spikes, behaviour) as disorder, though a clock may have been reset.",
        TIME, rare=True,
    )  # fmt: skip
    ticks: tuple[str, ...] = option(
        (), "Ticks a second of the times of spikes, a table or a series: 1000 where they are ms, 1 for s; repeatable.",
        TIME, metavar="NAME=HZ", rare=True,
    )  # fmt: skip
    drop_nan: bool = option(False, "Leave out spikes whose times are NaN or infinite.", TIME, rare=True)

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `read_session`, by name."""
        return {"series": self.series, "sort_times": self.sort_times, "ticks": self.ticks, "drop_nan": self.drop_nan}

    def validate(self) -> None:
        """Check what can be checked without a session.

        Raises InputError for a value of another type or outside its range; it names the option and what it must be.
        """
        _check(self, DataConfig)
        for start, stop in self.spans:
            _require(stop > start, "span", f"{start}:{stop}", "START:STOP in seconds with STOP after START")
        for text in self.ticks:
            parse_ticks(text)


HIDDEN = (128, 128)  # widths of an encoder's hidden layers
LATENT_DIM = 16  # where there are twice as many units or more
SHARED_LATENT_DIM = 32  # of slow and fast states together, where there are 48 units or more, and two thirds of fewer
LEAST_SHARED = 12  # of slow and fast states together: of fewer, one kind has them all
LEAST_IN_TRIALS = 4  # the same in trials, where the settings leave their number open


@dataclass
class FilterConfig:
    """Shape of the filter and the settings of its training. The upper bounds of sizes catch errors of typing."""

    latent_dim: int | None = option(
        None, "Dimensions of the pseudo-observation z, of slow and fast together; without it by the units, at most 32; "
        "fewer of one kind alone, in trials of each, where these predict spikes better.",
        MODEL, least=1, most=1024,
    )  # fmt: skip
    state_dim: int | None = option(
        None, "Dimensions of the hidden state h; without it those of z, the fewest.",
        MODEL, least=1, most=1024, rare=True,
    )  # fmt: skip
    dynamics: str = option(
        "auto", "States that the filter has; auto: slow and fast, or one kind alone where that predicts spikes better.",
        MODEL, choices=DYNAMICS,
    )  # fmt: skip
    frame: float | None = option(
        None, "Length of the counts that the encoder sees at once, s; without it 0.5 (slow) or 0.1 (fast, and in "
        "trials below 20 s; below 0.7 s a seventh of one).",
        MODEL, above=0, rare=True,
    )  # fmt: skip
    entropy: str = option("logdet", "Estimator of the entropy that prevents collapse.", TRAINING, choices=ENTROPIES)
    seed: int = option(0, "Seed of everything random.", TRAINING, least=0, most=2**63 - 1)
    max_steps: int = option(
        600, "Training steps; held-out time chooses the step that is kept.", TRAINING, least=1, most=2**31
    )
    learning_rate: float = option(
        1e-3, "Highest step size of AdamW, which rises in 50 steps and falls as a cosine.",
        TRAINING, above=0, most=1, rare=True,
    )  # fmt: skip
    batch_size: int = option(
        64, "Windows of each session in a training step.", TRAINING, least=2, most=2**16, rare=True
    )
    window: float | None = option(
        None, "Longest training window, s; without it 32 frames. A trial that is shorter is a window of its own.",
        TRAINING, above=0, rare=True,
    )  # fmt: skip
    warmup: float | None = option(
        None, "First part of a window, s, which warms the filter up and carries no loss; without it a quarter, in "
        "trials below 20 s none.",
        TRAINING, above=0, rare=True,
    )  # fmt: skip
    hidden: tuple[int, ...] | None = option(
        None, "Widths of the encoder's hidden layers; without it 128,128, or in trials below 20 s of one session none, "
        "as a linear encoder has, where these do not predict better.",
        MODEL, metavar="WIDTH,WIDTH", noun="a width", least=1, most=2**16, rare=True,
    )  # fmt: skip
    dropout: float | None = option(
        None, "Share of units and activations dropped in training; without it 0.1 (slow), 0.2 (fast) or, in trials "
        "below 20 s, 0.5 or what predicts better.",
        MODEL, noun="a share", least=0, below=1, rare=True,
    )  # fmt: skip
    weight_decay: float = option(0.01, "Weight decay of the encoder.", TRAINING, least=0, rare=True)
    held_out: float = option(
        0.15, "Share of the time, in blocks, that is held out to choose the step.",
        TRAINING, noun="a share", above=0, most=0.5, rare=True,
    )  # fmt: skip
    refit: bool | None = option(
        None, "After training, fit the dynamics anew; without it those of fast states, where that predicts spikes "
        "better.",
        TRAINING, rare=True,
    )  # fmt: skip
    evidence: float = option(
        0.0, "How much the noise falls with a bin's spikes, as 0.2; then each bin has a covariance of its own.",
        MODEL, noun="a share", least=0, most=0.9, rare=True,
    )  # fmt: skip
    restarts: int = option(
        0, "Trainings again from other first weights; what predicts spikes best is kept.", TRAINING, least=0, most=100
    )
    device: str = option("auto", "Where to compute; auto is CUDA where there is one.", TRAINING, choices=DEVICES)
    precision: str = option("32-true", "Precision of the encoder.", TRAINING, choices=PRECISIONS, rare=True)

    @property
    def latents(self) -> int:
        """Dimensions of z, of settings with numbers for all sizes."""
        return self.latent_dim or LATENT_DIM

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the encoder's hidden layers."""
        return HIDDEN if self.hidden is None else tuple(self.hidden)

    @property
    def states(self) -> int:
        """Dimensions of the hidden state, of settings with numbers for all sizes."""
        return self.state_dim or self.latents

    def least_shared(self, in_trials: bool) -> int:
        """Fewest dimensions that slow and fast states share; of fewer, one kind has them all."""
        return LEAST_IN_TRIALS if in_trials and self.latent_dim is None and self.state_dim is None else LEAST_SHARED

    def sized(self, units: int, shared: bool = False, in_trials: bool = False) -> "FilterConfig":
        """A copy in which `latent_dim` and `state_dim` are numbers, for a session of so many units, and for slow and
        fast states together where they are to share the dimensions: in trials, where the settings leave them open, each
        have as many as one kind alone."""
        alone, least = min(LATENT_DIM, units // 2), self.least_shared(in_trials)
        together = 2 * alone if least == LEAST_IN_TRIALS else min(SHARED_LATENT_DIM, 2 * units // 3)
        most = together if shared and together >= least else alone
        latent = self.latent_dim or max(1, min(most, self.state_dim or most))
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(FilterConfig)}
        return FilterConfig(**(values | {"latent_dim": latent, "state_dim": self.state_dim or latent}))

    _dashes: ClassVar[bool] = True  # in names of options in messages, as on the command line

    def validate(self) -> None:
        """Check every field and how they fit together. Raises InputError as `DataConfig.validate`."""
        _check(self, FilterConfig, self._dashes)
        least, name = self.latent_dim or 1, "state-dim" if self._dashes else "state_dim"
        _require((self.state_dim or least) >= least, name, self.state_dim, f"at least latent_dim, {least}")
        if self.window is not None and self.warmup is not None:
            _require(self.window > self.warmup, "window", self.window, f"longer than warmup, {self.warmup:g}")


TABLES: dict[str, type] = {"data": DataConfig, "filter": FilterConfig}
OPTIONS = {one.name: one for table in TABLES.values() for one in dataclasses.fields(table)}


@dataclass(frozen=True)
class Config:
    """Everything a run was made with."""

    data: DataConfig = field(default_factory=DataConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)

    def validate(self) -> None:
        """Raises: InputError, as its parts do."""
        self.data.validate()
        self.filter.validate()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain types only, as TOML and JSON take them; options that are None are left out."""
        return {name: settings(getattr(self, name)) for name in TABLES}

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str) -> "Config":
        """The reverse of `to_dict`; missing options take their defaults.

        Raises InputError, naming `where`, for an unknown table or option, or a value that is not allowed.
        """
        unknown = sorted(set(raw) - set(TABLES))
        if unknown:
            raise InputError(f"{where}: unknown table [{unknown[0]}]; the tables are [data] and [filter]")
        config = cls(**{name: _build(table, raw.get(name, {}), f"{where}: [{name}]") for name, table in TABLES.items()})
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
        """Read a TOML file. Raises InputError as `read_toml` and `from_dict`."""
        return cls.from_dict(read_toml(path), str(path))

    def replace(self, **options: Any) -> "Config":
        """A copy with some options replaced, each by its field name, wherever the field lies."""
        data = {name: value for name, value in options.items() if name in DataConfig.__dataclass_fields__}
        rest = {name: value for name, value in options.items() if name not in data}
        return Config(dataclasses.replace(self.data, **data), dataclasses.replace(self.filter, **rest))


def current_settings(raw: Any, bin_size: float) -> Any:
    """The filter's settings as version 0.1.0 wrote them, by what they mean now: windows were counted in bins of
    `bin_size` s, dynamics began slow, and a frame was a bin; there was one candidate."""
    if not isinstance(raw, dict):
        return raw
    times = {name: raw[name] * bin_size for name in ("window", "warmup") if isinstance(raw.get(name), int)}
    return raw | times | {"frame": bin_size, "dynamics": "slow", "restarts": 0}


def settings(part: DataConfig | FilterConfig) -> dict[str, Any]:
    """A configuration's fields as plain types (tuples as lists), without those that are None."""
    table = DataConfig if isinstance(part, DataConfig) else FilterConfig
    values = {one.name: _plain(getattr(part, one.name)) for one in dataclasses.fields(table)}
    return {name: value for name, value in values.items() if value is not None}


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


def parse_ticks(text: str) -> tuple[str, float]:
    """Name and Hz of "NAME=HZ". Raises: InputError for another form."""
    name, _, hz = text.rpartition("=")
    try:
        ticks = float(hz)
    except ValueError:
        ticks = math.nan
    _require(bool(name) and 0 < ticks < math.inf, "ticks", repr(text)[:60], "NAME=HZ, as spikes=1000")
    return name, ticks


def described(table: type) -> str:
    """The options of a table as a docstring lists parameters: name, type, default, help, choices or bounds."""
    lines = []
    for one in dataclasses.fields(table):
        about, of = one.metadata, one.type.__name__ if isinstance(one.type, type) else str(one.type)
        bounds = " and ".join(text.format(about[key]) for key, (text, _) in _BOUNDS.items() if key in about)
        allowed = "one of " + ", ".join(about["choices"]) if "choices" in about else bounds.removeprefix("of ")
        lines += [f"{one.name} : {of}, default {one.default!r}", f"    {about['help']}"]
        lines += [f"    {allowed[0].upper()}{allowed[1:]}."] if allowed else []
    return "\n".join(lines)


def kind(one: dataclasses.Field) -> Any:
    """The type of an option's values: its annotation without None."""
    kinds = get_args(one.type)
    return kinds[0] if type(None) in kinds else one.type


# A value of a type, in words.
_NOUNS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    tuple[int, ...]: "whole numbers", tuple[str, ...]: "texts", tuple[tuple[float, float], ...]: "pairs of numbers",
}  # fmt: skip
_NUMBERS: dict[Any, type] = {int: numbers.Integral, float: numbers.Real}  # those of numpy too


def _convert(wanted: Any, value: Any) -> Any:
    """A value as one of a type. Raises: TypeError or OverflowError where it is none."""
    if inner := get_args(wanted):
        if not isinstance(value, tuple | list) or (inner[-1] is not ... and len(value) != len(inner)):
            raise TypeError
        return tuple(_convert(inner[0], part) for part in value)
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, _NUMBERS.get(wanted, wanted)):
        raise TypeError
    return wanted(value)


def _checked(one: dataclasses.Field, value: Any, where: str) -> Any:
    """A value as its option's type. Raises: InputError, naming `where`, for another type or what is not allowed."""
    of, about = kind(one), one.metadata
    try:
        value = _convert(of, value)
    except (TypeError, OverflowError):
        shown = " ".join(repr(_plain(value)).split())[:60]
        raise InputError(f"{where} is {shown}; it must be {_NOUNS[of]}") from None
    if "choices" in about:
        shown = value if value.isprintable() else repr(value)
        _require(value in about["choices"], where, shown, "one of " + ", ".join(about["choices"]))
    bounds = [(*_BOUNDS[key], about[key]) for key in _BOUNDS if key in about]
    wanted = " and ".join(text.format(bound) for text, _, bound in bounds)
    for number in (value if isinstance(value, tuple) else (value,)) if bounds else ():
        ok = number < math.inf and all(compare(number, bound) for _, compare, bound in bounds)
        _require(ok, where, number, f"{about.get('noun', _NOUNS[of])} {wanted}")
    return value


def _check(part: DataConfig | FilterConfig, table: type, dashes: bool = True) -> None:
    """Raises: InputError for the first option whose value is of another type or not allowed."""
    for one in dataclasses.fields(table):
        value = getattr(part, one.name)
        if value is not None or kind(one) is one.type:
            _checked(one, value, one.name.replace("_", "-") if dashes else one.name)


def _require(ok: bool, name: str, value: Any, wanted: str) -> None:
    if not ok:
        raise InputError(f"{name} is {value}; it must be {wanted}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    # numpy's numbers are known neither to TOML nor to JSON
    return value.item() if isinstance(value, numbers.Number) and hasattr(value, "item") else value


def _build(table: type, raw: Any, where: str) -> Any:
    """A configuration's table from plain types. Raises: InputError, naming `where`."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: must be a table of options")
    known = {one.name: one for one in dataclasses.fields(table)}
    values = {}
    for name, value in raw.items():
        key = name.replace("-", "_")
        if key not in known:
            raise InputError(f"{where}: unknown option {name!r}; the options are {', '.join(known)}")
        values[key] = _checked(known[key], value, f"{where}: {name}")
    return table(**values)
