"""Decoding of photographs and JPEGs."""

from common.images.jpeg import decode_jpeg
from common.images.photographs import StoredImage, read_photograph

__all__ = ["StoredImage", "decode_jpeg", "read_photograph"]
