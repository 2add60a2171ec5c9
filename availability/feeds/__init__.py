"""Stock events on their way in: decoding, taking them to the ledger, and the consumer of the stream ``STOCK``."""
