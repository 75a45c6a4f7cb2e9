"""The read side, always for one tenant: readings of a range by stream or page, and the latest of each tag.

readings      the queries
gaps          intervals in which readings are missing
selection     what a caller may ask for, and the cursor of a page; pure
connections   a few connections per tenant, opened when they are needed
"""

from engine.query.gaps import GapPlace, ReadingGap, list_gaps
from engine.query.readings import Latest, Readings, TagName
from engine.query.selection import Cursor

__all__ = ["Cursor", "GapPlace", "Latest", "ReadingGap", "Readings", "TagName", "list_gaps"]
