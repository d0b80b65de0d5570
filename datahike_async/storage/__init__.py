"""What lies in the store and how it gets there: heads, log records, packs of index nodes.

Rooms: ``nodes``, ``log``, ``branches``; ``keys`` says under which keys everything lies.

Enter: snapshots and trees to be written, stores of konserve to write them to. Only connection and
transactor look in here; everything below them sees a ``NodeSource``. konserve's errors end here:
``translate`` turns them into ours.
"""
