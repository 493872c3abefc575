"""One module per format in which events arrive; each ends in native event JSON for `decode_event`."""
