"""Expand the demo and train a small network on it: 200 real pictures become 1,200 in one line.

    python docs/train_on_demo.py

Copies are imagined the first time a batch asks for them and come from the cache afterwards (also when
`gif-datasets expand demo` has made them already), so the first epoch is the slow one.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.transforms import v2

from gif_datasets import DataLoader, ExpandedDataset


def main(source: str = "demo", ratio: int = 5, epochs: int = 4) -> None:
    to_tensor = v2.Compose([v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    expanded = ExpandedDataset(source, ratio=ratio, transform=to_tensor)
    print(f"{len(expanded)} samples of {len(expanded.classes)} classes")

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, len(expanded.classes)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    loader = DataLoader(expanded, batch_size=50, shuffle=True, num_workers=2)
    for epoch in range(1, epochs + 1):
        losses = []
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")


if __name__ == "__main__":
    main()
