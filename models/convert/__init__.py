"""Weights as other programs save them, to safetensors and a card, without running code from the file."""
