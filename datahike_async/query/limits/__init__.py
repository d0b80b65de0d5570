"""What a query may take: rows, bytes and time, and turns for others meanwhile."""
