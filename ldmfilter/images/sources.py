"""Images and their labels: digits that come with scikit-learn; MNIST, CIFAR-10 and CIFAR-100 in the formats they are
published in, from a folder; any folder of images. Nothing is downloaded, and no code in a file is run."""

import gzip
import hashlib
import io
import math
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ldmfilter.errors import InputError


@dataclass(frozen=True)
class Images:
    """Images of one size.

    Attributes:
        pixels: (sample, channel, height, width), 0 to 255.
        labels: of each image; None for images without.
        classes: names of the labels, in order.
        source: where they come from.
    """

    pixels: UInt8[Tensor, "sample channel height width"]
    labels: Int[Tensor, " sample"] | None
    classes: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: Int[Tensor, " chosen"]) -> "Images":
        """Some of them."""
        labels = None if self.labels is None else self.labels[index]
        return Images(self.pixels[index], labels, self.classes, self.source)


def split(images: Images, share: float, seed: int = 0) -> tuple[Images, Images]:
    """Split images at random: those without a `share` of each class, and that share."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    of = torch.zeros(len(images), dtype=torch.long) if images.labels is None else images.labels
    held = torch.zeros(len(images), dtype=torch.bool)
    for label in of.unique():
        own = order[of[order] == label]
        held[own[: round(share * len(own))]] = True
    return images.take((~held).nonzero()[:, 0]), images.take(held.nonzero()[:, 0])


def digits() -> Images:
    """1,797 handwritten digits of 8 x 8 pixels (UCI Optical Recognition of Handwritten Digits; scikit-learn's copy)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
    return Images(
        torch.from_numpy(pixels), torch.from_numpy(data.target.astype(np.int64)), tuple("0123456789"), "digits"
    )


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it.

    Attributes:
        name: of the file.
        size: bytes, of the file as it lies here.
        md5: of the same; empty where none is published.
    """

    name: str
    size: int
    md5: str = ""


#: http://yann.lecun.com/exdb/mnist/: images and labels, each packed and unpacked. Sums: those of its mirrors.
MNIST_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST: dict[str, tuple[tuple[Published, Published], tuple[Published, Published]]] = {
    "train": (
        (
            Published("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            Published("train-images-idx3-ubyte", 47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
        ),
        (
            Published("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            Published("train-labels-idx1-ubyte", 60_008, "a25bea736e30d166cdddb491f175f624"),
        ),
    ),
    "test": (
        (
            Published("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            Published("t10k-images-idx3-ubyte", 7_840_016, "2646ac647ad5339dbf082846283269ea"),
        ),
        (
            Published("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
            Published("t10k-labels-idx1-ubyte", 10_008, "27ae3e4e09519cfbb04c329615203637"),
        ),
    ),
}


@dataclass(frozen=True)
class Cifar:
    """One of the two: an archive with files of records, a record being some labels and 3 x 32 x 32 pixels.

    Attributes:
        name: as it is called.
        archive: the binary version.
        folder: that it unpacks to.
        parts: files of each part.
        names: the file with the classes' names.
        labels: bytes before the pixels; the last one is the label.
        classes: how many.
    """

    name: str
    archive: Published
    folder: str
    parts: dict[str, tuple[Published, ...]]
    names: str
    labels: int
    classes: int


CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz/"  # and cifar.html there: the format, and the sums
CIFAR10 = Cifar(
    "CIFAR-10",
    Published("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar-10-batches-bin",
    {
        "train": tuple(Published(f"data_batch_{i}.bin", 30_730_000) for i in range(1, 6)),
        "test": (Published("test_batch.bin", 30_730_000),),
    },
    "batches.meta.txt",
    1,
    10,
)
CIFAR100 = Cifar(
    "CIFAR-100",
    Published("cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
    "cifar-100-binary",
    {"train": (Published("train.bin", 153_700_000),), "test": (Published("test.bin", 30_740_000),)},
    "fine_label_names.txt",
    2,
    100,
)


def mnist(folder: str | os.PathLike[str], part: str = "train") -> Images:
    """MNIST from a folder with its four files, packed as published or unpacked.

    Args:
        folder: where they lie.
        part: "train" or "test".

    Raises:
        InputError: a file is missing, or is not what was published, by its checksum.
    """
    root = Path(folder)
    _check_part(part)
    pixels, labels = (_idx(root, *file) for file in MNIST[part])
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
        raise InputError(f"{root}: images and labels of MNIST do not fit each other; {_fetch_mnist()}")
    _check_labels(root / MNIST[part][1][1].name, labels, 10)
    return Images(
        torch.from_numpy(pixels[:, None].copy()),
        torch.from_numpy(labels.astype(np.int64)),
        tuple("0123456789"),
        f"MNIST {part}: {root}",
    )


def cifar10(folder: str | os.PathLike[str], part: str = "train") -> Images:
    """CIFAR-10, binary version, from the folder with its archive or with its files.

    The archive's checksum is published, those of the files in it are not: where both lie there the archive is read. Of
    unpacked files only the sizes, the labels and that a part has as many images of every class are known; a changed
    pixel is not found.

    Args:
        folder: where they lie.
        part: "train" or "test".

    Raises:
        InputError: a file is missing, or is not what was published.
    """
    return _cifar(CIFAR10, Path(folder), part)


def cifar100(folder: str | os.PathLike[str], part: str = "train") -> Images:
    """CIFAR-100 with its 100 fine labels; otherwise as `cifar10`."""
    return _cifar(CIFAR100, Path(folder), part)


def cifar(folder: str | os.PathLike[str], part: str = "train") -> Images:
    """CIFAR-100 where the folder holds that and no CIFAR-10; else `cifar10`."""
    one, hundred = (any(_places(which, Path(folder))) for which in (CIFAR10, CIFAR100))
    return cifar100(folder, part) if hundred and not one else cifar10(folder, part)


def _check_part(part: str) -> None:
    if part not in MNIST:
        raise InputError(f"part is {part}; choose one of {', '.join(MNIST)}")


def _fetch_mnist() -> str:
    files = [packed for part in MNIST.values() for packed, _ in part]
    return f"fetch {', '.join(f'{file.name} ({file.size:,} bytes)' for file in files)} from {MNIST_ADDRESS}"


def _fetch_cifar(which: Cifar) -> str:
    archive = which.archive
    files = [file for part in which.parts.values() for file in part]
    return (
        f"fetch {CIFAR_ADDRESS}{archive.name} ({archive.size:,} bytes, MD5 {archive.md5}) and give its folder, "
        f"or the one with {', '.join(f'{file.name} ({file.size:,} bytes)' for file in files)}"
    )


def _read(path: Path, file: Published, remedy: str) -> bytes:
    """A published file's content. Raises: InputError where it cannot be read or is another."""
    try:
        size = path.stat().st_size
        if size == file.size:
            content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if size != file.size:
        raise InputError(f"{path}: damaged file ({size:,} bytes in place of {file.size:,}); {remedy}")
    if file.md5 and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != file.md5:
        raise InputError(f"{path}: damaged file (MD5 {found} in place of {file.md5}); {remedy}")
    return content


def _idx(root: Path, packed: Published, unpacked: Published) -> np.ndarray:
    """An array of bytes in the IDX format: 0, 0, 8 for bytes, dimensions, each one's length, the values."""
    path, plain = root / packed.name, root / unpacked.name
    if path.is_file():
        content = gzip.decompress(_read(path, packed, _fetch_mnist()))
    elif plain.is_file():
        path, content = plain, _read(plain, unpacked, _fetch_mnist())
    else:
        raise InputError(f"{root}: no MNIST here ({packed.name} is missing); {_fetch_mnist()}")
    ndim = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">u4", ndim, 4) if len(content) >= 4 + 4 * ndim else np.zeros(0)
    if content[:3] != b"\0\0\x08" or not ndim or math.prod(map(int, shape)) != len(content) - 4 - 4 * ndim:
        raise InputError(f"{path}: damaged file (its header does not fit); {_fetch_mnist()}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape.astype(int))


def _places(which: Cifar, folder: Path, part: str = "train") -> tuple[Path | None, Path | None]:
    """The archive, and the folder with a part's files unpacked; None for what is not there."""
    archive, first = folder / which.archive.name, which.parts[part][0].name
    plain = next((path for path in (folder, folder / which.folder) if (path / first).is_file()), None)
    return (archive if archive.is_file() else None), plain


def _cifar(which: Cifar, folder: Path, part: str) -> Images:
    remedy = _fetch_cifar(which)
    _check_part(part)
    files = which.parts[part]
    archive, plain = _places(which, folder, part)
    if archive is not None:
        root = archive
        contents, names = _unpack(which, archive, files, remedy)
    elif plain is not None:
        root = plain
        contents = [_read(root / file.name, file, remedy) for file in files]
        names = (root / which.names).read_bytes() if (root / which.names).is_file() else b""
    else:
        raise InputError(f"{folder}: no {which.name} here ({files[0].name} is missing); {remedy}")
    length = which.labels + 3 * 32 * 32
    records = np.concatenate([np.frombuffer(content, np.uint8).reshape(-1, length) for content in contents])
    labels = records[:, which.labels - 1].astype(np.int64)
    _check_labels(root, labels, which.classes)
    counts = np.bincount(labels, minlength=which.classes)
    if counts.min() < counts.max():
        raise InputError(
            f"{root}: damaged files ({counts.min():,} to {counts.max():,} images of a class in place of "
            f"{len(labels) // which.classes:,} of each); {remedy}"
        )
    classes = tuple(names.decode("utf-8", "replace").split())
    if len(classes) != which.classes:
        classes = tuple(map(str, range(which.classes)))
    pixels = records[:, which.labels :].reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(pixels.copy()), torch.from_numpy(labels), classes, f"{which.name} {part}: {root}")


def _unpack(which: Cifar, archive: Path, files: tuple[Published, ...], remedy: str) -> tuple[list[bytes], bytes]:
    """Contents of an archive's files, and of the file with the names, in memory."""
    packed = io.BytesIO(_read(archive, which.archive, remedy))
    found: dict[str, bytes] = {}
    wanted = {f"{which.folder}/{name}": name for name in [*(file.name for file in files), which.names]}
    with tarfile.open(fileobj=packed, mode="r:gz") as tar:
        for member in tar:
            if member.isfile() and member.name in wanted and (content := tar.extractfile(member)) is not None:
                found[wanted[member.name]] = content.read()
    for file in files:
        if len(found.get(file.name, b"")) != file.size:
            raise InputError(f"{archive}: damaged file ({file.name} in it is not {file.size:,} bytes long); {remedy}")
    return [found[file.name] for file in files], found.get(which.names, b"")


def _check_labels(path: Path, labels: np.ndarray, classes: int) -> None:
    if len(labels) and int(labels.max()) >= classes:
        raise InputError(f"{path}: damaged file (a label {int(labels.max())} of {classes} classes); fetch it again")


#: Endings of the names of image files.
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def image_folder(folder: str | os.PathLike[str], size: int = 32, colour: bool = True) -> Images:
    """All images in a folder; those in subfolders are labelled by the subfolder's name.

    Each is brought to `size` pixels along its shorter side and cut to a square around its middle.

    Raises:
        InputError: there are none; some have a label and some none; one cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: is no folder; give one with images ({', '.join(sorted(ENDINGS))})")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not paths:
        raise InputError(f"{root}: no images in it; give a folder with files that end in {', '.join(sorted(ENDINGS))}")
    owners = [path.relative_to(root).parts[:-1] for path in paths]
    if any(owners) and not all(owners):
        alone = paths[owners.index(())].name
        raise InputError(f"{root}: {alone} lies beside folders of labels; move it into one, or all images out of them")
    pixels = np.empty((len(paths), 3 if colour else 1, size, size), np.uint8)
    for i, path in enumerate(paths):
        try:
            with Image.open(path) as picture:
                scale = size / min(picture.size)
                wide, high = (max(size, round(scale * length)) for length in picture.size)
                left, top = (wide - size) // 2, (high - size) // 2
                small = picture.convert("RGB" if colour else "L").resize((wide, high), Image.Resampling.BILINEAR)
                square = np.asarray(small.crop((left, top, left + size, top + size)))
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: cannot be read as an image ({_line(error)}); mend it or take it out") from None
        pixels[i] = square.reshape(size, size, -1).transpose(2, 0, 1)
    classes = tuple(sorted({owner[0] for owner in owners if owner}))
    labels = torch.tensor([classes.index(owner[0]) for owner in owners]) if classes else None
    return Images(torch.from_numpy(pixels), labels, classes, str(root))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
