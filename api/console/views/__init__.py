"""Values that pages show: plain values made of records, without HTML. Templates only lay them out."""
