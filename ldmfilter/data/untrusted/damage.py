"""Errors of one line for content that is damaged."""

import json
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldmfilter.errors import InputError

#: Errors of numpy, h5py, zarr, its codecs, json and zipfile on content that is not what the file says.
DAMAGE: tuple[type[Exception], ...] = (
    OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError, EOFError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def reason_of(error: BaseException) -> str:
    """The first line of an error, or its type where it has none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def damage(
    where: object, kind: str, advice: str = "write or copy it again", errors: tuple[type[Exception], ...] = DAMAGE
) -> Iterator[None]:
    """Turn errors on reading `where`, a file of some kind, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(f"{where}: is a damaged {kind} ({reason_of(error)}); {advice}") from error
