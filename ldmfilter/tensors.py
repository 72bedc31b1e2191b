"""Files of tensors and JSON: safetensors with a description in the header, and a digest of both. Data, never code."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ldmfilter.errors import InputError
from ldmfilter.files import write_bytes

Tensors = dict[str, Tensor]  # by name
_KEY = "ldmfilter"


def digest(tensors: Tensors, text: str = "") -> str:
    """SHA-256 of named tensors, whatever their order, and of a text."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.numpy().tobytes())
    return total.hexdigest()


def write_tensors(path: Path, tensors: Tensors, description: dict[str, Any]) -> None:
    """Write a file whole or not at all. Raises InputError as `disk_errors`."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # One entry: safetensors writes several in no fixed order, and equal runs are to be equal files.
    entry = {"description": description, "sha256": digest(tensors, json.dumps(description))}
    write_bytes(path, save_tensors(tensors, {_KEY: json.dumps(entry)}))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and description of a file of `write_tensors`. Raises InputError where it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); train again or restore the file") from None
    with reading(path):
        tensors = load_tensors(content)
        length = int.from_bytes(content[:8], "little")
        entry = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
        description = entry["description"]
        if not isinstance(description, dict) or digest(tensors, json.dumps(description)) != entry["sha256"]:
            raise ValueError("its checksum does not fit")
    return tensors, description


def below(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> Tensors:
    """The state of an optimizer as tensors, by names that begin with "optimizer."."""
    states = optimizer.state_dict()["state"].items()
    return {f"optimizer.{i}.{name}": torch.as_tensor(value) for i, state in states for name, value in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put an optimizer back to what `optimizer_state` gave. Raises: ValueError for that of another one."""
    states: dict[int, Tensors] = {}
    for name, value in below("optimizer.", tensors).items():
        index, key = name.split(".")
        states.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def unit_ids(value: Any) -> list[Any]:
    """Ids of units as they stand in a file. Raises: TypeError where they are none."""
    if not (isinstance(value, list) and all(isinstance(unit, int | float | str) for unit in value)):
        raise TypeError("ids of units must be numbers or text")
    return value


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of a damaged file into its refusal. Raises: InputError."""
    try:
        yield
    except InputError:
        raise
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, SafetensorError
    ) as error:  # fmt: skip
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> InputError:
    """The refusal of a damaged file, on one line."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: damaged file ({reason}); train again or restore the file")
