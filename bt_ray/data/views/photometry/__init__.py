"""Photometry of a whole batch of views in one pass, on any device, as Pillow does it."""

from bt_ray.data.views.photometry.apply import apply_photometry
from bt_ray.data.views.photometry.table import tabulate

__all__ = ["apply_photometry", "tabulate"]
