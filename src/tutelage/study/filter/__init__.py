"""What is kept of what was written: filters, duplicates, overlap, and an audit of the whole."""
