"""Options that are made from the fields of the configuration."""

import dataclasses
import math
import re

import pytest
import typer
from ldmfilter_cli.console import FOLDED
from ldmfilter_cli.main import app
from ldmfilter_cli.options import with_options
from typer.testing import CliRunner

from ldmfilter import config
from ldmfilter.config import OPTIONS, Config

# A value of each option that is not its default, as words of the command line.
VALUES = {
    "bin_size": (["--bin-size", "0.2"], 0.2),
    "interval": (["--interval", "epochs=run"], "epochs=run"),
    "spans": (["--span", "1:2", "--span", "5:"], ((1.0, 2.0), (5.0, math.inf))),
    "series": (["--series", "dff"], "dff"),
    "units": (["--units", "rate > 1"], "rate > 1"),
    "min_rate": (["--min-rate", "0.5"], 0.5),
    "reserve": (["--reserve", "0"], 0.0),
    "sort_times": (["--sort-times"], True),
    "ticks": (["--ticks", "spikes=1000", "--ticks", "a=b=1"], ("spikes=1000", "a=b=1")),
    "drop_nan": (["--drop-nan"], True),
    "latent_dim": (["--latent-dim", "3"], 3),
    "state_dim": (["--state-dim", "9"], 9),
    "dynamics": (["--dynamics", "fast"], "fast"),
    "frame": (["--frame", "0.3"], 0.3),
    "entropy": (["--entropy", "knn"], "knn"),
    "seed": (["--seed", "0"], 0),
    "max_steps": (["--max-steps", "7"], 7),
    "learning_rate": (["--learning-rate", "0.1"], 0.1),
    "batch_size": (["--batch-size", "4"], 4),
    "window": (["--window", "5.5"], 5.5),
    "warmup": (["--warmup", "0.9"], 0.9),
    "hidden": (["--hidden", "16,8"], (16, 8)),
    "dropout": (["--dropout", "0"], 0.0),
    "weight_decay": (["--weight-decay", "0"], 0.0),
    "held_out": (["--held-out", "0.2"], 0.2),
    "refit": (["--no-refit"], False),
    "evidence": (["--evidence", "0.2"], 0.2),
    "restarts": (["--restarts", "3"], 3),
    "device": (["--device", "cpu"], "cpu"),
    "precision": (["--precision", "bf16-mixed"], "bf16-mixed"),
}


def given(*words: str, names=(), several=()) -> dict:
    """What a command with these options gets of the words."""
    small, got = typer.Typer(), []

    @small.command()
    @with_options(*names, several=several)
    def show(*, options: dict) -> None:
        got.append(options)

    result = CliRunner().invoke(small, list(words))
    assert result.exit_code == 0, result.output
    return got[0]


def test_every_field_is_an_option():
    assert list(VALUES) == list(OPTIONS)
    words = [word for flags, _ in VALUES.values() for word in flags]
    found = given(*words, names=OPTIONS)
    assert found == {name: value for name, (_, value) in VALUES.items()}
    Config().replace(**found).validate()
    assert given(names=OPTIONS) == {}
    for name, (flags, value) in VALUES.items():
        assert given(*flags, names=OPTIONS) == {name: value}


def test_train_has_every_option_with_its_help():
    train = typer.main.get_command(app).commands["train"]
    shown = {one.name: one.help for one in train.params}
    for name, one in OPTIONS.items():
        default = "" if one.default in (None, ()) else str(one.default).strip("()").replace(", ", ",")
        choices = one.metadata.get("choices", ())
        one_of = f" One of {', '.join(choices)}." if len(choices) > 3 else ""
        assert shown[name] == one.metadata["help"] + one_of + (f" (default: {default})" if default else "")


def test_a_new_field_is_an_option(monkeypatch):
    """With its name, type, help and bounds, and nothing else anywhere."""

    @dataclasses.dataclass(frozen=True)
    class More(config.DataConfig):
        lag_time: float = config.option(0.5, "Lag, s.", config.TIME, noun="a number of seconds", least=0, below=2)

    (field,) = (one for one in dataclasses.fields(More) if one.name == "lag_time")
    monkeypatch.setitem(OPTIONS, "lag_time", field)
    assert given("--lag-time", "1.5", names=["lag_time"]) == {"lag_time": 1.5}
    assert given("--lag-time", "1.5", "--lag-time", "0", several=["lag_time"]) == {"lag_time": [1.5, 0.0]}
    for value, told in ((2.0, "of 0 or more and below 2"), (-1.0, "of 0 or more and below 2"), ("x", None)):
        with pytest.raises(config.InputError) as caught:
            config._check(More(lag_time=value), More)
        wanted = "a number" if told is None else f"a number of seconds {told}"
        assert str(caught.value) == f"lag-time is {value!r}; it must be {wanted}"


def test_several_values():
    words = ["--hidden", "8", "--hidden", "8,4", "--entropy", "knn", "--latent-dim", "2", "--span", "0:9"]
    assert given(*words, names=["spans"], several=["hidden", "entropy", "latent_dim"]) == {
        "hidden": [(8,), (8, 4)],
        "entropy": ["knn"],
        "latent_dim": [2],
        "spans": ((0.0, 9.0),),
    }


def test_a_long_help_leaves_rare_options_out_and_help_all_shows_them():
    texts = [CliRunner().invoke(app, ["train", flag]).output for flag in ("--help", "--help-all", "--help")]
    assert ["--weight-decay" in text for text in texts] == [False, True, False]
    assert all("--bin-size" in text for text in texts)


@pytest.mark.parametrize("name", ["inspect", "train", "decode", "stream", "sweep", "check", "export", "reproduce"])
def test_helps_show_no_type_and_defaults_in_their_sentences(name):
    text = CliRunner().invoke(app, [name, "--help-all" if name in FOLDED else "--help"]).output
    assert not re.search(r"<|\[default", text)
    words = " ".join(text.replace("│", " ").split())
    assert ("Level of the intervals. (default: 0.95)" in words) == (name == "decode")


@pytest.mark.parametrize("name", ["train", "decode", "stream", "sweep"])
def test_long_helps_are_folded_and_flags_have_no_type(name):
    short, whole = (
        CliRunner().invoke(app, [name, flag], env={"COLUMNS": "100"}).output for flag in ("-h", "--help-all")
    )
    assert 20 < len(short.splitlines()) < 0.85 * len(whole.splitlines())
    assert set(re.findall(r"--[a-z-]+", short)) < set(re.findall(r"--[a-z-]+", whole))
    assert "<bool>" not in whole + CliRunner().invoke(app, ["-h"]).output


def test_a_number_that_is_none_is_told_with_its_unit():
    told = CliRunner().invoke(app, ["train", "x", "--bin-size", "100ms"], env={"COLUMNS": "200"}).output
    assert "'100ms' is not a number of seconds; give it as 0.1" in told


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        ("export --to ", ["nwb", "netcdf", "csv", "pynapple", "parquet"]),
        ("export --to n", ["nwb", "netcdf"]),
        ("train --dynamics s", ["slow"]),
        ("sweep --entropy k", ["knn", "kde"]),
        ("decode --device c", ["cpu", "cuda"]),
        ("inspect --format n", ["nwb"]),
    ],
)
def test_the_shell_completes_choices(words, choices):
    env = {"_LDMFILTER_COMPLETE": "complete_bash", "COMP_WORDS": f"ldmfilter {words}", "COMP_CWORD": "3"}
    done = CliRunner().invoke(app, [], env=env, prog_name="ldmfilter")
    assert done.output.split() == choices
