"""Heads: a backbone's stages → {"logits", …}, and the terms of the loss that they bring."""
