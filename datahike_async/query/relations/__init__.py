"""Columns: tables of variables, and how they are joined."""
