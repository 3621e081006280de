"""Scans as scanners write them: a file or folder of a known format becomes a `Scan`."""
from utils.io.scanners.formats import FORMATS, find_format, open_scan
from utils.io.scanners.scan import Scan

__all__ = ["FORMATS", "Scan", "find_format", "open_scan"]
