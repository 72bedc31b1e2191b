"""A device that is not the CPU, for machines that have none: tensors that say they lie elsewhere and lie in the CPU's
memory.

Within `pretended()`, what is made or moved there is computed as on the CPU, and what a GPU would refuse is refused:
operations between devices (but for scalars and for indices), `numpy()` of what was not brought back. What it cannot
show is whether CUDA's kernels give the same numbers; tests/filter/test_device.py does, where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

DEVICE = "pretended:0"
CPU = torch.device("cpu")
#: Operations in which tensors of two devices may meet: indices on the CPU, and copies.
MIXED = {"index", "index_put", "index_put_", "_index_put_impl_", "copy_", "_to_copy", "_unsafe_index"}


class Pretended(torch.Tensor):
    """A tensor in the CPU's memory that says it lies elsewhere."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Pretended:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=torch.device(DEVICE)
        )
        made.held = held
        return made

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert pretended:0 device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert pretended:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


def _compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function.overloadpacket.__name__
    there = here = False

    def bare(x: Any) -> Any:
        nonlocal there, here
        if isinstance(x, Pretended):
            there = True
            return x.held
        here = here or (isinstance(x, torch.Tensor) and x.ndim > 0)
        return [bare(one) for one in x] if type(x) in (list, tuple) else x

    bare_args = [bare(x) for x in args]
    bare_kwargs = {key: bare(x) for key, x in kwargs.items()}
    if there and here and name not in MIXED:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {DEVICE} and cpu")
    asked = kwargs.get("device")
    if asked is not None:
        bare_kwargs["device"] = CPU
    out = function(*bare_args, **bare_kwargs)
    if not function._schema.returns or name in ("_local_scalar_dense", "equal", "is_same_size"):
        return out
    if function._schema.is_mutable:  # the tensor that was changed comes back, and not a new one
        return kwargs["out"] if "out" in kwargs else args[0]
    if asked is not None:
        away = torch.device(asked) == torch.device(DEVICE)
    else:  # where devices may meet, what comes out lies where the first tensor does
        away = isinstance(args[0], Pretended) if name in MIXED else there
    return _wrapped(out) if away else out


def _wrapped(out: Any) -> Any:
    if isinstance(out, torch.Tensor):
        return Pretended(out)
    return type(out)(map(_wrapped, out)) if type(out) in (list, tuple) else out


@contextmanager
def pretended() -> Iterator[None]:
    """What is asked for on `DEVICE` is made as `Pretended`. The process knows the device from then on."""
    _register()
    with _Mode():
        yield


@cache
def _register() -> None:
    class Backend(_DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    _setup_privateuseone_for_python_backend(DEVICE.split(":")[0], Backend())
