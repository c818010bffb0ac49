"""Where images come from."""

from bt_ray.data.sources.names import open_source
from bt_ray.data.sources.source import Source, SourceImage

__all__ = ["Source", "SourceImage", "open_source"]
