"""From where: columns of datoms, searches in indexes, and what references mean."""
