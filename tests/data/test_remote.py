"""NWB over http, from a small server that serves ranges, or fails in every way in which servers do."""

import http.server
import re
import socket
import threading
import warnings
from contextlib import closing

import numpy as np
import pytest
from pynwb import NWBHDF5IO, TimeSeries
from typer.testing import CliRunner

from ldmfilter.data import read_session
from ldmfilter.data.untrusted.remote import is_nwb_in_zarr, open_remote, remote_address
from ldmfilter.errors import InputError


class Files(http.server.ThreadingHTTPServer):
    """Files by name, on localhost; counts the bytes it sends."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.sent, self.etag, self.ranges, self.status = {}, 0, '"one"', True, None
        self.last = None  # how many requests are answered before the server fails
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _head(self, status, length, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def do_GET(self):
        server = self.server
        name = self.path.partition("?")[0]
        if server.last is not None:
            server.last -= 1
        if server.status or (server.last is not None and server.last < 0):
            return self._head(server.status or 410, 0)
        if name == "/moved.nwb":
            return self._head(302, 0, Location="/session.nwb")
        content = server.files.get(name)
        if content is None:
            return self._head(404, 0)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not (wanted and server.ranges):
            self._head(200, len(content))
            piece = content
        else:
            first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
            if first >= len(content):
                return self._head(416, 0)
            piece = content[first : last + 1]
            self._head(206, len(piece), Content_Range=f"bytes {first}-{last}/{len(content)}")
        try:
            self.wfile.write(piece)
            server.sent += len(piece)
        except ConnectionError:
            pass  # whoever asked has seen enough


@pytest.fixture
def server():
    with Files() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def content(nwb, tmp_path):
    """An NWB file of 20 MB, of which the session is a small part."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        nwb.add_unit(spike_times=np.sort(rng.uniform(0, 90, 1000)), obs_intervals=[[0.0, 90.0]])
    nwb.add_epoch(0.0, 50.0, ["run"])
    nwb.add_acquisition(TimeSeries(name="lick", data=np.arange(100.0), unit="V", rate=1.0))
    raw = TimeSeries(name="raw", data=rng.integers(0, 99, (100_000, 100), dtype=np.int16), unit="V", rate=1e3)
    nwb.add_acquisition(raw)
    with NWBHDF5IO(tmp_path / "session.nwb", "w") as io:
        io.write(nwb)
    return (tmp_path / "session.nwb").read_bytes()


def line_of(url):
    with pytest.raises(InputError) as caught:
        read_session(url)
    text = str(caught.value)
    assert text.startswith(f"{url}: ")
    assert "\n" not in text
    return text.removeprefix(f"{url}: ")


def test_a_session_is_read_in_pieces(server, content, tmp_path):
    server.files["/session.nwb"] = content
    url = f"{server.address}/session.nwb?token=1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = read_session(url)
    here = read_session(tmp_path / "session.nwb")
    np.testing.assert_array_equal(session.spike_times, here.spike_times)
    np.testing.assert_array_equal(session.spike_times_index, here.spike_times_index)
    np.testing.assert_array_equal(session.observed.intervals, here.observed.intervals)
    assert session.intervals["epochs"].identical(here.intervals["epochs"])
    assert session.behavior["acquisition/lick"].identical(here.behavior["acquisition/lick"])
    assert session.source.path == url
    assert session.source.identifier == here.source.identifier
    assert len(content) > 20e6
    assert server.sent < len(content) / 4


def test_the_checksum_is_what_the_server_says(server, content):
    server.files["/session.nwb"] = content
    url = f"{server.address}/session.nwb"
    size = len(content)
    assert open_remote(url)[2] == f'etag:"one", {size} bytes'
    server.etag = '"two"'
    assert open_remote(url)[2] == f'etag:"two", {size} bytes'
    server.etag = ""
    assert open_remote(url)[2] == ""
    assert server.sent < 100_000


def test_a_server_that_sends_elsewhere(server, content):
    server.files["/session.nwb"] = content
    assert read_session(f"{server.address}/moved.nwb").n_units == 5


def test_a_password_is_not_kept(server, content):
    server.files["/session.nwb"] = content
    url = f"{server.address}/session.nwb"
    assert read_session(url.replace("//", "//me:secret@")).source.path == url


def test_no_ranges(server, content):
    server.files["/session.nwb"] = content
    server.ranges = False
    url = f"{server.address}/session.nwb"
    assert line_of(url) == "the server does not serve ranges of bytes; download the file and give its path"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (None, "no such file on the server (404); check the address"),
        (403, "the server gives no access (403); use an address that has not expired"),
        (416, "is empty; check the address"),
        (503, "the server answers 503 Service Unavailable; try again later"),
    ],
)
def test_answers_that_are_no_file(server, status, line):
    server.status = status
    assert line_of(f"{server.address}/other.nwb") == line


def test_what_is_no_nwb(server, content):
    server.files |= {"/page.html": b"<html>" * 1000, "/cut.nwb": content[:-1000], "/tiny": b"x"}
    said = "is not an NWB file (no HDF5 signature); give the address of an NWB file"
    assert line_of(f"{server.address}/page.html") == said
    assert line_of(f"{server.address}/tiny") == said
    assert line_of(f"{server.address}/cut.nwb") == "is truncated; copy or download it again"


def test_a_server_that_fails_halfway(server, content):
    server.files["/session.nwb"] = content
    server.last = 3
    assert line_of(f"{server.address}/session.nwb").startswith("cannot be fetched (Error fetching bytes ")


def test_no_server():
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/session.nwb"
        assert line_of(url) == "the server cannot be reached; check the address and the network"
    assert line_of("https://[::bad/a.nwb").startswith("cannot be fetched (")


def test_addresses():
    assert remote_address("https:/host/a.nwb") == "https://host/a.nwb"  # what a Path leaves of it
    assert remote_address("HTTPS://host/a//b.nwb") == "https://host/a//b.nwb"
    assert remote_address("C:/a.nwb") is None
    assert remote_address("odd:/a.nwb") is None
    assert line_of("s3://bucket/a.nwb") == "s3:// is not read; give the file's https:// address or download it"
    assert not is_nwb_in_zarr("https://host/a.nwb.zarr")


def test_the_command_line(server, content):
    from ldmfilter_cli.main import app

    server.files["/session.nwb"] = content
    done = CliRunner().invoke(app, ["inspect", f"{server.address}/session.nwb"])
    assert done.exit_code == 0
    assert "5 units" in done.stdout
    done = CliRunner().invoke(app, ["inspect", f"{server.address}/other.nwb"])
    assert done.exit_code == 3
    said = "no such file on the server (404); check the address\n"
    assert done.stderr == f"ldmfilter: {server.address}/other.nwb: {said}"
