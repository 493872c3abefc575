"""Tests: folders mirror the product; `support` holds what test modules of several folders share."""
