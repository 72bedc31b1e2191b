"""Opening NWB, in HDF5 (here or by https) or zarr: the parts that can be read, and a note on the others.

An object that breaks the schema, or whose type nobody describes, is left out with a note; the rest of the file is
read. Types of extensions come from the specification cached in the file, else from an installed extension, of which
only the YAML is read: no name in a file makes Python import anything.
"""

import importlib.metadata
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
from hdmf.backends.io import HDMFIO
from hdmf.backends.warnings import BrokenLinkWarning
from hdmf.build import BuildManager, DatasetBuilder, GroupBuilder
from hdmf.build.errors import ConstructError
from pynwb import NWBHDF5IO, NWBFile, get_type_map

from ldmfilter.data.tables import shorten
from ldmfilter.data.untrusted.damage import DAMAGE, reason_of
from ldmfilter.data.untrusted.hdf5 import check_heaps, check_scalars, is_foreign
from ldmfilter.data.untrusted.plain_objects import PlainObjects
from ldmfilter.data.untrusted.zarr_store import checked
from ldmfilter.errors import InputError, warn

# More broken objects than this make the whole file unusable.
_MOST_BROKEN = 32
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

#: Errors on a part of a file that cannot be read.
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, MemoryError)

Place = tuple[str, str]  # an object: the file that it lies in, its path there


@contextmanager
def leaving_out(name: str) -> Iterator[None]:
    """Leave out a part of the file that cannot be read, with a warning."""
    try:
        yield
    except UNREADABLE as error:
        warn(f"{name}: left out, cannot be read ({reason_of(error)})")


def check_nwb(where: str, file: Any) -> None:
    """Check NWB in HDF5, a path or a file object that reads and seeks, before it is opened.

    Raises InputError for a file that is not NWB 2, and as `check_heaps` and `check_scalars`.
    """
    if isinstance(file, Path):
        check_heaps(file)
    with h5py.File(file, "r") as opened:
        check_scalars(opened, where)
        version = opened.attrs.get("nwb_version")
        if version is None and isinstance(opened.get("nwb_version"), h5py.Dataset):
            version = opened["nwb_version"][()]  # before NWB 2 it was a dataset
    if version is None:
        raise InputError(f"{where}: is HDF5 but not NWB (no nwb_version); give an NWB file")
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    text = text.removeprefix("NWB-")
    if re.match(r"[01]\.", text):
        raise InputError(f"{where}: is NWB {text[:20]}, NWB 2 or later is read; convert it first")


def _opener(where: str, file: Any) -> Callable[[BuildManager], HDMFIO]:
    """A function that opens the file anew for reading, with a manager of its types. Raises InputError as `check_nwb`,
    and for zarr without hdmf-zarr."""
    if not (isinstance(file, Path) and file.is_dir()):
        check_nwb(where, file)
        return lambda types: NWBHDF5IO(file=h5py.File(file, "r"), mode="r", manager=types)
    try:
        from hdmf_zarr import NWBZarrIO
    except ImportError as error:
        raise InputError(f"{where}: is NWB in zarr; `pip install hdmf-zarr` to read it") from error
    return lambda types: NWBZarrIO(where, mode="r", manager=types)


@contextmanager
def open_nwb(where: str, file: Any) -> Iterator[NWBFile]:
    """The contents of a file, while it is open; a warning tells what was left out.

    file: a path, of a folder in zarr too, or a file object that reads and seeks

    Raises InputError where the file as a whole, or its units table, does not follow the schema.
    """
    opener = _opener(where, file)
    left_out: dict[Place, str] = {}
    with ExitStack() as stack:
        stack.enter_context(checked(PlainObjects))  # objects in zarr are programs: read as data, or refused
        while True:
            attempt = stack.enter_context(ExitStack())
            try:
                nwb = _read(attempt, where, opener, left_out)
                break
            except (OSError, InputError, UnicodeDecodeError):
                raise
            except Exception as error:  # hdmf raises errors of many kinds on a schema that is not followed
                # The object that could not be built, and the first line of why.
                builder = error.args[0] if isinstance(error, ConstructError) else None
                place = ("", "root") if builder is None else _place(builder)
                cause: BaseException = error
                while cause.__cause__ is not None:
                    cause = cause.__cause__
                reason = reason_of(cause)
                if _is_essential(place) or place in left_out or len(left_out) >= _MOST_BROKEN:
                    line = f"{where}: does not follow the NWB schema ({place[1]}: {reason})"
                    raise InputError(f"{line}; check it with nwbinspector") from error
                left_out[place] = f"left out, does not follow the NWB schema ({reason})"
                attempt.close()
        for reason in dict.fromkeys(left_out.values()):
            warn(f"{shorten(place[1] for place, why in left_out.items() if why == reason)}: {reason}")
        yield nwb


def _read(
    stack: ExitStack, where: str, opener: Callable[[BuildManager], HDMFIO], left_out: dict[Place, str]
) -> NWBFile:
    types = get_type_map()
    io = stack.enter_context(opener(BuildManager(types)))
    try:
        io.load_namespaces_io(types)
    except OSError:
        raise
    except Exception as error:  # JSON, or what it describes, that is anything but a specification
        warn(f"specifications: cannot be read ({reason_of(error)}), installed extensions are used")
        types = get_type_map()  # the other one may be half filled
        io = stack.enter_context(opener(BuildManager(types)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        root = io.read_builder()
    prefix = "Path to Group altered/broken at "
    for warning in caught:
        if issubclass(warning.category, BrokenLinkWarning):
            name = str(warning.message).removeprefix(prefix).strip("/")
            warn(f"{name}: left out, a link that leads nowhere; put the linked file beside this one")
    _load_installed(types, root)
    _prune(where, root, types, left_out)
    return io.read()


def _load_installed(types: Any, root: GroupBuilder) -> None:
    """Describe the types of installed extensions that a file uses without holding their specification."""
    known = set(types.namespace_catalog.namespaces)
    used = {str(builder.attributes.get("namespace")) for builder in _walk(root)}
    for name in sorted(used - known - {"None"}):
        if not _NAMESPACE.fullmatch(name):
            continue
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == f"{name}.namespace.yaml":
                types.load_namespaces(str(file.locate()))


def _walk(group: GroupBuilder, seen: set[int] | None = None) -> Iterator[Any]:
    """Every builder below a group, each once and parents first."""
    seen = set() if seen is None else seen
    for child in [*group.groups.values(), *group.datasets.values(), *group.links.values()]:
        target = getattr(child, "builder", child)
        if id(target) in seen:
            continue
        seen.add(id(target))
        yield target
        if isinstance(target, GroupBuilder):
            yield from _walk(target, seen)


def _prune(where: str, root: GroupBuilder, types: Any, left_out: dict[Place, str]) -> None:
    """Take out of the tree what is to be left out, what has no known type, and the links to either."""
    gone: set[int] = set()
    for linked in sorted({str(builder.source) for builder in _walk(root)} - {str(root.source)}):
        if h5py.is_hdf5(linked):
            with h5py.File(linked, "r") as file:
                check_scalars(file, linked)
    for builder in _walk(root):
        place = _place(builder)
        why = _fault(builder, types, left_out)
        if why and _is_essential(place):
            raise InputError(f"{where}: {place[1]}: {why}")
        if why:
            left_out.setdefault(place, f"left out, {why}")
        if place in left_out:
            gone.add(id(builder))
    for group in [root, *(builder for builder in _walk(root) if isinstance(builder, GroupBuilder))]:
        for children in (group.groups, group.datasets, group.links):
            for name in [n for n, child in children.items() if id(getattr(child, "builder", child)) in gone]:
                del children[name]
                group.obj_type.pop(name, None)
                columns = group.attributes.get("colnames")
                if columns is not None:
                    group.attributes["colnames"] = [column for column in columns if column != name]


def _fault(builder: Any, types: Any, left_out: dict[Place, str]) -> str:
    """The reason for which an object cannot be read, and what to do, or ""."""
    data, place = getattr(builder, "data", None), _place(builder)
    if is_foreign(getattr(data, "dataset", data)):
        return "its values lie in another file, refused; write them into this one"
    if table := _leads_to(builder, left_out):
        return f"it leads to {table[1]}, which is left out"
    # What lies below an object that is left out needs no line of its own.
    if any(place[0] == file and f"{place[1]}/".startswith(f"{path}/") for file, path in left_out):
        return ""
    return _unknown(builder, types)


def _leads_to(builder: Any, left_out: dict[Place, str], depth: int = 2) -> Place | None:
    """The object that is left out and to which an attribute leads: a column of regions to its table, an index to such a
    column. None where there is none."""
    for value in builder.attributes.values():
        target = getattr(value, "builder", value)
        if isinstance(target, GroupBuilder | DatasetBuilder):
            if _place(target) in left_out:
                return _place(target)
            if depth > 1 and (place := _leads_to(target, left_out, depth - 1)):
                return place
    return None


def _unknown(builder: Any, types: Any) -> str:
    """Advice for reading an object of an unknown type, or "" where its type is known."""
    name, namespace = types.get_builder_dt(builder), types.get_builder_ns(builder)
    if name is None:
        return ""
    if not _NAMESPACE.fullmatch(str(namespace)):
        return f"its extension {namespace!r:.40} has no name that could be installed"
    if namespace not in types.namespace_catalog.namespaces:
        return f"needs the extension {namespace}; `pip install {namespace}` and read it again"
    try:
        types.get_dt_container_cls(name, namespace)
    except Exception:  # the machinery has an exception for every way in which a specification can be wrong
        package = "pynwb" if namespace == "core" else namespace
        return f"its type {name} is unknown to {namespace}; `pip install --upgrade {package}` and read it again"
    return ""


def _place(builder: Any) -> Place:
    return str(builder.source), f"{builder.location or ''}/{builder.name}".strip("/")


def _is_essential(place: Place) -> bool:
    """True for an object that every session needs: the root, the units, their spike times."""
    return place[1] in ("root", "units") or place[1].startswith("units/spike_times")
