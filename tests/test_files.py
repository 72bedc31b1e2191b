"""Outputs appear whole or not at all, and a disk that refuses is told in one line."""

import errno
import os
from pathlib import Path

import pytest

from ldmfilter.errors import InputError
from ldmfilter.files import check_target, disk_errors, replacing, write_bytes


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.ENOENT, "its folder does not exist"),
    ],
)
def test_what_a_disk_answers(tmp_path, code, words):
    with pytest.raises(InputError, match=words), disk_errors(tmp_path / "x"):
        raise OSError(code, "the system's words")


def test_a_block_that_fails_leaves_the_old(tmp_path):
    target = tmp_path / "target"
    target.write_text("old")

    def fail():
        with replacing(target, overwrite=True) as scratch:
            scratch.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    with replacing(target, overwrite=True) as scratch:
        scratch.write_text("new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_file_is_there_at_every_moment(tmp_path, monkeypatch):
    """One step takes a file's place; folders need two."""
    moved = []
    monkeypatch.setattr(os, "replace", lambda a, b, move=os.replace: moved.append(Path(b).name) or move(a, b))
    for steps, make in (["target"], Path.touch), (["old", "folder"], Path.mkdir):
        for _ in range(2):
            moved.clear()
            with replacing(tmp_path / steps[-1], overwrite=True) as scratch:
                make(scratch)
        assert moved == steps


def test_links_are_written_through(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing(tmp_path / "link", overwrite=True) as scratch:
        scratch.write_text("new")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InputError, match="exists already"), replacing(tmp_path / "mine", overwrite=False):
        raise AssertionError
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="is a device or a pipe, not a file; give the name of a file"):
        check_target(pipe, overwrite=True)
    assert pipe.is_fifo()


def test_bytes(tmp_path):
    write_bytes(tmp_path / "x", b"one")
    write_bytes(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path):
    assert check_target(tmp_path / "x", overwrite=False) == tmp_path / "x"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder here that refuses even root")
def test_a_folder_that_refuses_is_found_out_early():
    with pytest.raises(InputError, match=r"^/proc/x: ") as refused:
        check_target("/proc/x", overwrite=False)
    assert "\n" not in str(refused.value)
