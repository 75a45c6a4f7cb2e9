"""The read side, always for one tenant: readings of a range by stream or page, and the latest of each tag.

readings      the queries
selection     what a caller may ask for, and the cursor of a page; pure
connections   a few connections per tenant, opened when they are needed
"""

from engine.query.readings import Latest, Readings, TagName
from engine.query.selection import Cursor

__all__ = ["Cursor", "Latest", "Readings", "TagName"]
