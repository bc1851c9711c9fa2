"""Backbones: normalised images → {"c1", …, "c4"}, the outputs of four stages."""
