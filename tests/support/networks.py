"""Networks for tests of the surgery: the paper's three at small widths, and a small one unlike them."""

from functools import partial
from math import prod

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from rdnlib import RDN, deepen, to_rdn
from rdnlib.graph.refusals import NORMS
from rdnlib.models import mobilenet_v2, mobilenext, resnext50


def settle_norms(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Give batch norms the statistics of `images` and non-trivial scales, so that no layer is an identity in tests."""
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
        norm.momentum = None
    model.train()
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


class Toy(nn.Module):
    """Stem 3→4 (3×3), one pointwise 4→8, one depthwise 8, one pointwise 8→4, classifier 4→2; images of 4×4."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.up, self.act = nn.Conv2d(4, 8, 1, bias=False), nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.down = nn.Conv2d(8, 4, 1, bias=False)
        self.pool, self.flatten, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)

    def forward(self, x):
        x = self.depthwise(self.act(self.up(self.stem(x))))
        return self.classifier(self.flatten(self.pool(self.down(x))))


class LinearNet(nn.Module):
    """1×1 and 3×3 convolutions without activation: here counterpart + completion must give the super-net exactly."""

    def __init__(self, depth: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.Sequential(*(nn.Conv2d(8, 8, 3, 1, 1, bias=False) for _ in range(depth)))
        self.pool, self.flatten, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)

    def forward(self, x):
        return self.classifier(self.flatten(self.pool(self.body(self.stem(x)))))


class Mixed(nn.Module):
    """3×3 convolutions with bias, uneven channels, a residual, a gate, squeeze-and-excitation, a grouped convolution that widens,
    pooling, functions and methods instead of modules, work in place, and a hidden Linear behind flattened positions."""

    def __init__(self, width: int = 13):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 11, 3, 2, 1), nn.ReLU())
        self.first = nn.Sequential(
            nn.Conv2d(11, width, 3, 1, "same", bias=True), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 7, 1), nn.SiLU(), nn.Conv2d(7, width, 1), nn.Sigmoid()
        )
        self.third = nn.Sequential(nn.Conv2d(width, 18, 3, 2, 1), nn.Conv2d(18, 27, 3, 1, 1, groups=9), nn.Tanh())
        self.excite = SqueezeExcitation(27, 6, activation=nn.SiLU)  # a dead ReLU would have no gradient
        self.fourth = nn.Conv2d(27, 15, 1)
        self.hidden, self.norm = nn.Linear(15 * 4, 12), nn.BatchNorm1d(12)
        self.classifier = nn.Linear(12, 6)

    def forward(self, x):
        x = self.first(self.stem(x))
        y = self.second(x) * self.gate(x)
        y += 0.5 * x
        x = self.excite(self.third(y))
        x = F.adaptive_avg_pool2d(F.hardswish(self.fourth(x)), 2)
        x = x.view(x.size(0), -1)
        return self.classifier(self.norm(self.hidden(x)).tanh())


DEPTH = {"mobilenext": {"depth_mult": 0.5}}  # enough blocks of every kind; a network of all of them takes twice as long
# name → (builder of a width and number of classes, its widths, its choices of plain layers)
NETWORKS = {
    "mobilenext": (
        partial(mobilenext, **DEPTH["mobilenext"]),
        (0.2, 0.25, 0.35),
        (None, (), ("stem", "blocks.0", "blocks.1", "blocks.4")),
    ),
    "mobilenet_v2": (mobilenet_v2, (0.25, 0.35), (None, (), ("features.0", "features.6"))),
    "resnext50": (resnext50, (0.25,), (None, (), ("conv1", "layer1", "layer2"))),
    "mixed": (lambda *, width_mult, num_classes: Mixed(round(13 * width_mult)), (0.5, 1.0, 1.3), (None, ("first",))),
}
FITTING_WIDTH = {name: widths[-1] for name, (_, widths, _) in NETWORKS.items()}


def describe_model(name: str) -> dict:
    """What a checkpoint says of the network that `build` makes."""
    return {"name": name, "width_mult": FITTING_WIDTH[name], "num_classes": 6, **DEPTH.get(name, {})}


def build(name: str, images, *, width: float | None = None, seed: int = 0) -> nn.Module:
    """A network with settled batch norms and six classes."""
    torch.manual_seed(seed)
    builder, widths, _ = NETWORKS[name]
    return settle_norms(builder(width_mult=width or widths[-1], num_classes=6), images)


def randomise(rdn: RDN, seed: int) -> RDN:
    """Weights and statistics far from their initial values, new groups unlike their counterparts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rdn.parameters():
            parameter.mul_(0.75 + 0.5 * torch.rand(parameter.shape, generator=generator))
    return rdn


def make(name: str, images, *, k=4, select="random", init="copy", plain=None, width=None, seed=0, align=None) -> RDN:
    model = build(name, images, width=width, seed=seed)
    rdn = to_rdn(model, k, select=select, init=init, calibration=images, plain=plain, seed=seed, align=align)
    return randomise(rdn, seed)


def slim(model: nn.Module) -> nn.Module:
    """AlexNet and VGG with small hidden Linear layers: the same graph without their hundred million weights."""
    linears = [i for i, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
    first, second, last = (model.classifier[i] for i in linears)
    first, second = nn.Linear(first.in_features, 40), nn.Linear(40, 40)
    for i, layer in zip(linears, (first, second, nn.Linear(40, last.out_features)), strict=True):
        model.classifier[i] = layer
    return model


def grid_of(name, images, *, fitted=False, seed=0, **settings):
    deep = deepen(make(name, images, seed=seed, **settings), calibration=images if fitted else None, seed=seed)
    return deep if fitted else randomise(deep, seed)


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network of the meta device numbers: normal weights that keep the size of the features, batch norms that do nothing.

    Much faster than torchvision's own initialisation, which draws from truncated normal distributions.
    """
    generator = torch.Generator().manual_seed(seed)
    model = model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, NORMS):
            module.reset_parameters()
            continue
        for parameter in module.parameters(recurse=False):
            fan_in = prod(parameter.shape[1:])
            parameter.normal_(0, (2 / fan_in) ** 0.5, generator=generator) if parameter.ndim > 1 else parameter.zero_()
    return model
