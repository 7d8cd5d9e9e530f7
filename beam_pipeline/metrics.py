"""Every metric's name, unit and meaning. Names alone: the counters stand beside the work they count."""

NAMESPACE = "beam_embed"

READ = "rows_read"  # rows of the input, before duplicates are taken out
EMBEDDED = "images_embedded"  # embedding rows written into a part
FAILED = "images_failed"  # failure rows recorded in a part
SHARDS_COMMITTED = "shards_committed"  # parts that this attempt put under their final name
SHARDS_FOUND = "shards_found"  # parts that were there already: a retry, a restart, another attempt
FETCHED_BYTES = "fetched_bytes"  # bytes of encoded pictures read
