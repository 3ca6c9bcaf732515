"""The REST door: an aiohttp facade over the one accept path of :mod:`landlord.tenants`."""
