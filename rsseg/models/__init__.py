"""Tensors in, logits out.

Images and a boolean valid map per modality become logits, and invalid pixels can change nothing.
"""
