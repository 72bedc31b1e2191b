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


# What libraries say of a file, and what it means.
_KNOWN = {
    "truncated": "is truncated; copy or download it again",
    "unable to lock file": "is open in a program that writes to it; close it there",
}


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
        reason = reason_of(error)
        line = next(
            (line for sign, line in _KNOWN.items() if sign in reason), f"is a damaged {kind} ({reason}); {advice}"
        )
        raise InputError(f"{where}: {line}") from error
