"""bt_ray: Barlow Twins pretraining of image encoders on Ray."""

__version__ = "0.2.0"
