"""Names, units, types and buckets, each written once."""
