"""The colour statistics of ImageNet, which every pretrained backbone expects its input normalised by."""

# RGB, pixels in [0, 1]: torchvision's and PyTorch-Encoding's.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
