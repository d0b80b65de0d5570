"""The writer: one actor a branch, which applies transactions in order and makes them durable.

Enter: messages, through the bounded mailbox; each gets exactly one reply. ``committer`` publishes
(and finds out how a publication went), ``transactor`` is the actor, ``sharing`` gives one actor to
all connections of an event loop, ``listeners`` calls back after a commit.
"""
