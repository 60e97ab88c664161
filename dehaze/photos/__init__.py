"""Reads and writes photos, each with all that its file holds.

Format, bit depth, greyness, transparency, EXIF, colour profile and compression of the source all
come back with the result.
"""

from dehaze.photos.atomic import discard_unfinished, write_bytes, writing
from dehaze.photos.conversion import ResultFile
from dehaze.photos.inputs import InputFiles, place_of, target_of
from dehaze.photos.kinds import PHOTO_SUFFIXES, UNSUPPORTED_SUFFIXES
from dehaze.photos.photo import Encoding, FileError, FloatArray, Photo, PhotoError, printable
from dehaze.photos.read import MAX_MEGAPIXELS, PhotoFile, open_bytes, open_photo, read_photo
from dehaze.photos.write import check_name, encode_photo, write_photo

__all__ = [
    "MAX_MEGAPIXELS",
    "PHOTO_SUFFIXES",
    "UNSUPPORTED_SUFFIXES",
    "Encoding",
    "FileError",
    "FloatArray",
    "InputFiles",
    "Photo",
    "PhotoError",
    "PhotoFile",
    "ResultFile",
    "check_name",
    "discard_unfinished",
    "encode_photo",
    "open_bytes",
    "open_photo",
    "place_of",
    "printable",
    "read_photo",
    "target_of",
    "write_bytes",
    "write_photo",
    "writing",
]
