"""A ResNet in plain PyTorch, after the published architecture and with its parameter names.

The deep stem, and the dilations of a dilated stage, are PyTorch-Encoding's; the v1c stem is mmsegmentation's.
What needs it is skipped where PyTorch is not installed.
"""

import pytest

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def _networks(torch):
    nn = torch.nn

    def conv(inputs, outputs, size, stride=1, dilation=1):
        padding = dilation * (size - 1) // 2
        return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, planes, stride, first, dilation, bottleneck):
            super().__init__()
            self.bottleneck = bottleneck
            outputs = planes * (4 if bottleneck else 1)
            if bottleneck:
                self.conv1 = conv(inputs, planes, 1)
                self.conv2 = conv(planes, planes, 3, stride, first)
                self.conv3, self.bn3 = conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
            else:
                self.conv1 = conv(inputs, planes, 3, stride, first)
                self.conv2 = conv(planes, planes, 3, 1, dilation)
            self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
            self.downsample = nn.Sequential()
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if self.bottleneck:
                y = self.bn3(self.conv3(torch.relu(y)))
            return torch.relu(y + self.downsample(x))

    class ResNet(nn.Module):
        def __init__(self, name, width=4, stem="plain", output_stride=32, multi_grid=()):
            super().__init__()
            bottleneck = name != "resnet18"
            if stem == "plain":
                self.conv1, channels = nn.Conv2d(3, width, 7, 2, 3, bias=False), width
                self.bn1 = nn.BatchNorm2d(channels)
            elif stem == "v1c":
                self.stem, channels = self.deep_stem(width // 2), width
                self.stem.extend([nn.BatchNorm2d(width), nn.ReLU()])
            else:
                self.conv1, channels = self.deep_stem(width), 2 * width
                self.bn1 = nn.BatchNorm2d(channels)
            stride_so_far, dilation = 4, 1
            for stage, depth in enumerate(DEPTHS[name]):
                planes, stride, first = width * 2**stage, 1 if stage == 0 else 2, dilation
                if stride_so_far * stride > output_stride:
                    dilation, stride = dilation * stride, 1
                stride_so_far *= stride
                blocks = []
                for i in range(depth):
                    grid = multi_grid[i] if multi_grid and stage == 3 else (first if i == 0 else dilation)
                    block = Block(channels, planes, stride if i == 0 else 1, grid, dilation, bottleneck)
                    blocks.append(block)
                    channels = planes * (4 if bottleneck else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

        @staticmethod
        def deep_stem(width):
            return nn.Sequential(
                conv(3, width, 3, 2),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                conv(width, width, 3),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                conv(width, 2 * width, 3),
            )

        def forward(self, x):
            x = self.stem(x) if hasattr(self, "stem") else torch.relu(self.bn1(self.conv1(x)))
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            stages = {}
            for i in (1, 2, 3, 4):
                stages[f"c{i}"] = x = getattr(self, f"layer{i}")(x)
            return stages

    return ResNet


@pytest.fixture(scope="session")
def torch_resnet():
    """A function: options → the network in evaluation mode, its batch norms moved from their start."""
    torch = pytest.importorskip("torch")
    network_class = _networks(torch)

    def make(name="resnet18", **options):
        torch.manual_seed(0)
        network = network_class(name, **options).eval()
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.dim() == 1:
                tensor.data = 1 + 0.3 * torch.rand_like(tensor)
        return network

    return make
