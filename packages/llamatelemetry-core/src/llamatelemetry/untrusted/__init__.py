"""Files that somebody else wrote, read within bounds: what one could cost is known before anything is allocated.

Models, adapters and what stands beside them are downloaded, and every plugin that reads them owes the same care.
"""
