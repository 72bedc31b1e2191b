"""Settings of any type, from Python as from TOML: one that fits, or one line."""

import json
import math
import tomllib

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmfilter.config import Config, DataConfig, FilterConfig, build_filter_config
from ldmfilter.config import settings as plain
from ldmfilter.errors import InputError
from ldmfilter.filter.model import LDMFilter

WHOLE, NUMBER, TEXT, BOOL = "a whole number", "a number", "text", "true or false"


@pytest.mark.parametrize(
    ("name", "value", "shown", "wanted"),
    [
        ("latent_dim", 2.5, "2.5", WHOLE),
        ("latent_dim", 2.0, "2.0", WHOLE),
        ("latent_dim", True, "True", WHOLE),
        ("latent_dim", "2", "'2'", WHOLE),
        ("max_steps", None, "None", WHOLE),
        ("latent_dim", math.nan, "nan", WHOLE),
        ("latent_dim", 10**30, "1" + "0" * 30, "a whole number of 1 or more and up to 1,024"),
        ("latent_dim", np.array([1, 2]), "array([1, 2])", WHOLE),
        ("state_dim", 4.5, "4.5", WHOLE),
        ("hidden", 16, "16", "whole numbers"),
        ("hidden", "16,16", "'16,16'", "whole numbers"),
        ("hidden", [16, 2.5], "[16, 2.5]", "whole numbers"),
        ("hidden", (10**9,), "1000000000", "a width of 1 or more and up to 65,536"),
        ("window", math.inf, "inf", "a number above 0"),
        ("learning_rate", math.nan, "nan", "a number above 0 and up to 1"),
        ("learning_rate", math.inf, "inf", "a number above 0 and up to 1"),
        ("learning_rate", "fast", "'fast'", NUMBER),
        ("dropout", False, "False", NUMBER),
        ("dropout", math.nan, "nan", "a share of 0 or more and below 1"),
        ("refit", 1, "1", BOOL),
        ("entropy", ["logdet"], "['logdet']", TEXT),
        ("device", None, "None", TEXT),
    ],
)
def test_settings_of_the_wrong_type(name, value, shown, wanted):
    with pytest.raises(InputError) as caught:
        FilterConfig(**{name: value}).validate()
    assert str(caught.value) == f"{name.replace('_', '-')} is {shown}; it must be {wanted}"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("bin_size", math.nan, "a number of seconds above 0"),
        ("bin_size", "0.1", NUMBER),
        ("min_rate", math.inf, "a rate in Hz of 0 or more"),
        ("reserve", math.nan, "a share of 0 or more and up to 0.8"),
        ("interval", 4, TEXT),
        ("spans", 5, "pairs of numbers"),
        ("spans", ((0, 1, 2),), "pairs of numbers"),
        ("spans", ((True, 2),), "pairs of numbers"),
        ("spans", ((0, math.nan),), "START:STOP in seconds with STOP after START"),
    ],
)
def test_choices_of_the_wrong_type(name, value, wanted):
    with pytest.raises(InputError, match="it must be") as caught:
        DataConfig(**{name: value}).validate()
    assert str(caught.value).endswith(f"; it must be {wanted}")


def test_a_fit_with_a_wrong_setting_is_refused_before_any_work():
    from ldmfilter.data.binning import bin_spikes
    from ldmfilter.data.session import Session

    counts = bin_spikes(Session.from_spikes([np.arange(0.0, 60.0, 0.3)]), 0.1)
    with pytest.raises(InputError, match=r"latent_dim is 2\.5; it must be a whole number"):
        LDMFilter().set_params(latent_dim=2.5).fit(counts)  # its constructor is type-checked in tests alone


def test_numbers_of_numpy_are_numbers():
    config = FilterConfig(latent_dim=np.int64(4), learning_rate=np.float32(0.5), hidden=[np.int32(8)])
    config.validate()
    found = plain(config)
    assert (found["latent_dim"], found["learning_rate"], found["hidden"]) == (4, 0.5, [8])
    assert json.loads(json.dumps(found)) == tomllib.loads(tomli_w.dumps(found)) == found


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
options = st.sampled_from([*FilterConfig.__dataclass_fields__, *DataConfig.__dataclass_fields__])


@given(st.dictionaries(options, values, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_value_is_a_setting_or_one_line(given_values):
    data = {name: value for name, value in given_values.items() if name in DataConfig.__dataclass_fields__}
    rest = {name: value for name, value in given_values.items() if name not in data}
    try:
        config, line = Config.from_dict({"data": data, "filter": rest}, "x.toml"), "x.toml: "
    except InputError as error:
        config, line = None, str(error)
    assert line.startswith("x.toml: ")
    assert line.isprintable()
    if config is not None:
        assert Config.from_dict(tomllib.loads(config.to_toml()), "x.toml") == config
        assert build_filter_config(plain(config.filter), "x") == config.filter
