"""persistent-set, the default index: a copy-on-write tree with columnar leaves.

What all indexes share (columns, runs, codec, protocol) lies beside this folder and knows nothing
of it; only the registry does.
"""
