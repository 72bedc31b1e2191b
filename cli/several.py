"""`ldmfilter decode` of several sessions, here or on a Dask cluster."""

import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ldmfilter_cli.console import give_up, say

from ldmfilter.analysis.decode_session import DecodeOptions, decode_session, stopped_early
from ldmfilter.cluster import work, workers
from ldmfilter.data.untrusted.remote import absolute
from ldmfilter.errors import InputError
from ldmfilter.files import check_target, disk_errors, plain_names
from ldmfilter.filter.forecast import lag_note
from ldmfilter.filter.latents import store_attributes
from ldmfilter.filter.runs import Run
from ldmfilter.progress import follow


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

    Raises InputError where no session could be begun, and typer.Exit, after a line for each, where some failed.
    """
    paths = list(dict.fromkeys(map(absolute, sessions)))
    stores = [out / f"{name}.zarr" for name in plain_names(paths)] if len(paths) > 1 else [out]
    folder = _folder(out) if len(paths) > 1 else check_target(out, overwrite=True).absolute().parent
    run = os.path.abspath(the_run.folder)
    tasks = [(run, path, os.path.abspath(store), options, overwrite) for path, store in zip(paths, stores, strict=True)]
    model = the_run.model()
    notes = [stopped_early(the_run, model), "" if options.lag is None else lag_note(model, options.lag)]
    for note in filter(None, notes):
        if not quiet:
            say(note)
    ended: dict[int, Any] = {}
    reads = [run, *filter(os.path.exists, paths)]
    with workers(dask, 1, reads, folder, len(tasks)) as executor, closing(work(executor, _decode, tasks)) as ends:
        for end in follow(
            filter(None, ends), len(tasks), lambda _: len(ended) + 1, lambda end: paths[end.task], "session", quiet
        ):
            ended[end.task] = end.result
            if not quiet:
                for line in end.warned:
                    say(f"warning: {_named(line, paths[end.task])}")
                if end.result is True:
                    kept = "is there already, from the same model, session and options; not done again"
                    say(f"{stores[end.task]}: {kept}")
    failed = {task: end for task, end in sorted(ended.items()) if isinstance(end, Exception)}
    well = [stores[task] for task in sorted(ended.keys() - failed)]
    if as_json:
        made: list[Any] = [contents(store, options) for store in well]
        for one in [made] if len(paths) > 1 else made:
            print(json.dumps(one, indent=1))
    else:
        for store in well:
            for report in () if quiet else reports_in(store):
                _say_score(store, report)
            print(store)
    give_up([type(error)(_named(str(error), paths[task])) for task, error in failed.items()])


def _decode(run: str, session: str, store: str, options: DecodeOptions, overwrite: bool) -> bool:
    """One session, here or on a worker; True where it was done already, whoever asks twice."""
    return decode_session(Run.open(run), session, store, options, overwrite=overwrite, keep=True) is None


def _say_score(store: Path, report: dict[str, Any]) -> None:
    if report["read"] and report["categories"]:
        share = report["read"]["balanced_accuracy"]
        say(f"{store}: {report['path']}: balanced accuracy {share:.1%}, by chance {report['chance']:.1%}")
    elif report["read"]:
        score, unit = report["read"], report["unit"] or "its unit"
        say(f"{store}: {report['path']}: R2 {score['r2']:.3f}, median error {score['median_error']:.3g} {unit}")


def _folder(out: Path) -> Path:
    """The folder of several stores. Raises: InputError, where it cannot be one."""
    path = check_target(out, overwrite=True)
    if path.exists() and (not path.is_dir() or store_attributes(path)):
        raise InputError(f"{out}: is no folder, where the stores of several sessions would go; choose another name")
    with disk_errors(path):
        path.mkdir(exist_ok=True)
    return path.absolute()


def contents(store: Path, options: DecodeOptions) -> dict[str, Any]:
    """A store and its reports, as --json prints them."""
    ahead = {"behavior_ahead": reports_in(store, "behavior_ahead")} if options.ahead else {}
    return {"store": str(store), "behavior": reports_in(store), **ahead}


def reports_in(store: Path, of: str = "behavior") -> list[dict[str, Any]]:
    """The reports on behaviour, or on "behavior_ahead", that a store of states holds."""
    return json.loads(store_attributes(store).get(of, "[]"))


def _named(line: str, session: str) -> str:
    return line if session in line else f"{session}: {line}"
