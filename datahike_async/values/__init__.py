"""What a fact is made of: value types, their order, schema and datoms.

Pure: no coroutine, no I/O. May import edn and errors, nothing else of ours.
"""
