"""Detectors on a ResNet encoder."""

from bt_ray.detection.model.build import build_detector
from bt_ray.detection.model.detector import Detector

__all__ = ["Detector", "build_detector"]
