"""One module per format in which events arrive; each ends in native event JSON for `decode_event`."""

from .mapping import MappingSpec
from .parcel import FormatParser, ParsedRecords, RawRecord
from .registry import FORMATS, create_parser

__all__ = ["FORMATS", "FormatParser", "MappingSpec", "ParsedRecords", "RawRecord", "create_parser"]
