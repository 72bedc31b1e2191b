"""The page says what the numbers say, all of them are in the JSON beside it, and no text from a file is markup."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression

from ldmfilter.analysis.report import Report
from ldmfilter.analysis.report.page import Picture, environment, short, write_section
from ldmfilter.analysis.report.sections import SECTIONS, Inputs, _apart, _changed, _evidence, _words
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.filter.candidates import Trained
from ldmfilter.filter.evaluation import Record
from ldmfilter.text import finite
from tests.report_sample import HARM, PLACE, harmful_report

SCORES = ((0, 1.0), (25, 2.0))  # steps and their predictive information, nats a frame


@pytest.fixture(scope="module")
def report() -> Report:
    return harmful_report()


@pytest.fixture(scope="module")
def page(report) -> str:
    return report.html()


class Outline(HTMLParser):
    """What a screen reader meets: elements with their attributes, texts, numbers."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.inside: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br", "use", "path", "image"):
            self.inside.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        self.texts.append((self.inside[-1] if self.inside else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def leaves(value):
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def test_every_number_of_the_page_is_in_the_json(report, page):
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    values = {float(v) for v in leaves(content) if isinstance(v, int | float) and not isinstance(v, bool)}
    texts = "\n".join(v for v in leaves(content) if isinstance(v, str))
    outline = Outline(page)
    shown = [attributes["value"] for attributes in outline.all("data")]
    assert len(shown) > 100
    assert {float(v) for v in shown} <= values
    # What stands in a sentence or a cell outside of those elements stands in a text of the JSON, or counts its rows.
    counts = {str(len(content["diagnosis"]["units"]["unit"])), "95"}
    inside = ("script", "style", "data", "text", "svg", "g", "title", "code", "tspan")
    assert not any("<data" in data for tag, data in outline.texts if tag not in ("script", "style"))
    words = [w for tag, data in outline.texts if tag not in inside for w in re.findall(r"\d[\d.,]*\d|\d", data)]
    assert words
    numbers = {f"{v:g}" for v in values} | {f"{v:,.0f}" for v in values}
    missing = {w for w in words if w not in texts and w not in numbers | counts}
    assert not missing - set(re.findall(r"\d[\d.,]*\d|\d", " ".join(METHOD))), missing


METHOD = ("ICML 2026, arXiv 2605.03517",)


def test_outline_of_the_page(page, report):
    outline = Outline(page)
    assert len(outline.all("h1")) == 1
    for landmark in ("header", "main", "nav", "footer"):
        assert len(outline.all(landmark)) == 1, landmark
    tables, captions = outline.all("table"), outline.all("caption")
    assert len(tables) == len(captions) >= 5
    assert all(cell.get("scope") in ("col", "row") for cell in outline.all("th"))
    pictures = [svg for svg in outline.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == 2 * len(report.pictures) - 1  # the still picture of the state space is drawn once
    assert all(len(svg["aria-label"]) > 40 for svg in pictures)
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in outline.all("a")}
    assert targets <= set(ids)
    drawn = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    used = set(re.findall(r"url\(#([^)]+)\)", drawn)) | set(re.findall(r'xlink:href="#([^"]+)"', drawn))
    assert used
    assert used <= set(ids)


def test_nothing_of_a_name_becomes_markup(page):
    assert "window.harm" in page  # the names are there,
    outline = Outline(page)
    assert len(outline.all("script")) == 3  # but the scripts are the data, plotly and ours,
    assert not outline.all("img")
    assert outline.all("svg")[0]["aria-label"]
    assert HARM in "".join(data for tag, data in outline.texts if tag == "h1")  # and are read as they are.
    data = json.loads(next(text for tag, text in outline.texts if tag == "script"))
    assert any(HARM in choice["low_label"] for choice in data["choices"])


def test_the_page_asks_the_network_for_nothing(page):
    outline = Outline(page)
    for _, attributes in outline.elements:
        for key in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:")), attributes
    policy = next(m["content"] for m in outline.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_verdict_follows_the_diagnosis(report):
    findings = report.content["diagnosis"]["findings"]
    wrong = [one["name"] for one in findings if not one["ok"]]
    verdict = report.content["summary"]["verdict"]
    assert ("Nothing predictive" in verdict) == (not report.content["diagnosis"]["predictive"])
    if report.content["diagnosis"]["predictive"]:
        assert all(name in verdict for name in wrong)


def summary_of(report, **changes):
    """The summary of a report in which some keys are other ones."""
    content = copy.deepcopy(report.content) | changes
    write_section("summary", content, {})
    return content["summary"]


@pytest.mark.parametrize(
    ("predictive", "wrong", "ending"),
    [
        (True, [], " what the population does next, and its uncertainty agrees with what happened."),
        (True, ["drift of z"], " One of 17 checks fails; look at it before you trust its uncertainty: drift of z."),
        (True, ["a", "b"], " Two of 17 checks fail; look at them before you trust its uncertainty: a and b."),
        (False, ["a"], "found: about a. Do not read these states as what the population encodes."),
    ],
)
def test_the_verdict_names_the_checks_that_fail(report, predictive, wrong, ending):
    fine = [{"name": "other", "ok": True, "doubtful": doubt} for doubt in (True, *[False] * (16 - len(wrong)))]
    findings = [{"name": name, "ok": False, "doubtful": False} for name in wrong] + fine
    summary = summary_of(
        report,
        diagnosis=report.content["diagnosis"]
        | {"predictive": predictive, "unpredictive": "about a", "findings": findings},
    )
    assert summary["verdict"].endswith(ending)
    shown, note = f"{16 - len(wrong)} of 17", "1 doubtful; verdicts below"
    assert {"name": "Checks in order", "shown": shown, "note": note} in summary["keys"]


def test_behavior_is_shown_only_where_its_reader_never_saw_it(report):
    """The picture's decoded line, read back from the figure, ends where the fold does."""
    from matplotlib.figure import Figure

    figure = Figure()
    report.pictures["raster"].draw(figure, False)
    line = next(one for one in figure.axes[1].lines if one.get_label() == "decoded")
    measured = next(one for one in figure.axes[1].lines if one.get_label() == "measured")
    assert 0 < np.isfinite(line.get_ydata()).sum() < np.isfinite(measured.get_ydata()).sum()
    assert "95% interval" in [one.get_label() for one in figure.axes[1].collections]


def test_what_its_reader_saw_is_not_shown_as_read():
    """A single block of judged time: its reader was fitted to it, and no bin has a fold."""
    from matplotlib.figure import Figure

    rng, n = np.random.default_rng(0), 120
    session = Session.from_spikes({"a": [0.5, 3.0], "b": [1.0, 11.0]})
    base = {"time": (np.arange(n) + 0.5) * 0.1, "segment": ("time", np.zeros(n, np.int32)), "bound": ["lower", "upper"]}
    counts = bin_spikes(session, 0.1, [(0.0, 12.0)])
    latents = xr.Dataset(
        {
            "trained": ("time", np.arange(n) >= 110),
            "observed": ("time", np.ones(n, bool)),
            "x_true": ("time", rng.normal(size=n)),
            "x_mean": ("time", rng.normal(size=n)),
            "x_fold": ("time", np.full(n, -1, np.int8)),
            "filtered_mean": (("time", "state"), rng.normal(size=(n, 2))),
            "ci": (("time", "state", "bound"), rng.normal(size=(n, 2, 2)), {"level": 0.95}),
        },
        base | {"state": [0, 1]},
        {"bin_size": 0.1},
    )
    about = {
        "name": "x",
        "path": "x",
        "unit": "cm",
        "period": None,
        "categories": False,
        "read": None,
        "note": "",
        "bins": {"used": 1},
    }
    about |= {"readouts": {}, "decoder": None, "control": None, "intervals": [], "calibrated": True}
    sizes = SimpleNamespace(states=2)
    model = SimpleNamespace(unit_ids_=session.units["unit"].to_numpy(), sized_=sizes, evidence=0.0)

    def raster(latents):
        data, pictures = SECTIONS["states"](Inputs(None, session, counts, model, latents, {}, [about]))  # type: ignore[arg-type]
        content = {"behavior": [about], "figures": {"raster": data["raster"]}}
        content["diagnosis"] = {"baselines": [], "signal": False}
        write_section("behavior", content, pictures)
        return pictures["raster"], content["figures"]["raster"]["finding"]

    picture, finding = raster(latents)
    assert "time that training never saw" in finding
    assert "never saw;" not in raster(latents.assign(trained=latents["observed"]))[1]
    figure = Figure()
    picture.draw(figure, False)
    lines = {one.get_label(): one.get_ydata() for one in figure.axes[1].lines}
    assert np.isfinite(lines["measured"]).all()
    assert not np.isfinite(lines["decoded"]).any()
    assert np.isfinite(latents["x_mean"]).all()  # what the report was given stays as it was


def test_the_raster_is_of_the_time_in_which_behaviour_varies_most():
    """Of 60 s in one stretch the animal moves for the last ten."""
    n = 600
    session = Session.from_spikes({"a": [0.5, 3.0], "b": [1.0, 59.0]})
    time = (np.arange(n) + 0.5) * 0.1
    latents = xr.Dataset(
        {
            "trained": ("time", np.zeros(n, bool)),
            "observed": ("time", np.ones(n, bool)),
            "x_true": ("time", np.where(time < 50, 3.0, np.sin(time))),
        },
        {"time": time, "segment": ("time", np.zeros(n, np.int32))},
    )
    about = [{"name": "x", "unit": "cm", "period": None}]
    inputs = Inputs(None, session, bin_spikes(session, 0.1, [(0.0, 60.0)]), None, latents, {}, about)  # type: ignore[arg-type]
    assert inputs.busiest(20.0) == pytest.approx((40.0, 60.0))
    assert inputs.busiest(90.0) == pytest.approx((0.0, 60.0))


@pytest.mark.parametrize(("p", "by_chance"), [(0.01, False), (0.05, False), (0.48, True)])
def test_what_is_read_no_better_by_chance_is_said_so(report, p, by_chance):
    score = {"r2": 0.02, "median_error": 1.5}
    control = {"shifts": 99, "r2": 0.02, "shifted_mean": 0.0, "shifted_95": 0.07, "p": p}
    about = {"name": "phase", "unit": "rad", "categories": False, "read": score, "decoder": None, "intervals": []}
    sentence, *_ = summary_of(report, behavior=[about | {"control": control}])["sentences"]
    assert sentence.startswith("phase is read from the states ")
    assert ("no better than when it is shifted in time (p = 0.48)" in sentence) is by_chance


def test_the_turning_picture_shows_values_of_behaviour_apart():
    """A circle in two of eight states, which are not the slowest, lies in the plane of the first two axes."""
    rng, bins = np.random.default_rng(0), np.arange(3000)
    angle = rng.uniform(-np.pi, np.pi, bins.size)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    mean = rng.standard_normal((bins.size, 8))
    mean[:, 5:7] = circle + 0.2 * mean[:, 5:7]
    latents = xr.Dataset({"trained": ("time", bins < 2000)})
    about = {"name": "angle", "path": "tracking/angle", "period": 2 * np.pi}
    inputs = SimpleNamespace(reports=[about], measured={"angle": angle}.get, latents=latents)
    shown = _apart(inputs, mean, bins)[2000:, :2]
    assert LinearRegression().fit(shown, circle[2000:]).score(shown, circle[2000:]) > 0.9
    assert _apart(inputs, mean[:, :3], bins) is None
    assert _apart(SimpleNamespace(reports=[]), mean, bins) is None


def test_waiting_makes_the_error_smaller(report):
    """Place of a simulated animal, from states given half a second more."""
    [rows] = report.content["lags"].values()  # facing is read as classes
    assert [row["lag"] for row in rows] == pytest.approx([0, 0.1, 0.2, 0.5, 1.0, 2.0, None])
    now, later = rows[0], rows[3]
    assert later["median_error"] < 0.9 * now["median_error"]
    assert all(0.9 < row["coverage"] < 0.99 for row in rows)


def drawn(picture):
    """The axes of a picture."""
    figure = Figure()
    picture.draw(figure, False)
    return figure.axes


def test_spikes_stand_above_the_width_of_intervals():
    """Widths are those of the states shown, in percent of their mean over the recording."""
    time, spikes = np.arange(4) * 0.1, np.array([0, 3, 1, 0])
    counts = xr.DataArray(np.column_stack([spikes, spikes]), {"time": time}, ("time", "unit"))
    half = np.stack([np.full(4, 9.0), [2.0, 1.0, 2.0, 3.0]], 1)  # of two states
    ci = xr.DataArray(np.stack([-half, half], -1), {"time": time, "state": [0, 1]}, ("time", "state", "bound"))
    latents = xr.Dataset({"ci": ci})
    above, below = Figure().subplots(2)
    _evidence(SimpleNamespace(counts=counts, latents=latents), latents.isel(time=slice(3)), [1], above, below)
    assert above.dataLim.y1 == 6
    assert below.lines[0].get_ydata() == pytest.approx([100, 50, 100])


def test_trainings_are_drawn_per_second_each_in_its_colour():
    history = [Record(step, 1.0, -5.0, score, 3.0, True, name) for name in ("slow", "fast") for step, score in SCORES]
    model = SimpleNamespace(
        history_=history,
        parts=[SimpleNamespace(kept_record_=one) for one in history[1::2]],
        candidates_=[Trained("slow", 0.5, kept_step=25), Trained("slow", 0.5, kept_step=50), Trained("fast", 0.1)],
        frame_=0.1,
    )
    data, pictures = SECTIONS["training"](SimpleNamespace(model=model))
    [axes] = drawn(pictures["training"])
    slow, fast, *kept = axes.lines[:4]
    assert slow.get_ydata() == pytest.approx([2.0, 4.0])
    assert fast.get_ydata() == pytest.approx([10.0, 20.0])
    assert slow.get_color() != fast.get_color()
    assert [one.get_color() for one in kept] == [slow.get_color(), fast.get_color()]
    assert [one["label"] for one in data["candidates"]] == ["slow at step 25", "slow at step 50", "fast"]


def test_lags_lie_inside_their_picture():
    rows = [{"lag": lag, "median_error": 1.0, "width": width} for lag, width in ((0.0, 1.0), (1.0, 1.4), (None, 1.3))]
    reports = [{"intervals": [], "categories": False}]
    _, pictures = SECTIONS["behavior"](SimpleNamespace(reports=reports, lags={"place": rows}))
    both = drawn(pictures["lags"])
    assert both[1].get_ylim()[1] > 1.4
    _, pictures = SECTIONS["behavior"](SimpleNamespace(reports=[], lags={"slow states": rows}))
    [alone] = drawn(pictures["lags"])
    assert alone.get_ylim()[1] > 1.4


def test_bins_and_lags_are_told_in_words_and_units(page):
    text = " ".join(" ".join(text for _, text in Outline(page).texts).split())
    assert "bins that training saw" in text
    assert "bins at the edges of blocks" in text
    assert "Median error, cm" in text


def test_written_whole_or_not_at_all(report, tmp_path):
    target = tmp_path / "page.html"
    page, numbers = report.write(target)
    assert (page, numbers) == (target, tmp_path / "page.json")
    assert json.loads(numbers.read_text()) == json.loads(json.dumps(report.to_dict()))
    with pytest.raises(InputError, match=r"page\.html: exists already"):
        report.write(target)
    page.unlink()
    with pytest.raises(InputError, match=r"page\.json: exists already"):
        report.write(target)
    assert [one.name for one in tmp_path.iterdir()] == ["page.json"]
    report.write(target, overwrite=True)
    with pytest.raises(InputError, match=r"end it in \.html"):
        report.write(tmp_path / "page.json")
    with pytest.raises(InputError, match="folder does not exist"):
        report.write(tmp_path / "nowhere" / "page.html")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["page.html", "page.json"]


def test_commands_make_the_run_again(report):
    train, show = report.content["made"]["commands"]
    for words in ("--span 0.0:260.0", "--latent-dim 3", "--hidden 32", "--max-steps 100"):
        assert words in train
    assert "--state-dim" not in train  # as many as latents is what it takes by itself
    import shlex

    assert PLACE in shlex.split(show)


def test_options_of_several_values_are_words_that_the_command_line_reads():
    """Ticks and spans have a flag each, widths of layers stand in one word."""
    data = DataConfig(spans=((0.0, 1.5), (2.0, math.inf)), ticks=("spikes=1000", "lfp=30000"))
    config = Config(data, FilterConfig(latent_dim=4, state_dim=4, hidden=(8, 8), refit=False))
    spans, ticks = "--span 0.0:1.5 --span 2.0:inf", "--ticks spikes=1000 --ticks lfp=30000"
    assert " ".join(_words(_changed(config))) == f"{spans} {ticks} --latent-dim 4 --hidden 8,8 --no-refit"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (3, "3"),
        (12345.6, "12,346"),
        (0.5, "0.500"),
        (-2.5, "\u22122.50"),
        (-0.00004, "\u22124.00e\u22125"),
    ],
)
def test_numbers_as_people_read_them(value, shown):
    assert short(value) == shown
    number = environment().get_template("macros.html").make_module({"diagnosis": {"signal": False}}).number
    assert number(value) == f'<data value="{value!r}">{shown}</data>'
    assert short(math.nan) == short(None) == Outline(number(None)).texts[0][1]


def test_templates_escape_and_miss_no_name():
    made = environment().from_string('<p title="{{ title }}">{{ text }}</p>')
    shown = made.render(title='"><script>', text="a<b>&\"'")
    assert shown == '<p title="&#34;&gt;&lt;script&gt;">a&lt;b&gt;&amp;&#34;&#39;</p>'
    with pytest.raises(UndefinedError, match="text"):
        made.render(title="")


def test_control_characters_reach_neither_page_nor_json(page, report):
    assert finite({"a\x00": ["\x00ok", math.inf, np.float64(2)]}) == {"a\x00": ["\ufffdok", None, 2.0]}
    for text in (page[: page.index("</main>")], json.dumps(report.content, ensure_ascii=False)):
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)


def test_pictures_take_the_page_s_colours_and_leave_no_trace():
    import matplotlib as mpl

    before = dict(mpl.rcParams)

    def draw(figure, narrow):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#0072B2")
        axes.set_title("\u4f4d\u7f6e <b>", parse_math=False)

    one = Picture(draw).svg("one", 'says "<this>"')
    assert "var(--c0)" in one
    assert "var(--muted)" in one
    assert not re.search(r"#(0072b2|111213|717273)", one)
    assert "&lt;b&gt;" in one
    assert "&lt;this&gt;" in one
    assert Outline(one).all("svg")[0]["aria-label"] == 'says "<this>"'
    assert one == Picture(draw).svg("one", 'says "<this>"')
    assert dict(mpl.rcParams) == before
