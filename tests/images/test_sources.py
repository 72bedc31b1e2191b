"""Images in the formats they are published in, made here; every way in which such files are missing or damaged."""

import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ldmfilter.errors import InputError
from ldmfilter.images import sources
from ldmfilter.images.sources import Published, cifar, cifar10, cifar100, digits, image_folder, mnist, split
from tests.cli.conftest import here


def refused(function, *args) -> str:
    with pytest.raises(InputError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestDigits:
    def test_as_scikit_learn_has_them(self):
        from sklearn.datasets import load_digits

        images, data = digits(), load_digits()
        assert images.pixels.shape == (1797, 1, 8, 8)
        assert images.labels.tolist() == data.target.tolist()
        np.testing.assert_allclose(images.pixels[:, 0].double().numpy() * 16 / 255, data.images, atol=0.04)

    def test_split_keeps_the_classes_shares(self):
        rest, held = split(digits(), 0.4, seed=3)
        assert len(rest) + len(held) == 1797
        share = torch.bincount(held.labels) / torch.bincount(digits().labels)
        assert torch.all((share - 0.4).abs() < 0.01)
        again, _ = split(digits(), 0.4, seed=3)
        other, _ = split(digits(), 0.4, seed=4)
        assert torch.equal(rest.pixels, again.pixels)
        assert not torch.equal(rest.pixels, other.pixels)


class TestMnist:
    @pytest.fixture
    def published(self, tmp_path, monkeypatch):
        """Seven training and four test images of 28 x 28 as if that were all of MNIST."""
        rng = np.random.default_rng(0)
        table, content = {}, {}
        for part, stem, n in (("train", "train", 7), ("test", "t10k", 4)):
            pixels, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8)
            plain = (
                (f"{stem}-images-idx3-ubyte", struct.pack(">4BIII", 0, 0, 8, 3, n, 28, 28) + pixels.tobytes()),
                (f"{stem}-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, n) + labels.tobytes()),
            )
            files = []
            for name, raw in plain:
                packed = gzip.compress(raw)
                (tmp_path / f"{name}.gz").write_bytes(packed)
                published = Published(f"{name}.gz", len(packed), hashlib.md5(packed).hexdigest())
                files.append((published, Published(name, len(raw), hashlib.md5(raw).hexdigest())))
                content[name] = raw
            table[part] = tuple(files)
            content[part] = (pixels, labels)
        monkeypatch.setattr(sources, "MNIST", table)
        return tmp_path, content

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("part", ["train", "test"])
    def test_reads_what_was_written(self, published, packed, part):
        folder, content = published
        if not packed:
            for path in folder.glob("*.gz"):
                path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
                path.unlink()
        images = mnist(folder, part)
        assert np.array_equal(images.pixels[:, 0].numpy(), content[part][0])
        assert np.array_equal(images.labels.numpy(), content[part][1])

    def test_a_changed_byte(self, published):
        path = published[0] / "train-images-idx3-ubyte.gz"
        raw = bytearray(path.read_bytes())
        raw[100] ^= 1
        path.write_bytes(raw)
        message = refused(mnist, published[0])
        assert "damaged" in message
        assert "MD5" in message

    def test_a_file_cut_short(self, published):
        path = published[0] / "train-labels-idx1-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-3])
        assert "bytes in place of" in refused(mnist, published[0])

    @pytest.mark.parametrize(
        "raw",
        [b"\0\0\x09\x01" + struct.pack(">I", 7) + bytes(7), b"\0\0\x08\x01" + struct.pack(">I", 6) + bytes(7)],
        ids=["type", "length"],
    )
    def test_a_header_that_does_not_fit(self, published, monkeypatch, raw):
        self.pretend(published[0], monkeypatch, 1, raw)
        assert "header" in refused(mnist, published[0])

    def test_labels_out_of_range(self, published, monkeypatch):
        self.pretend(published[0], monkeypatch, 1, struct.pack(">4BI", 0, 0, 8, 1, 7) + bytes([1, 2, 3, 11, 4, 5, 6]))
        assert "11 of 10 classes" in refused(mnist, published[0])

    def test_images_of_another_shape(self, published, monkeypatch):
        self.pretend(published[0], monkeypatch, 0, struct.pack(">4BIII", 0, 0, 8, 3, 7, 14, 56) + bytes(7 * 784))
        assert "do not fit" in refused(mnist, published[0])

    def pretend(self, folder, monkeypatch, which, raw):
        """As if these bytes were the training part's unpacked images (0) or labels (1), checksum and all."""
        files = list(sources.MNIST["train"])
        packed, unpacked = files[which]
        (folder / packed.name).unlink()
        (folder / unpacked.name).write_bytes(raw)
        files[which] = (packed, Published(unpacked.name, len(raw), hashlib.md5(raw).hexdigest()))
        monkeypatch.setattr(sources, "MNIST", sources.MNIST | {"train": tuple(files)})

    @pytest.mark.parametrize("which", [0, 1])
    def test_unpacked_zeros_of_the_right_size(self, published, which):
        packed, unpacked = sources.MNIST["train"][which]
        raw = gzip.decompress((published[0] / packed.name).read_bytes())
        (published[0] / packed.name).unlink()
        head = 16 if which == 0 else 8
        (published[0] / unpacked.name).write_bytes(raw[:head] + bytes(len(raw) - head))
        assert "MD5" in refused(mnist, published[0])

    def test_no_such_part(self, published):
        assert "part is valid; choose one of train, test" in refused(mnist, published[0], "valid")


def test_missing_mnist_says_where_and_what(tmp_path):
    message = refused(mnist, tmp_path)
    for words in (
        "https://",
        "train-images-idx3-ubyte.gz (9,912,422 bytes)",
        "t10k-labels-idx1-ubyte.gz (4,542 bytes)",
    ):
        assert words in message


CIFARS = pytest.mark.parametrize("which", ["CIFAR10", "CIFAR100"])
READ = {"CIFAR10": cifar10, "CIFAR100": cifar100}


class TestCifar:
    @pytest.fixture
    def published(self, tmp_path, monkeypatch, which):
        """A record of each class in a file, as if that were all; the archive in `packed`, the files in `plain`."""
        rng = np.random.default_rng(0)
        table = getattr(sources, which)
        head = table.labels
        packed, plain = tmp_path / "packed", tmp_path / "plain"
        packed.mkdir()
        plain.mkdir()
        content, parts, names = {}, {}, [f"class_{i}" for i in range(table.classes)]
        for part, files in table.parts.items():
            records = []
            for file in files:
                n = table.classes
                labels = np.stack([rng.permutation(n) for _ in range(head)], 1).astype(np.uint8)
                record = np.concatenate([labels, rng.integers(0, 256, (n, 3072), np.uint8)], 1)
                (plain / file.name).write_bytes(record.tobytes())
                records.append(record)
            content[part] = np.concatenate(records)
            parts[part] = tuple(Published(file.name, table.classes * (head + 3072)) for file in files)
        (plain / table.names).write_text("\n".join(names) + "\n\n")
        archive = packed / table.archive.name
        with tarfile.open(archive, "w:gz") as tar:
            for path in plain.iterdir():
                tar.add(path, f"{table.folder}/{path.name}")
        raw = archive.read_bytes()
        published = Published(table.archive.name, len(raw), hashlib.md5(raw).hexdigest())
        monkeypatch.setattr(sources, which, dataclasses.replace(table, archive=published, parts=parts))
        return packed, plain, content, names

    @CIFARS
    @pytest.mark.parametrize("part", ["train", "test"])
    @pytest.mark.parametrize("way", ["archive", "files", "folder"])
    def test_reads_what_was_written(self, published, which, part, way):
        packed, plain, content, names = published
        if way == "folder":
            plain = plain.rename(packed / getattr(sources, which).folder)
        images = READ[which](plain if way == "files" else packed, part)
        records = content[part]
        label = 0 if which == "CIFAR10" else 1
        assert images.labels.tolist() == records[:, label].tolist()
        assert images.classes == tuple(names)
        # The format: red, then green, then blue, each row by row.
        start = label + 1
        assert int(images.pixels[2, 1, 3, 5]) == records[2, start + 1024 + 3 * 32 + 5]
        assert np.array_equal(images.pixels[0].flatten().numpy(), records[0, start:])

    @CIFARS
    def test_a_file_cut_short(self, published, which):
        path = published[1] / getattr(sources, which).parts["test"][0].name
        path.write_bytes(path.read_bytes()[:-1])
        assert "bytes in place of" in refused(READ[which], published[1], "test")

    @CIFARS
    @pytest.mark.parametrize("how", ["zeros", "noise", "one label"])
    def test_another_content_of_the_right_size(self, published, which, how):
        table = getattr(sources, which)
        path = published[1] / table.parts["test"][0].name
        raw = bytearray(path.read_bytes())
        if how == "one label":
            length = table.labels + 3072
            raw[table.labels - 1] = raw[length + table.labels - 1]
        else:
            rng = np.random.default_rng(1)
            raw = bytes(len(raw)) if how == "zeros" else rng.integers(0, 256, len(raw), np.uint8).tobytes()
        path.write_bytes(raw)
        assert "damaged" in refused(READ[which], published[1], "test")

    @CIFARS
    def test_where_both_lie_the_archive_is_read(self, published, which):
        packed, plain, content, _ = published
        table = getattr(sources, which)
        (plain / table.archive.name).write_bytes((packed / table.archive.name).read_bytes())
        for file in table.parts["test"]:
            (plain / file.name).write_bytes(bytes(file.size))
        assert READ[which](plain, "test").labels.tolist() == content["test"][:, table.labels - 1].tolist()

    @CIFARS
    def test_either_is_found(self, published, which):
        for folder in published[:2]:
            assert cifar(folder, "test").source.startswith(getattr(sources, which).name + " test")

    @CIFARS
    def test_no_such_part(self, published, which):
        assert "choose one of train, test" in refused(READ[which], published[0], "valid")

    @CIFARS
    def test_a_changed_byte_of_the_archive(self, published, which):
        path = published[0] / getattr(sources, which).archive.name
        raw = bytearray(path.read_bytes())
        raw[-20] ^= 1
        path.write_bytes(raw)
        assert "MD5" in refused(READ[which], published[0])

    @CIFARS
    def test_labels_out_of_range(self, published, which):
        table = getattr(sources, which)
        path = published[1] / table.parts["test"][0].name
        raw = bytearray(path.read_bytes())
        raw[table.labels - 1] = 200
        path.write_bytes(raw)
        assert f"200 of {table.classes} classes" in refused(READ[which], published[1], "test")

    @CIFARS
    def test_an_archive_without_a_file(self, published, which, monkeypatch):
        table = getattr(sources, which)
        archive = published[0] / table.archive.name
        with tarfile.open(archive, "w:gz") as tar:
            info = tarfile.TarInfo(f"{table.folder}/readme.html")
            tar.addfile(info, io.BytesIO())
        raw = archive.read_bytes()
        other = Published(archive.name, len(raw), hashlib.md5(raw).hexdigest())
        monkeypatch.setattr(sources, which, dataclasses.replace(table, archive=other))
        assert f"{table.parts['train'][0].name} in it" in refused(READ[which], published[0])


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (cifar10, ("kriz/cifar-10-binary.tar.gz (170,052,171 bytes", "data_batch_5.bin (30,730,000 bytes)")),
        (cifar100, ("kriz/cifar-100-binary.tar.gz (168,513,733 bytes", "train.bin (153,700,000 bytes)")),
    ],
)
@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_missing_cifar_says_where_and_what(tmp_path, read, words, folder):
    message = refused(read, tmp_path / folder)
    assert all(word in message for word in words)
    assert "https://www.cs.toronto.edu/" in message


class TestFolder:
    def test_labels_are_folders(self, tmp_path):
        for name, colour in (("cats", (250, 10, 10)), ("dogs", (10, 10, 250))):
            (tmp_path / name).mkdir()
            for i, size in enumerate([(40, 24), (24, 60)]):
                Image.new("RGB", size, colour).save(tmp_path / name / f"{i}.png")
        images = image_folder(tmp_path, size=16)
        assert images.pixels.shape == (4, 3, 16, 16)
        assert images.labels.tolist() == [0, 0, 1, 1]
        assert images.classes == ("cats", "dogs")
        assert images.pixels[0, :, 8, 8].tolist() == [250, 10, 10]

    def test_cut_around_the_middle(self, tmp_path):
        wide = np.zeros((8, 24), np.uint8)
        wide[:, 8:16] = 200
        Image.fromarray(wide).save(tmp_path / "one.png")
        images = image_folder(tmp_path, size=8, colour=False)
        assert images.labels is None
        assert images.pixels.shape == (1, 1, 8, 8)
        assert bool((images.pixels == 200).all())

    def test_none(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no image")
        assert "no images" in refused(image_folder, tmp_path)
        assert "no folder" in refused(image_folder, tmp_path / "nowhere")

    def test_some_with_a_label(self, tmp_path):
        (tmp_path / "cats").mkdir()
        for path in (tmp_path / "a.png", tmp_path / "cats" / "b.png"):
            Image.new("L", (8, 8)).save(path)
        assert "a.png lies beside" in refused(image_folder, tmp_path)

    @pytest.mark.parametrize("how", ["cut", "text", "empty"])
    def test_damaged(self, tmp_path, how):
        path = tmp_path / "a.png"
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(noise).save(path)
        raw = path.read_bytes()
        path.write_bytes({"cut": raw[: len(raw) // 2], "text": b"not an image", "empty": b""}[how])
        assert "a.png: cannot be read as an image" in refused(image_folder, tmp_path)


def test_missing_data_is_exit_code_3(tmp_path):
    ended = here("reproduce", "fig3", "--size", "paper", "--data", tmp_path, cwd=tmp_path)
    assert ended.code == 3
    assert ended.err.count("\n") == 1
    assert "cifar-10-binary.tar.gz" in ended.err
