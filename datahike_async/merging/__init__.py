"""Three-way merges of database values: what to do on ours to take over what theirs has changed.

Pure code over three states, the base, ours and theirs. Nothing is written here, and nothing is
known of branches, commits or event loops. Its rooms, each of which knows those before it:
``report`` what is told, ``names`` which entity is which, ``changes`` what theirs changed,
``strategies`` who of two values wins, ``plan`` all of it.
"""
