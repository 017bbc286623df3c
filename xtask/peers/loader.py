"""Loading with torch.utils.data and torchvision: the other side of `loader.rs`.

Workers persist between epochs, so that starting them is outside the clock. Digits are indexed a batch at a time,
which a DataLoader allows a dataset and which is many times faster than image by image.
"""

import os

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

WORKERS = 2
DIGITS = (0.1307, 0.3081)
PHOTOGRAPHS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Digits(Dataset):
    def __init__(self, tensors):
        self.pixels, self.labels = tensors["pixels"], tensors["labels"]

    def __len__(self):
        return len(self.pixels)

    def __getitems__(self, indices):
        mean, std = DIGITS
        images = self.pixels[indices].float().div_(255).sub_(mean).div_(std)
        return images, self.labels[indices]


class Files(Dataset):
    def __init__(self, folder, labels, transform):
        self.paths = [os.path.join(folder, f"{i:05}.jpg") for i in range(len(labels))]
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


class Epochs:
    def __init__(self, dataset, batch, collate, reference):
        self.reference = reference
        self.loader = DataLoader(
            dataset, batch, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True, collate_fn=collate
        )

    def run(self):
        last = None
        for images, _ in self.loader:
            last = images
        return last

    def check(self):
        return {"value": self.reference()}


def load(name, tensors, path):
    if name == "digits-in-memory":
        digits = Digits(tensors)
        return Epochs(digits, 128, lambda batch: batch, lambda: digits.__getitems__(list(range(128)))[0])
    from torchvision import transforms

    tail = [transforms.ToTensor(), transforms.Normalize(*PHOTOGRAPHS)]
    augment = transforms.Compose([transforms.RandomCrop(224), transforms.RandomHorizontalFlip(), *tail])
    plain = transforms.Compose([transforms.CenterCrop(224), *tail])
    folder, labels = path + ".pictures", tensors["labels"]
    shown = Files(folder, labels, plain)
    return Epochs(Files(folder, labels, augment), 32, None, lambda: torch.stack([shown[i][0] for i in range(32)]))
