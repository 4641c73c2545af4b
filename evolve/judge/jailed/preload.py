"""Imported once by the jail's server, so that no child pays for it. Starts no thread: threads do not survive a fork."""
