"""What comes out: rows shaped, ordered and grouped, and how they were found."""
