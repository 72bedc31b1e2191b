"""The report's page in headless Chromium, opened from disk: it runs, turns, fits a phone, and prints whole."""

import base64
import json
import shutil
import time

import pytest

from tests.report_sample import harmful_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromium with its chromedriver is installed"),
    # Selenium's own sockets are closed when its process ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1280,900",
]  # fmt: skip
SOFTWARE_GL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def start(folder, *flags):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return harmful_report().write(tmp_path_factory.mktemp("page") / "report.html")[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = start(tmp_path_factory.mktemp("profile"), *SOFTWARE_GL)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    """The page, newly opened at 1280 px in light colours."""
    media(browser)
    width(browser, 1280)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())
    until(browser, "return document.readyState === 'complete' && !!document.querySelector('.live canvas')")
    return browser


def media(driver, scheme="light", kind=""):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})


def width(driver, pixels):
    size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(driver, script, seconds=15):
    stop = time.monotonic() + seconds
    while not driver.execute_script(script):
        assert time.monotonic() < stop, script
        time.sleep(0.1)


def camera(driver):
    return driver.execute_script("return document.querySelector('.live')._fullLayout.scene._scene.getCamera().eye")


def test_no_error_no_request_no_harm(opened):
    errors = [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    sent = [
        message["params"]
        for message in (json.loads(entry["message"])["message"] for entry in opened.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    # The browser's own first tab may still be loading: `chrome://newtab`, and `chrome-untrusted:` frames in it.
    requests = [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome")]
    assert opened.current_url in requests
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}
    assert sum(url.startswith("file") for url in requests) == 1
    assert opened.execute_script("return window.harm === undefined && typeof Plotly === 'object'")
    assert "</script>" in opened.find_element("css selector", "h1").text


def test_the_states_turn(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    live = opened.find_element("css selector", ".live")
    assert live.is_displayed()
    assert not opened.find_element("css selector", ".still").is_displayed()
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", live)
    before = camera(opened)
    opened.execute_script("arguments[0].focus()", live)
    ActionChains(opened).send_keys(*[Keys.ARROW_DOWN] * 4, *[Keys.ARROW_LEFT] * 4).perform()
    turned = camera(opened)
    assert turned["z"] < before["z"] - 0.05
    assert abs(turned["x"] - before["x"]) > 0.05
    # Another colour keeps the way that the person has turned the picture.
    opened.execute_script("document.querySelectorAll('.choice input')[1].click()")
    kept = camera(opened)
    assert all(kept[axis] == pytest.approx(turned[axis], abs=1e-6) for axis in "xyz")
    assert "facing" in opened.find_element("css selector", ".scale").text
    # The browser reports one move of the pointer a frame: several, with time between them.
    drag = ActionChains(opened).move_to_element(live).click_and_hold()
    for _ in range(6):
        drag = drag.move_by_offset(20, 5).pause(0.05)
    drag.release().perform()
    dragged = camera(opened)
    assert sum((dragged[axis] - kept[axis]) ** 2 for axis in "xyz") > 0.05**2


def test_dark_colours_reach_the_pictures(opened):
    ink = (
        "return [...document.querySelectorAll('#figure-states svg path')]"
        ".map((path) => getComputedStyle(path).stroke).filter((colour) => colour.startsWith('rgb'))"
    )
    paper = "return getComputedStyle(document.body).backgroundColor"
    light, white = set(opened.execute_script(ink)), opened.execute_script(paper)
    media(opened, "dark")
    dark, black = set(opened.execute_script(ink)), opened.execute_script(paper)
    assert light
    assert light.isdisjoint(dark)
    assert white != black
    # WCAG AA of text and quieter text on both papers.
    for scheme in ("light", "dark"):
        media(opened, scheme)
        for selector in ("body", ".eyebrow", "nav a", "figcaption", ".mark", ".keys dt", "caption"):
            assert contrast(opened, selector) >= 4.5, (scheme, selector)


def contrast(driver, selector):
    """Contrast ratio of an element's text to what lies behind it (WCAG 2, relative luminance)."""
    colours = driver.execute_script(
        """
        const one = document.querySelector(arguments[0]);
        let behind = one;
        while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
        const read = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        return [getComputedStyle(one).color, getComputedStyle(behind || document.body).backgroundColor].map(read);
        """,
        selector,
    )

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("pixels", [320, 360, 768, 1280])
def test_no_sideways_scroll(opened, pixels):
    width(opened, pixels)
    time.sleep(0.3)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= pixels


def test_numbers_of_a_phone_and_of_a_sheet_need_no_scrolling(opened):
    """A sheet of A4 leaves 688 px, and cannot be scrolled."""
    wider = (
        "return [...document.querySelectorAll('.scroll')].filter((one) => !one.closest('details'))"
        ".filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel)"
    )
    for pixels, kind in ((360, ""), (688, "print")):
        width(opened, pixels)
        media(opened, kind=kind)
        time.sleep(0.3)
        assert opened.execute_script(wider) == []


def test_tables_are_read_as_tables(opened):
    """As the browser hands them to a screen reader, on a phone too, where their layout is another one."""
    for pixels in (1280, 360):
        width(opened, pixels)
        nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = [node.get("role", {}).get("value") for node in nodes if not node.get("ignored")]
        folded = len(opened.find_elements("css selector", "details:not([open]) table"))
        assert roles.count("table") == len(opened.find_elements("css selector", "table")) - folded
        assert roles.count("columnheader") >= 4
        assert roles.count("rowheader") >= 10
        pictures = [node for node in nodes if node.get("role", {}).get("value") in ("image", "img")]
        assert pictures
        unnamed = [node for node in pictures if not node.get("ignored") and not node.get("name", {}).get("value")]
        assert not unnamed, [
            opened.execute_cdp_cmd("DOM.describeNode", {"backendNodeId": node["backendDOMNodeId"]}) for node in unnamed
        ]


def test_printed_without_loss(opened):
    media(opened, "dark", "print")
    assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.find_element("css selector", ".still").is_displayed()
    assert not opened.find_element("css selector", ".live").is_displayed()
    opened.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    for element in opened.find_elements("css selector", "section, figure, table, pre, .plot.wide, details > div"):
        assert element.is_displayed(), element.get_attribute("outerHTML")[:200]
    opened.execute_script("window.dispatchEvent(new Event('afterprint'))")
    media(opened)
    opened.execute_script(
        "addEventListener('beforeprint', () => { told = document.querySelectorAll('details[open]').length })"
    )
    printed = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert printed.startswith(b"%PDF")
    assert opened.execute_script("return told === document.querySelectorAll('details').length")
    assert opened.execute_script("return document.querySelectorAll('details[open]').length") == 0


def test_without_webgl_a_still_picture_and_a_word(page, tmp_path):
    driver = start(tmp_path, "--disable-3d-apis")
    try:
        driver.get(page.as_uri())
        assert driver.find_element("css selector", ".still svg, .still").is_displayed()
        assert not driver.find_element("css selector", ".live").is_displayed()
        assert "no WebGL" in driver.find_element("css selector", ".hint").text
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        driver.quit()
