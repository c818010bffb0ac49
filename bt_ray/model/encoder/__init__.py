"""Encoders: small ones of our own, torchvision's, timm's, and a user's own from code."""

from bt_ray.model.encoder.build import build_encoder

__all__ = ["build_encoder"]
