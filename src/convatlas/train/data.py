"""What `convatlas train` learns from: digits that a package ships, Fashion-MNIST, or a folder of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, Subset, TensorDataset

from convatlas.errors import InputError
from convatlas.files import cache_folder, shown

DIGITS = 1437  # of the 1,797 digits the first are learned; the last 360 are held out
EVERY = 5  # of a folder without its own pictures for testing, one in five is held out


@dataclass(frozen=True)
class Data:
    """Pictures to learn and pictures that are held out, with the names of their classes.

    Attributes:
        train, test: datasets of (image, class number).
        classes: names.
        channels: of an image.
    """

    train: Dataset
    test: Dataset
    classes: tuple[str, ...]
    channels: int


def load(name: str, size: int) -> Data:
    """The data called "digits" or "fashion", or the folder of pictures at a path, scaled to `size` pixels where it is a folder.

    Raises InputError for a package that is missing, a download that fails, and a folder that is none or holds no classes.
    """
    if name == "digits":
        return _digits()
    return _fashion() if name == "fashion" else _folder(Path(name), size)


def _needs(package: str, module: str, what: str) -> None:
    if find_spec(module) is None:
        raise InputError(f'{what} needs the package {package}, which is not installed: pip install "convatlas[train]"')


def _normalised(x: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return (x - of.mean()) / of.std()


def _digits() -> Data:
    """scikit-learn's handwritten digits: 1,797 images of 8x8 pixels (Alpaydin, Kaynak 1998, UCI repository)."""
    _needs("scikit-learn", "sklearn", "--data digits")
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = torch.from_numpy(found.images).float()[:, None], torch.from_numpy(found.target).long()
    cut = DIGITS
    x = _normalised(x, x[:cut])
    names = tuple(map(str, range(10)))
    return Data(_Shifted(x[:cut], y[:cut]), TensorDataset(x[cut:], y[cut:]), names, 1)


class _Shifted(Dataset):
    """Images, each moved by up to a pixel each time, as hand-written digits lie differently. torch's generator says how far."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = F.pad(x, (1, 1, 1, 1), value=float(x.min())), y
        self.size = x.shape[-2:]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        (top, left), (height, width) = torch.randint(0, 3, (2,)).tolist(), self.size
        return self.x[i, :, top : top + height, left : left + width], self.y[i]


def _fashion() -> Data:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 70,000 images of 28x28, which torchvision downloads once."""
    _needs("torchvision", "torchvision", "--data fashion")
    from torchvision.datasets import FashionMNIST

    root = cache_folder("data")
    if root is None:
        raise InputError("--data fashion: no home folder to keep it in, expected CONVATLAS_CACHE to name a folder")
    try:
        parts = [FashionMNIST(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise InputError(f"--data fashion: cannot be downloaded to {shown(root)}: {error}") from None
    images = [part.data.float()[:, None] for part in parts]
    train, test = (TensorDataset(_normalised(x, images[0]), part.targets) for x, part in zip(images, parts))
    return Data(train, test, tuple(parts[0].classes), 1)


def _folder(path: Path, size: int) -> Data:
    """torchvision's ImageFolder: FOLDER/train/CLASS/PICTURE and FOLDER/val or test, or FOLDER/CLASS/PICTURE, of which one in five
    is held out.
    """
    _needs("torchvision", "torchvision", "a folder of pictures")
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    if not path.is_dir():
        raise InputError(f"--data {shown(path)}: no such folder, expected digits, fashion or a folder of pictures")
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    step = transforms.Compose([*steps, transforms.Normalize((0.5,) * 3, (0.25,) * 3)])

    def part(folder: Path) -> Any:
        try:
            return ImageFolder(folder, step)
        except FileNotFoundError as error:
            raise InputError(f"--data {shown(folder)}: {' '.join(str(error).split())}") from None

    held = [path / name for name in ("val", "test") if (path / name).is_dir()]
    if (path / "train").is_dir() and held:
        train, test = part(path / "train"), part(held[0])
        if train.classes != test.classes:
            raise InputError(f"--data {shown(path)}: classes of {held[0].name} are not those of train")
        return Data(train, test, tuple(train.classes), 3)
    every = part(path)
    indices = range(len(every))
    train, test = [i for i in indices if i % EVERY], [i for i in indices if i % EVERY == 0]
    return Data(Subset(every, train), Subset(every, test), tuple(every.classes), 3)
