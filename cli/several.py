"""`ldmfilter decode` of several sessions, here or on a Dask cluster."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmfilter_cli.console import follow, give_up, say

from ldmfilter.analysis.decode_session import DecodeOptions, decode_session
from ldmfilter.cluster import Tell, Word, connect, work
from ldmfilter.data.untrusted.remote import absolute
from ldmfilter.errors import InputError
from ldmfilter.files import check_target, disk_errors, plain_names
from ldmfilter.filter.decode import store_attributes
from ldmfilter.filter.runs import Run

if TYPE_CHECKING:
    from distributed import Client


def decode_several(
    the_run: Run,
    sessions: Sequence[Path],
    out: Path,
    options: DecodeOptions,
    overwrite: bool,
    dask: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Decode sessions, several into stores below the folder `out`, one into the store `out`, and print the stores.

    Raises:
        InputError: no session could be begun.
        typer.Exit: some sessions failed; a line for each is said at the end.
    """
    paths = list(dict.fromkeys(map(absolute, sessions)))
    stores = [out / f"{name}.zarr" for name in plain_names(paths)] if len(paths) > 1 else [out]
    folder = _folder(out) if len(paths) > 1 else check_target(out, overwrite=True).absolute().parent
    run = os.path.abspath(the_run.folder)
    tasks = [
        (run, path, os.path.abspath(store), vars(options), overwrite) for path, store in zip(paths, stores, strict=True)
    ]
    done = the_run.model().history_[-1].step
    if done < the_run.config.filter.max_steps and not quiet:
        wanted = the_run.config.filter.max_steps
        say(f"warning: {the_run.folder}: training stopped at step {done} of {wanted}; decoding with what it kept")
    ended: list[Word] = []

    def text(word: Word) -> str:
        return paths[word.task]

    reads = [run, *filter(os.path.exists, paths)]
    with _workers(dask, reads, folder, len(tasks)) as client, closing(work(client, _decode, tasks)) as words:
        for word in follow(words, len(tasks), lambda _: len(ended) + 1, text, "session", quiet):
            ended.append(word)
            for line in () if quiet else word.warned:
                say(f"warning: {_named(line, paths[word.task])}")
            if word.said == "kept" and not quiet:
                say(f"{stores[word.task]}: is there already, from the same model, session and options; not done again")
    ended.sort(key=lambda word: word.task)
    well = [stores[word.task] for word in ended if not isinstance(word.said, Exception)]
    if as_json:
        made: list[Any] = [{"store": str(store), "behavior": _reports(store)} for store in well]
        for one in [made] if len(paths) > 1 else made:
            print(json.dumps(one, indent=1))
    else:
        for store in well:
            for one in () if quiet else _reports(store):
                if one["read"]:
                    score, unit = one["read"], one["unit"] or "its unit"
                    say(
                        f"{store}: {one['path']}: R2 {score['r2']:.3f}, median error {score['median_error']:.3g} {unit}"
                    )
            print(store)
    give_up([_with_name(word.said, paths[word.task]) for word in ended if isinstance(word.said, Exception)])


def _decode(run: str, session: str, store: str, options: dict[str, Any], overwrite: bool, tell: Tell) -> str:
    """One session, here or on a worker. What is done already is not done again, whoever asks twice."""
    the_run = Run.open(run)
    made = decode_session(the_run, session, store, DecodeOptions(**options), overwrite=overwrite, keep=True)
    return "kept" if made is None else "done"


@contextmanager
def _workers(dask: str | None, reads: list[str], folder: Path, most: int) -> "Iterator[Client | None]":
    if dask is None:
        yield None
        return
    with connect(dask, reads, folder, most) as client:
        yield client


def _folder(out: Path) -> Path:
    """The folder of several stores. Raises: InputError, where it cannot be one."""
    path = check_target(out, overwrite=True)
    if path.exists() and (not path.is_dir() or store_attributes(path)):
        raise InputError(f"{out}: is no folder, where the stores of several sessions would go; choose another name")
    with disk_errors(path):
        path.mkdir(exist_ok=True)
    return path.absolute()


def _reports(store: Path) -> list[dict[str, Any]]:
    return json.loads(store_attributes(store).get("behavior", "[]"))


def _named(line: str, session: str) -> str:
    return line if session in line else f"{session}: {line}"


def _with_name(error: Exception, session: str) -> Exception:
    return type(error)(_named(str(error), session))
