"""One module per format in which events arrive; each ends in native event JSON for `decode_event`."""

from .mapping import MappingSpec
from .parcel import Parcel, Parsed, Parser
from .registry import FORMATS, parser_of

__all__ = ["FORMATS", "MappingSpec", "Parcel", "Parsed", "Parser", "parser_of"]
