"""What one writes without this project: AlexNet with LRN on a folder of pictures, in plain PyTorch.

    python benchmarks/plain_script.py pictures weights.pt --epochs 2

pictures/{train,val,test}/CLASS/*.png, as torchvision lays them out: resized, cropped, scaled, in a DataLoader. Trains
with SGD, validates after every epoch, keeps the best weights, tests them, and prints one line of JSON.
benchmarks/end_to_end.py holds `alexnet-lab train` against it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SIDE = 227
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures(Dataset[tuple[Tensor, int]]):
    """The pictures of one part, each with the number of its class."""

    def __init__(self, folder: Path) -> None:
        classes = sorted(path.name for path in folder.iterdir())
        self.paths = [(path, classes.index(path.parent.name)) for path in sorted(folder.glob("*/*"))]
        self.classes = len(classes)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.paths)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        """Return pixels, 3 S S, and class."""
        path, label = self.paths[at]
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        shorter = min(picture.size)
        width, height = (round(side * SIDE / shorter) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        picture = picture.crop((left, top, left + SIDE, top + SIDE))
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SPREAD).view(3, 1, 1), label


def alexnet(classes: int) -> nn.Sequential:
    """Return AlexNet in one tower, 62 million parameters at 1000 classes."""

    def lrn() -> nn.LocalResponseNorm:
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    def convolution(inputs: int, outputs: int, side: int, **more: int) -> Sequence[nn.Module]:
        return nn.Conv2d(inputs, outputs, side, **more), nn.ReLU(inplace=True)

    return nn.Sequential(
        *convolution(3, 96, 11, stride=4),
        lrn(),
        nn.MaxPool2d(3, 2),
        *convolution(96, 256, 5, padding=2),
        lrn(),
        nn.MaxPool2d(3, 2),
        *convolution(256, 384, 3, padding=1),
        *convolution(384, 384, 3, padding=1),
        *convolution(384, 256, 3, padding=1),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, classes),
    )


@torch.no_grad()
def accuracy(network: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """Return the share of pictures that the network gets right."""
    network.eval()
    hits = [(network(x).argmax(1) == y).float() for x, y in loader]
    return float(torch.cat(hits).mean())


def main() -> None:
    """Train, test, and print seconds of training and accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="processes of each DataLoader")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    parts = {part: Pictures(arguments.pictures / part) for part in ("train", "val", "test")}
    loaders = {
        part: DataLoader(
            pictures,
            batch_size=arguments.batch_size,
            shuffle=part == "train",
            drop_last=part == "train",
            num_workers=arguments.workers,
        )
        for part, pictures in parts.items()
    }
    network = alexnet(parts["train"].classes)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
    best, seconds = -1.0, 0.0
    for _ in range(arguments.epochs):
        began = time.perf_counter()
        network.train()
        for x, y in loaders["train"]:
            optimiser.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimiser.step()
        seconds += time.perf_counter() - began
        validation = accuracy(network, loaders["val"])
        if validation > best:
            best = validation
            torch.save(network.state_dict(), arguments.weights)
    network.load_state_dict(torch.load(arguments.weights, weights_only=True))
    tested = accuracy(network, loaders["test"])
    print(json.dumps({"train_seconds": seconds, "validation": best, "test": tested}))


if __name__ == "__main__":
    main()
