"""The output of a run, independent of the contract: replies, events, text, receipts and recordings."""
