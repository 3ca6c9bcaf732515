"""The command line. Commands are found by the entry-point group ``landlord.commands``."""
