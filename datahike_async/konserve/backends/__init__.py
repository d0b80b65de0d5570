"""The backends that come with the library: memory and file. Others are packages of their own."""
