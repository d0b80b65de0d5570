"""The main job of the command line: this machine's Python packages as a database over time.

``packages`` reads the installed distributions, ``questions`` are the queries, ``run`` loads and
asks. Uses the public API alone, as an application would.
"""
