"""Made-up input at the two edges where strangers write: requests to the API, and bytes on the feeds."""
