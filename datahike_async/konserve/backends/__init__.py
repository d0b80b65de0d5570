"""The backends that come with the library: memory and file. Others are distributions of their own."""
