"""Ctrl-C reaches what tests start; a process of them is one thread; `--shapes` checks the shapes in signatures."""

import os
import signal

import pytest
import torch
from jaxtyping import install_import_hook

import tests.typecheck

# A second thread gains little on small matrices, and waits for a core that another process of the tests has.
os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start, and of xdist's workers before they begin
os.environ["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = "forkserver"  # which imports once
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in the background of a shell; a process that is started by one that ignores it ignores it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--device", default="cuda", choices=["cuda", "pretended"], help="What the tests of devices use.")
    parser.addoption("--shapes", action="store_true", help="Check the shapes in signatures: a third slower.")


def pytest_configure(config):
    if config.getoption("--shapes"):
        rooms = ["ldmfilter.ldm", "ldmfilter.filter", "ldmfilter.images"]
        install_import_hook(rooms, f"{tests.typecheck.__name__}.typechecker")


@pytest.fixture
def device(request):
    """A device that is not the CPU."""
    if request.config.getoption("--device") == "pretended":
        from tests.pretended import DEVICE, pretended

        with pretended():
            yield DEVICE
    elif torch.cuda.is_available():
        yield "cuda:0"
    else:
        pytest.skip("needs a GPU")


@pytest.fixture
def marker(tmp_path):
    """A path that code within a malicious file would create; the test fails where it did."""
    path = tmp_path / "code-has-run"
    yield path
    assert not path.exists()
