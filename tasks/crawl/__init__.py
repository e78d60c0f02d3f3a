"""Reads any site politely: HTTP client, pace, ledger, kept pages and lock."""
